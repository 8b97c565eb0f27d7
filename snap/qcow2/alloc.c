/* SPDX-License-Identifier: MIT */
/*
 * alloc.c - which clusters of a file are in use
 *
 * Refcounts live in blocks, each one cluster; a table says where the blocks are. A writable file is a fresh
 * overlay or small, so all counts are kept in memory (2 bytes for 64 KiB) and changes are written through.
 * On disk a count is never lower than the number of links, whatever moment we die at: it goes up before the
 * link is made, and down after it is gone.
 *
 * When all covered clusters are in use, a block is added. It covers the clusters that follow, and is itself
 * the first of them, so that it needs room nowhere else. The table is one cluster, which is enough for twice
 * QCOW2_FILE_MAX.
 */
#include "snap/qcow2/chain_priv.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "snap/qcow2/format.h"
#include "util/io.h"

enum { TABLE_ENTRIES = QCOW2_CLUSTER / sizeof(uint64_t), IN_CLUSTER = QCOW2_CLUSTER - 1 };

static uint64_t covered(const struct refs *refs)
{
	return refs->nblocks << BLOCK_BITS;
}

void refs_release(struct refs *refs)
{
	free(refs->table);
	free(refs->count);
	free(refs->meta);
	*refs = (struct refs){ 0 };
}

/* Room in memory for nblocks blocks; the new ones count nothing. */
static int resize(struct qfile *file, uint64_t nblocks)
{
	struct refs *refs = &file->refs;
	const uint64_t old = covered(refs), n = nblocks << BLOCK_BITS;
	void *p;

	p = realloc(refs->table, nblocks * sizeof(*refs->table));
	if (!p)
		return -ENOMEM;
	refs->table = p;
	p = realloc(refs->count, n * sizeof(*refs->count));
	if (!p)
		return -ENOMEM;
	refs->count = p;
	p = realloc(refs->meta, n);
	if (!p)
		return -ENOMEM;
	refs->meta = p;
	memset(refs->count + old, 0, (n - old) * sizeof(*refs->count));
	memset(refs->meta + old, 0, n - old);
	return 0;
}

/* Write the counts of n clusters to their blocks. */
static int write_counts(const struct qfile *file, uint64_t cluster, uint64_t n)
{
	const struct refs *refs = &file->refs;
	uint16_t buf[512];
	int rc = 0;

	while (n && !rc) {
		const uint64_t in_block = cluster & (BLOCK_ENTRIES - 1);
		uint64_t part = BLOCK_ENTRIES - in_block, i;

		if (part > n)
			part = n;
		if (part > 512)
			part = 512;
		for (i = 0; i < part; i++)
			buf[i] = htobe16(refs->count[cluster + i]);
		rc = pwrite_all(file->fd, buf, part * sizeof(*buf),
				refs->table[cluster >> BLOCK_BITS] + in_block * sizeof(*buf));
		cluster += part;
		n -= part;
	}
	return rc;
}

/* ---- loading */

/* Note that n clusters hold metadata. Nothing else may be there. */
static int claim(struct qfile *file, uint64_t offset, uint64_t n, const char *what, struct err *err)
{
	struct refs *refs = &file->refs;
	const uint64_t first = offset >> QCOW2_CLUSTER_BITS;
	uint64_t i;

	if (offset & IN_CLUSTER)
		return err_set(err, -EINVAL, "layer %s: %s is not at the start of a cluster", file->name,
			       what);
	for (i = first; i < first + n; i++) {
		if (i >= covered(refs) || !refs->count[i])
			return err_set(err, -EINVAL, "layer %s: %s is not counted as in use", file->name,
				       what);
		if (refs->meta[i])
			return err_set(err, -EINVAL, "layer %s: %s overlaps other metadata", file->name,
				       what);
		refs->meta[i] = true;
	}
	return 0;
}

static int claim_all(struct qfile *file, struct err *err)
{
	struct refs *refs = &file->refs;
	uint64_t i;
	int rc;

	rc = claim(file, 0, 1, "the header", err);
	if (!rc)
		rc = claim(file, refs->table_offset, 1, "the refcount table", err);
	for (i = 0; !rc && i < refs->nblocks; i++)
		rc = claim(file, refs->table[i], 1, "a refcount block", err);
	if (!rc)
		rc = claim(file, file->l1_offset, 1, "the L1 table", err);
	for (i = 0; !rc && i < QCOW2_L1_ENTRIES(file->size); i++)
		if (file->l1[i] & QCOW2_OFFSET)
			rc = claim(file, file->l1[i] & QCOW2_OFFSET, 1, "an L2 table", err);
	return rc;
}

/* The table's entries, up to the first empty one. */
static int load_table(struct qfile *file, uint64_t table[TABLE_ENTRIES], uint64_t *ret_n, struct err *err)
{
	uint64_t n = 0, i;
	int rc;

	rc = pread_all(file->fd, table, QCOW2_CLUSTER, file->refs.table_offset);
	if (rc)
		return err_sys(err, rc, "cannot read the refcount table of layer %s", file->name);
	for (; n < TABLE_ENTRIES && table[n]; n++)
		table[n] = be64toh(table[n]);
	for (i = n; i < TABLE_ENTRIES; i++)
		if (table[i])
			return err_set(err, -EINVAL, "layer %s: the refcount table has gaps", file->name);
	/* Blocks are in the file and count its clusters: more than that is a lie that would cost memory. */
	if (!n || n > (file->refs.fresh >> BLOCK_BITS) + 2)
		return err_set(err, -EINVAL, "layer %s: the refcount table does not fit the file",
			       file->name);
	*ret_n = n;
	return 0;
}

