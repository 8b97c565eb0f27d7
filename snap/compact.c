/* SPDX-License-Identifier: MIT */
/*
 * compact.c - keep chains of layers short
 *
 * The worker reads the disk through the chain and writes one qcow2 file with every cluster that a layer above
 * the bottom has, laid out front to back: header, refcount table, refcount blocks, L1 table, L2 tables, data.
 *
 * The new file takes the old one's name by rename(2), and a crash may come anywhere:
 *
 *   1. worker: the new file's checksums are synced as sums/FILE.next
 *   2. loop: the new file is renamed to layers/FILE
 *   3. background: layers/ is synced, then sums/FILE.next is renamed to sums/FILE
 *
 * A layer is sound if either checksums fit it (sums.c), so there is no moment without the right ones. Opening
 * a store finishes step 3, or drops the checksums of a file that never got its place.
 */
#include "snap/compact.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "snap/qcow2/format.h"
#include "snap/qcow2/header.h"
#include "snap/store_priv.h"
#include "snap/sums.h"
#include "util/io.h"
#include "util/log.h"

enum { REFS_PER_BLOCK = QCOW2_CLUSTER / sizeof(uint16_t), POINTERS = QCOW2_CLUSTER / sizeof(uint64_t) };

struct compact {
	struct store *store;
	struct progress *progress;
	struct layer *layer; /* a reference */
	bool sealed;         /* it has checksums on disk, so the new file needs some */
	char draft[ID_SIZE]; /* directory in tmp/ with the new file */
	struct err err;      /* the worker's */
};

static void compact_free(struct compact *compact)
{
	compact->store->compacting = false;
	layer_unref(compact->layer);
	free(compact);
}

int compact_begin(struct store *store, unsigned max_depth, struct progress *progress, struct compact **ret,
		  struct err *err)
{
	struct layer *layer, *best = NULL;
	struct compact *compact;
	int rc;

	*ret = NULL;
	if (store->compacting)
		return 0;
	list_for_each (layer, &store->layers, link)
		if (layer->frozen && layer_depth(layer) > 1 && layer_depth(layer) >= max_depth &&
		    (!best || layer_depth(layer) < layer_depth(best)))
			best = layer;
	if (!best)
		return 0;
	compact = calloc(1, sizeof(*compact));
	if (!compact)
		return err_set(err, -ENOMEM, "out of memory");
	rc = id_make(compact->draft);
	if (rc) {
		free(compact);
		return err_sys(err, rc, "cannot get random numbers");
	}
	compact->store = store;
	compact->progress = progress;
	compact->layer = layer_ref(best);
	compact->sealed = best->sealed;
	store->compacting = true;
	*ret = compact;
	return 0;
}

/* ---- writing the merged file, on a worker */

/* Where things go in it; all in clusters. */
struct merge {
	struct compact *compact;
	struct chain *chain;
	int fd;
	uint64_t nclusters;                /* of the disk */
	uint64_t l1_entries, tables, data; /* how many */
	bool *has_table;                   /* of every L1 entry */
	uint64_t reftable, refblocks, l1;  /* where: the reftable is cluster 1 and has as many as it says */
	uint64_t nreftable, nrefblocks;
	uint64_t next_table, next_data; /* where the next one goes */
	uint64_t total;
	uint64_t *table; /* scratch: an L2 table */
	uint8_t *block;  /* scratch: a cluster */
};

static int advance(const struct merge *merge, uint64_t cluster)
{
	struct progress *progress = merge->compact->progress;

	if (!progress)
		return 0;
	atomic_store(&progress->permille, (unsigned)(cluster * 1000 / merge->nclusters));
	return atomic_load(&progress->cancel) ? err_set(&merge->compact->err, -ECANCELED, "cancelled") : 0;
}

