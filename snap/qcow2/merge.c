/* SPDX-License-Identifier: MIT */
/*
 * merge.c - the layers of a chain above its bottom as one file
 *
 * It has every cluster that a layer above the bottom has, laid out front to back: header, refcount table,
 * refcount blocks, L1 table, L2 tables, data.
 */
#include "snap/qcow2/merge.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "snap/qcow2/chain_priv.h"
#include "snap/qcow2/create.h"
#include "snap/qcow2/format.h"
#include "util/io.h"

/* Where things go in the file; all in clusters. The refcount table is cluster 1, and refcount blocks follow. */
enum { REFTABLE = 1, REFBLOCKS = 2 };

struct merge {
	struct chain *chain;
	int fd;
	int (*step)(void *arg, unsigned permille);
	void *arg;
	struct err *err;
	uint64_t nclusters;                /* of the disk */
	uint64_t l1_entries, tables, data; /* how many */
	bool *has_table;                   /* of every L1 entry */
	uint64_t nrefblocks, l1;           /* how many; where */
	uint64_t next_table, next_data;    /* where the next one goes */
	uint64_t total;
	uint64_t *table; /* scratch: an L2 table */
	uint8_t *block;  /* scratch: a cluster */
};

/* Where a cluster's content comes from. */
enum source {
	SOURCE_DATA,   /* a layer above the bottom */
	SOURCE_ZERO,   /* a layer above the bottom says that it is zero */
	SOURCE_BOTTOM, /* none above the bottom has it */
};

/* A negative errno or an enum source. */
static int find_source(const struct merge *merge, uint64_t cluster)
{
	struct chain *chain = merge->chain;
	struct extent extent;
	int rc;

	pthread_mutex_lock(&chain->lock);
	rc = qfile_map_chain(chain->top, cluster * QCOW2_CLUSTER, QCOW2_CLUSTER, &extent, merge->err);
	pthread_mutex_unlock(&chain->lock);
	if (rc)
		return rc;
	if (!extent.file || !extent.file->backing)
		return SOURCE_BOTTOM;
	return extent.kind == EXTENT_DATA ? SOURCE_DATA : SOURCE_ZERO;
}

/* Count what the file will hold, and lay it out. */
static int plan(struct merge *merge)
{
	uint64_t fixed;
	int rc;

	for (uint64_t i = 0; i < merge->nclusters; i++) {
		rc = find_source(merge, i);
		if (rc < 0)
			return rc;
		if (rc == SOURCE_DATA)
			merge->data++;
		if (rc != SOURCE_BOTTOM && !merge->has_table[i / QCOW2_L2_ENTRIES]) {
			merge->has_table[i / QCOW2_L2_ENTRIES] = true;
			merge->tables++;
		}
	}
	/* Refcount blocks count themselves too: add until they suffice. */
	fixed = REFBLOCKS + 1 + merge->tables + merge->data; /* the L1 table too */
	merge->nrefblocks = 1;
	while (merge->nrefblocks * BLOCK_ENTRIES < fixed + merge->nrefblocks)
		merge->nrefblocks++;
	merge->total = fixed + merge->nrefblocks;
	merge->l1 = REFBLOCKS + merge->nrefblocks;
	merge->next_table = merge->l1 + 1;
	merge->next_data = merge->next_table + merge->tables;
	return 0;
}

static int put(const struct merge *merge, const void *data, size_t n, uint64_t offset)
{
	int rc = pwrite_all(merge->fd, data, n, offset);

	return rc ? err_sys(merge->err, rc, "cannot write a merged layer") : 0;
}

static int put_refcounts(const struct merge *merge)
{
	uint16_t *refs = (uint16_t *)(void *)merge->block;
	int rc = 0;

	for (uint64_t i = 0; !rc && i < merge->nrefblocks; i++) {
		uint64_t pointer = htobe64((REFBLOCKS + i) * QCOW2_CLUSTER);

		for (uint64_t k = 0; k < BLOCK_ENTRIES; k++)
			refs[k] = htobe16(i * BLOCK_ENTRIES + k < merge->total ? 1 : 0);
		rc = put(merge, refs, QCOW2_CLUSTER, (REFBLOCKS + i) * QCOW2_CLUSTER);
		if (!rc)
			rc = put(merge, &pointer, sizeof(pointer),
				 REFTABLE * QCOW2_CLUSTER + i * sizeof(pointer));
	}
	return rc;
}

/* One cluster of the disk: its data, if a layer has some, and *ret_entry for it. */
static int put_cluster(struct merge *merge, uint64_t cluster, uint64_t *ret_entry)
{
	uint64_t offset = cluster * QCOW2_CLUSTER, left = chain_size(merge->chain) - offset;
	size_t n = left < QCOW2_CLUSTER ? (size_t)left : QCOW2_CLUSTER;
	int rc = find_source(merge, cluster);

	*ret_entry = rc == SOURCE_ZERO ? htobe64(QCOW2_ZERO_FLAG) : 0;
	if (rc != SOURCE_DATA)
		return rc < 0 ? rc : 0;
	rc = chain_read(merge->chain, merge->block, n, offset, merge->err);
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
			rc = merge->step(merge->arg, (unsigned)((first + i) * 1000 / merge->nclusters));
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
	const struct qcow2_layout layout = {
		.size = chain_size(merge->chain),
		.backing = chain_file(merge->chain, chain_length(merge->chain) - 1),
		.reftable_offset = REFTABLE * QCOW2_CLUSTER,
		.l1_offset = merge->l1 * QCOW2_CLUSTER,
	};

	return qcow2_write_header(merge->fd, &layout, merge->err);
}

int qcow2_merge(struct chain *chain, int fd, int (*step)(void *arg, unsigned permille), void *arg,
		struct err *err)
{
	struct merge merge = {
		.chain = chain,
		.fd = fd,
		.step = step,
		.arg = arg,
		.err = err,
		.nclusters = (chain_size(chain) + QCOW2_CLUSTER - 1) / QCOW2_CLUSTER,
		.l1_entries = QCOW2_L1_ENTRIES(chain_size(chain)),
	};
	int rc = -ENOMEM;

	merge.has_table = calloc(merge.l1_entries, sizeof(*merge.has_table));
	merge.table = malloc(QCOW2_CLUSTER);
	merge.block = malloc(QCOW2_CLUSTER);
	if (!merge.has_table || !merge.table || !merge.block) {
		err_set(err, rc, "out of memory");
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
		rc = err_sys(err, -errno, "cannot write a merged layer");
out:
	free(merge.has_table);
	free(merge.table);
	free(merge.block);
	return rc;
}
