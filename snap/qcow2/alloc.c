/* SPDX-License-Identifier: MIT */
/*
 * alloc.c - which clusters of a file are in use
 *
 * Refcounts live in blocks, each one cluster; a table says where the blocks are. A writable file is a fresh
 * overlay or small, so all counts are kept in memory (4 bytes for 64 KiB) and changes are written through. A
 * block counts 2 GiB, of which most overlays have a few MiB, so its memory is pages that cost nothing until
 * they are written. On disk a count is never lower than the number of links, whatever moment we die at: it
 * goes up before the link is made, and down after it is gone.
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
#include <sys/mman.h>

#include "snap/qcow2/format.h"
#include "util/io.h"

enum {
	TABLE_ENTRIES = QCOW2_CLUSTER / sizeof(uint64_t),
	IN_CLUSTER = QCOW2_CLUSTER - 1,
	/* Tables and blocks are read in parts, on the stack: a heap would keep what it grew by for one cluster. */
	PART = 16 << 10
};

static uint64_t covered(const struct refs *refs)
{
	return refs->nblocks << BLOCK_BITS;
}

void refs_release(struct refs *refs)
{
	free(refs->table);
	if (refs->uses)
		munmap(refs->uses, refs->room * BLOCK_ENTRIES * sizeof(*refs->uses));
	*refs = (struct refs){ 0 };
}

/* Room in memory for nblocks blocks, if there is less; what is new counts nothing. */
static int make_room(struct refs *refs, uint64_t nblocks)
{
	const size_t block = BLOCK_ENTRIES * sizeof(*refs->uses);
	void *p;

	if (nblocks <= refs->room)
		return 0;
	p = realloc(refs->table, nblocks * sizeof(*refs->table));
	if (!p)
		return -ENOMEM;
	refs->table = p;
	p = refs->uses
		    ? mremap(refs->uses, refs->room * block, nblocks * block, MREMAP_MAYMOVE)
		    : mmap(NULL, nblocks * block, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	/* Few of the pages are ever written, and a huge one would be all of them. Without huge pages it fails. */
	(void)madvise(p, nblocks * block, MADV_NOHUGEPAGE);
	refs->uses = p;
	refs->room = nblocks;
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
			buf[i] = htobe16(refs->uses[cluster + i].count);
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
		if (i >= covered(refs) || !refs->uses[i].count)
			return err_set(err, -EINVAL, "layer %s: %s is not counted as in use", file->name,
				       what);
		if (refs->uses[i].meta)
			return err_set(err, -EINVAL, "layer %s: %s overlaps other metadata", file->name,
				       what);
		refs->uses[i].meta = true;
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

/* The table's entries, up to the first empty one; *ret_n of them. */
static int load_table(struct qfile *file, uint64_t *ret_n, struct err *err)
{
	enum { N = PART / sizeof(uint64_t) };
	struct refs *refs = &file->refs;
	/* Blocks are in the file and count its clusters: more than that is a lie that would cost memory. */
	const uint64_t most = (refs->fresh >> BLOCK_BITS) + 2;
	uint64_t part[N], n = 0, at, i;
	bool ended = false;
	int rc;

	refs->table = malloc((most < TABLE_ENTRIES ? most : TABLE_ENTRIES) * sizeof(*refs->table));
	if (!refs->table)
		return err_set(err, -ENOMEM, "out of memory");
	for (at = 0; at < TABLE_ENTRIES; at += N) {
		rc = pread_all(file->fd, part, sizeof(part), refs->table_offset + at * sizeof(*part));
		if (rc)
			return err_sys(err, rc, "cannot read the refcount table of layer %s", file->name);
		for (i = 0; i < N; i++) {
			if (part[i] && ended)
				return err_set(err, -EINVAL, "layer %s: the refcount table has gaps",
					       file->name);
			ended = !part[i];
			if (!ended && n == most)
				goto lie;
			if (!ended)
				refs->table[n++] = be64toh(part[i]);
		}
	}
	*ret_n = n;
	if (n)
		return 0;
lie:
	return err_set(err, -EINVAL, "layer %s: the refcount table does not fit the file", file->name);
}

/* What a block counts; memory is touched where that is not 0. */
static int load_block(struct qfile *file, uint64_t block, struct err *err)
{
	enum { N = PART / sizeof(uint16_t) };
	struct refs *refs = &file->refs;
	const uint64_t offset = refs->table[block] & QCOW2_OFFSET;
	struct use *uses = refs->uses + (block << BLOCK_BITS);
	uint16_t part[N];
	uint64_t at, i;
	int rc;

	for (at = 0; at < BLOCK_ENTRIES; at += N) {
		rc = pread_all(file->fd, part, sizeof(part), offset + at * sizeof(*part));
		if (rc)
			return err_sys(err, rc, "cannot read the refcounts of layer %s", file->name);
		for (i = 0; i < N; i++)
			if (part[i])
				uses[at + i].count = be16toh(part[i]);
	}
	return 0;
}

int refs_load(struct qfile *file, struct err *err)
{
	struct refs *refs = &file->refs;
	uint64_t n, i;
	int rc = load_table(file, &n, err);

	if (rc)
		return rc;
	rc = make_room(refs, n);
	if (rc)
		return err_set(err, rc, "no memory for the refcounts of layer %s", file->name);
	refs->nblocks = n;
	for (i = 0; !rc && i < n; i++)
		rc = load_block(file, i, err);
	return rc ? rc : claim_all(file, err);
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
	rc = make_room(refs, b + 1);
	if (rc)
		return rc;
	not_fresh(refs, first, 1);
	refs->table[b] = offset;
	refs->uses[first].count = 1;
	refs->uses[first].meta = true;
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

	while (refs->hint < covered(refs) && refs->uses[refs->hint].count)
		refs->hint++;
	if (refs->hint == covered(refs)) {
		rc = add_block(file);
		return rc ? rc : refs_alloc(file, n, meta, ret_cluster, ret_n, ret_fresh);
	}
	first = refs->hint;
	for (got = 0; got < n && first + got < covered(refs) && !refs->uses[first + got].count; got++) {
		refs->uses[first + got].count = 1;
		refs->uses[first + got].meta = meta;
	}
	rc = write_counts(file, first, got);
	if (rc) {
		for (i = 0; i < got; i++) {
			refs->uses[first + i].count = 0;
			refs->uses[first + i].meta = false;
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
		if (refs->uses[i].count && refs->uses[i].meta == meta && !--refs->uses[i].count)
			refs->uses[i].meta = false;
	rc = write_counts(file, cluster, n);
	for (i = cluster; !rc && i < cluster + n; i += run ? run : 1) {
		for (run = 0; i + run < cluster + n && !refs->uses[i + run].count; run++)
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

	return cluster < covered(refs) && refs->uses[cluster].count == 1 && refs->uses[cluster].meta == meta;
}