/* Count what the file will hold, and lay it out. */
static int plan(struct merge *merge)
{
	uint64_t fixed;
	int rc;

	for (uint64_t i = 0; i < merge->nclusters; i++) {
		rc = chain_map(merge->chain, i, &merge->compact->err);
		if (rc < 0)
			return rc;
		if (rc == CHAIN_DATA)
			merge->data++;
		if (rc != CHAIN_BOTTOM && !merge->has_table[i / QCOW2_L2_ENTRIES]) {
			merge->has_table[i / QCOW2_L2_ENTRIES] = true;
			merge->tables++;
		}
	}
	/* Refcount blocks count themselves too: add until they suffice. */
	fixed = 1 + 1 + merge->tables + merge->data; /* header, L1 table */
	merge->nreftable = merge->nrefblocks = 1;
	for (;;) {
		merge->total = fixed + merge->nreftable + merge->nrefblocks;
		if (merge->nrefblocks * REFS_PER_BLOCK < merge->total)
			merge->nrefblocks++;
		else if (merge->nreftable * POINTERS < merge->nrefblocks)
			merge->nreftable++;
		else
			break;
	}
	merge->reftable = 1;
	merge->refblocks = merge->reftable + merge->nreftable;
	merge->l1 = merge->refblocks + merge->nrefblocks;
	merge->next_table = merge->l1 + 1;
	merge->next_data = merge->next_table + merge->tables;
	return 0;
}

static int put(const struct merge *merge, const void *data, size_t n, uint64_t offset)
{
	int rc = pwrite_all(merge->fd, data, n, offset);

	return rc ? err_sys(&merge->compact->err, rc, "cannot write a merged layer") : 0;
}

static int put_refcounts(const struct merge *merge)
{
	uint16_t *refs = (uint16_t *)(void *)merge->block;
	int rc = 0;

	for (uint64_t i = 0; !rc && i < merge->nrefblocks; i++) {
		uint64_t pointer = htobe64((merge->refblocks + i) * QCOW2_CLUSTER);

		for (uint64_t k = 0; k < REFS_PER_BLOCK; k++)
			refs[k] = htobe16(i * REFS_PER_BLOCK + k < merge->total ? 1 : 0);
		rc = put(merge, refs, QCOW2_CLUSTER, (merge->refblocks + i) * QCOW2_CLUSTER);
		if (!rc)
			rc = put(merge, &pointer, sizeof(pointer),
				 merge->reftable * QCOW2_CLUSTER + i * sizeof(pointer));
	}
	return rc;
}

/* One cluster of the disk: its data, if a layer has some, and *ret_entry for it. */
static int put_cluster(struct merge *merge, uint64_t cluster, uint64_t *ret_entry)
{
	uint64_t offset = cluster * QCOW2_CLUSTER, left = chain_size(merge->chain) - offset;
	size_t n = left < QCOW2_CLUSTER ? (size_t)left : QCOW2_CLUSTER;
	int rc = chain_map(merge->chain, cluster, &merge->compact->err);

	*ret_entry = rc == CHAIN_ZERO ? htobe64(QCOW2_ZERO_FLAG) : 0;
	if (rc != CHAIN_DATA)
		return rc < 0 ? rc : 0;
	rc = chain_read(merge->chain, merge->block, n, offset, &merge->compact->err);
	if (rc)
		return rc;
	memset(merge->block + n, 0, QCOW2_CLUSTER - n);
	*ret_entry = htobe64(merge->next_data * QCOW2_CLUSTER | QCOW2_COPIED);
	return put(merge, merge->block, QCOW2_CLUSTER, merge->next_data++ * QCOW2_CLUSTER);
}

static int put_table(struct merge *merge, uint64_t l1_index)
{
	const uint64_t first = l1_index * QCOW2_L2_ENTRIES;
	const uint64_t pointer = htobe64(merge->next_table * QCOW2_CLUSTER | QCOW2_COPIED);
	int rc = 0;

	memset(merge->table, 0, QCOW2_CLUSTER);
	for (uint64_t i = 0; !rc && i < QCOW2_L2_ENTRIES && first + i < merge->nclusters; i++) {
		rc = put_cluster(merge, first + i, &merge->table[i]);
		if (!rc && i % 256 == 0)
			rc = advance(merge, first + i);
	}
	if (!rc)
		rc = put(merge, merge->table, QCOW2_CLUSTER, merge->next_table++ * QCOW2_CLUSTER);
	if (!rc)
		rc = put(merge, &pointer, sizeof(pointer),
			 merge->l1 * QCOW2_CLUSTER + l1_index * sizeof(pointer));
	return rc;
}

