/* SPDX-License-Identifier: MIT */
/*
 * compact.c - keep chains of layers short
 *
 * The worker merges the chain (qcow2/merge.h). The new file takes the old one's name by rename(2), and a crash may come anywhere:
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
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "snap/qcow2/merge.h"
#include "snap/store_priv.h"
#include "snap/sums.h"
#include "util/io.h"
#include "util/log.h"

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

static int step(void *arg, unsigned permille)
{
	struct compact *compact = arg;
	struct progress *progress = compact->progress;

	if (!progress)
		return 0;
	atomic_store(&progress->permille, permille);
	return atomic_load(&progress->cancel) ? err_set(&compact->err, -ECANCELED, "cancelled") : 0;
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
	rc = chain_open(store->layers_fd, file, false, &chain, &compact->err);
	if (rc)
		goto out;
	fd = openat(dir_fd, file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0) {
		rc = err_sys(&compact->err, -errno, "cannot create a merged layer");
		goto out;
	}
	rc = qcow2_merge(chain, fd, step, compact, &compact->err);
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
	DIR *dir = opendir_at(store->sums_fd, ".");
	struct dirent *entry;

	if (!dir)
		return;
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