int refs_load(struct qfile *file, struct err *err)
{
	struct refs *refs = &file->refs;
	uint64_t *table = malloc(QCOW2_CLUSTER), n = 0, i;
	int rc;

	rc = table ? load_table(file, table, &n, err) : err_set(err, -ENOMEM, "out of memory");
	if (rc)
		goto out;
	rc = resize(file, n);
	if (rc) {
		err_set(err, rc, "no memory for the refcounts of layer %s", file->name);
		goto out;
	}
	memcpy(refs->table, table, n * sizeof(*table));
	refs->nblocks = n;
	for (i = 0; !rc && i < n; i++)
		rc = pread_all(file->fd, refs->count + (i << BLOCK_BITS), QCOW2_CLUSTER,
			       table[i] & QCOW2_OFFSET);
	if (rc) {
		err_sys(err, rc, "cannot read the refcounts of layer %s", file->name);
		goto out;
	}
	for (i = 0; i < covered(refs); i++)
		refs->count[i] = be16toh(refs->count[i]);
	rc = claim_all(file, err);
out:
	free(table);
	return rc;
}

/* ---- growing */

/* n clusters are about to be written. */
static void not_fresh(struct refs *refs, uint64_t cluster, uint64_t n)
{
	if (refs->fresh < cluster + n)
		refs->fresh = cluster + n;
}

static int add_block(struct qfile *file)
{
	struct refs *refs = &file->refs;
	const uint64_t b = refs->nblocks, first = covered(refs);
	const uint64_t offset = first << QCOW2_CLUSTER_BITS, be = htobe64(offset);
	int rc;

	if (b == TABLE_ENTRIES)
		return -EFBIG;
	rc = resize(file, b + 1);
	if (rc)
		return rc;
	not_fresh(refs, first, 1);
	refs->table[b] = offset;
	refs->count[first] = 1;
	refs->meta[first] = true;
	rc = write_counts(file, first, BLOCK_ENTRIES);
	if (!rc)
		rc = pwrite_all(file->fd, &be, sizeof(be), refs->table_offset + b * sizeof(be));
	if (!rc)
		refs->nblocks++;
	return rc;
}

/* ---- giving out and taking back */

int refs_alloc(struct qfile *file, uint64_t n, bool meta, uint64_t *ret_cluster, uint64_t *ret_n,
	       bool *ret_fresh)
{
	struct refs *refs = &file->refs;
	uint64_t first, got, i;
	int rc;

	while (refs->hint < covered(refs) && refs->count[refs->hint])
		refs->hint++;
	if (refs->hint == covered(refs)) {
		rc = add_block(file);
		return rc ? rc : refs_alloc(file, n, meta, ret_cluster, ret_n, ret_fresh);
	}
	first = refs->hint;
	for (got = 0; got < n && first + got < covered(refs) && !refs->count[first + got]; got++) {
		refs->count[first + got] = 1;
		refs->meta[first + got] = meta;
	}
	rc = write_counts(file, first, got);
	if (rc) {
		for (i = 0; i < got; i++) {
			refs->count[first + i] = 0;
			refs->meta[first + i] = false;
		}
		return rc;
	}
	refs->hint = first + got;
	*ret_fresh = first >= refs->fresh;
	not_fresh(refs, first, got);
	*ret_cluster = first;
	*ret_n = got;
	return 0;
}

int refs_free(struct qfile *file, uint64_t cluster, uint64_t n, bool meta)
{
	struct refs *refs = &file->refs;
	const uint64_t end = covered(refs);
	uint64_t i, run;
	int rc;

	/* A damaged entry may point anywhere. */
	if (cluster >= end)
		return 0;
	if (n > end - cluster)
		n = end - cluster;
	for (i = cluster; i < cluster + n; i++)
		if (refs->count[i] && refs->meta[i] == meta && !--refs->count[i])
			refs->meta[i] = false;
	rc = write_counts(file, cluster, n);
	for (i = cluster; !rc && i < cluster + n; i += run ? run : 1) {
		for (run = 0; i + run < cluster + n && !refs->count[i + run]; run++)
			;
		if (!run)
			continue;
		if (i < refs->hint)
			refs->hint = i;
		/* Only to save space: a file system that cannot is no reason to fail. */
		(void)fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)(i << QCOW2_CLUSTER_BITS), (off_t)(run << QCOW2_CLUSTER_BITS));
	}
	return rc;
}

bool refs_exclusive(const struct qfile *file, uint64_t cluster, bool meta)
{
	const struct refs *refs = &file->refs;

	return cluster < covered(refs) && refs->count[cluster] == 1 && refs->meta[cluster] == meta;
}