static int put_header(const struct merge *merge)
{
	const char *bottom = chain_file(merge->chain, chain_length(merge->chain) - 1);
	const struct qcow2_layout layout = {
		.size = chain_size(merge->chain),
		.backing = bottom,
		.backing_format = id_valid(bottom, ".raw") ? "raw" : "qcow2",
		.reftable_offset = merge->reftable * QCOW2_CLUSTER,
		.reftable_clusters = (uint32_t)merge->nreftable,
		.l1_offset = merge->l1 * QCOW2_CLUSTER,
	};

	return qcow2_write_header(merge->fd, &layout, &merge->compact->err);
}

static int write_merged(struct compact *compact, struct chain *chain, int fd)
{
	struct merge merge = {
		.compact = compact,
		.chain = chain,
		.fd = fd,
		.nclusters = (chain_size(chain) + QCOW2_CLUSTER - 1) / QCOW2_CLUSTER,
		.l1_entries = QCOW2_L1_ENTRIES(chain_size(chain)),
	};
	int rc = -ENOMEM;

	merge.has_table = calloc(merge.l1_entries, sizeof(*merge.has_table));
	merge.table = malloc(QCOW2_CLUSTER);
	merge.block = malloc(QCOW2_CLUSTER);
	if (!merge.has_table || !merge.table || !merge.block) {
		err_set(&compact->err, rc, "out of memory");
		goto out;
	}
	rc = plan(&merge);
	if (!rc)
		rc = put_header(&merge);
	if (!rc)
		rc = put_refcounts(&merge);
	for (uint64_t i = 0; !rc && i < merge.l1_entries; i++)
		if (merge.has_table[i])
			rc = put_table(&merge, i);
	if (!rc && (ftruncate(fd, (off_t)(merge.total * QCOW2_CLUSTER)) < 0 || fsync(fd) < 0))
		rc = err_sys(&compact->err, -errno, "cannot write a merged layer");
out:
	free(merge.has_table);
	free(merge.table);
	free(merge.block);
	return rc;
}

/* Step 1: sums/FILE.next for the new file, which is FILE in dir_fd. */
static int prepare_sums(struct compact *compact, int dir_fd)
{
	struct store *store = compact->store;
	const char *file = compact->layer->file;
	char next[SUMS_NEXT_MAX];
	int sums = open_dir_at(dir_fd, "sums"), rc;

	if (sums < 0)
		return err_sys(&compact->err, sums, "cannot write the checksums of a merged layer");
	rc = sums_write(dir_fd, file, sums, store->tmp_fd, &compact->err);
	sums_next_name(file, next);
	if (!rc && (renameat(sums, file, store->sums_fd, next) < 0 || fsync(store->sums_fd) < 0))
		rc = err_sys(&compact->err, -errno, "cannot write the checksums of a merged layer");
	close(sums);
	return rc;
}

int compact_run(struct compact *compact)
{
	struct store *store = compact->store;
	const char *file = compact->layer->file;
	int dir_fd = open_dir_at(store->tmp_fd, compact->draft), fd = -1, rc;
	struct chain *chain = NULL;

	if (dir_fd < 0)
		return err_sys(&compact->err, dir_fd, "cannot create a directory for a merged layer");
	rc = chain_open(store->layers_fd, file, &chain, &compact->err);
	if (rc)
		goto out;
	fd = openat(dir_fd, file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0) {
		rc = err_sys(&compact->err, -errno, "cannot create a merged layer");
		goto out;
	}
	rc = write_merged(compact, chain, fd);
	if (!rc && compact->sealed)
		rc = prepare_sums(compact, dir_fd);
out:
	if (fd >= 0)
		close(fd);
	chain_free(chain);
	close(dir_fd);
	return rc;
}

/* ---- and back on the loop */

/* Step 3, in the background and after layers/ was synced. */
struct finish {
	struct store *store;
	char file[LAYER_FILE_MAX];
};

static void finish_sums(void *arg)
{
	struct finish *finish = arg;
	struct store *store = finish->store;
	char next[SUMS_NEXT_MAX];

	sums_next_name(finish->file, next);
	if (!atomic_load(&store->sync_failed) &&
	    renameat(store->sums_fd, next, store->sums_fd, finish->file) < 0 && errno != ENOENT)
		log_warn("cannot rename the checksums %s: %s", next, strerror(errno));
	free(finish);
}

static int swap(struct compact *compact, struct err *err)
{
	struct store *store = compact->store;
	struct layer *layer = compact->layer, *bottom = layer->base;
	char path[ID_SIZE + LAYER_FILE_MAX];
	struct finish *finish = malloc(sizeof(*finish));

	if (!finish)
		return err_set(err, -ENOMEM, "out of memory");
	snprintf(path, sizeof(path), "%s/%s", compact->draft, layer->file);
	if (renameat(store->tmp_fd, path, store->layers_fd, layer->file) < 0) {
		free(finish);
		return err_sys(err, -errno, "cannot put a merged layer in its place");
	}
	while (bottom->base)
		bottom = bottom->base;
	/* Already at depth 1 it would not have been chosen, so nothing is there yet. */
	layer->former = layer->base;
	layer->former->children--;
	layer->base = layer_ref(bottom);
	bottom->children++;
	layer->checked = false;

	store_sync_later(store, store->layers_fd);
	finish->store = store;
	memcpy(finish->file, layer->file, sizeof(finish->file));
	if (compact->sealed)
		background_run(store->background, finish_sums, finish);
	else
		free(finish);
	return 0;
}

int compact_end(struct compact *compact, int result, struct err *err)
{
	struct store *store = compact->store;
	char next[SUMS_NEXT_MAX];
	int rc = result ? err_set(err, result, "%s", compact->err.text) : 0;

	/* Somebody makes, or has made, checksums of the old file: they would not fit the new one. */
	if (!rc && !compact->sealed && (compact->layer->sealed || !list_empty(&store->pins)))
		rc = err_set(err, -EAGAIN, "layer %s is being saved", compact->layer->file);
	if (!rc)
		rc = swap(compact, err);
	if (rc && compact->sealed) {
		sums_next_name(compact->layer->file, next);
		store_discard(store, store->sums_fd, next);
	}
	store_discard(store, store->tmp_fd, compact->draft);
	compact_free(compact);
	return rc;
}

/* ---- after a crash */

void compact_recover(struct store *store)
{
	int fd = openat(store->sums_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((entry = readdir(dir))) {
		char file[LAYER_FILE_MAX], next[SUMS_NEXT_MAX];

		snprintf(file, sizeof(file), "%.*s", (int)sizeof(file) - 1, entry->d_name);
		sums_next_name(file, next);
		if (strcmp(entry->d_name, next) != 0)
			continue;
		if (sums_next_fit(store->layers_fd, file, store->sums_fd) &&
		    !renameat(store->sums_fd, next, store->sums_fd, file)) {
			log_info("finished the replacement of layer %s", file);
			continue;
		}
		log_info("removed %s of an unfinished compaction", next);
		unlinkat(store->sums_fd, next, 0);
	}
	closedir(dir);
}

void compact_settle(struct store *store)
{
	struct layer *layer;
	bool again = list_empty(&store->pins);

	/* Letting go of one may free others, so the list is walked anew each time. */
	while (again) {
		again = false;
		list_for_each (layer, &store->layers, link) {
			struct layer *former = layer->former;

			if (!former)
				continue;
			layer->former = NULL;
			layer_unref(former);
			again = true;
			break;
		}
	}
}
