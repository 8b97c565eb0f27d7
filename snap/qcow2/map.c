/* SPDX-License-Identifier: MIT */
/*
 * map.c - from the guest's bytes to where they are in the files
 *
 * A guest cluster is found through two levels: the L1 table, which is in memory, names an L2 table, which is
 * one cluster of entries. An entry names a host cluster, or says "zero", or is empty: then the backing file
 * is asked. Entries are checked where they are used, since a file may hold anything; one that makes no sense
 * is -EIO.
 */
#include "snap/qcow2/chain_priv.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "snap/qcow2/format.h"
#include "util/io.h"

/* An L2 table is one cluster of 8-byte entries. */
enum { L2_BITS = QCOW2_CLUSTER_BITS - 3, OFFSET_MASK = QCOW2_CLUSTER - 1 };

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

int qfile_load_l1(struct qfile *file, struct err *err)
{
	const size_t n = (size_t)QCOW2_L1_ENTRIES(file->size);
	int rc;

	if (file->raw || file->l1)
		return 0;
	file->l1 = malloc(n * sizeof(*file->l1));
	if (!file->l1)
		return err_set(err, -ENOMEM, "out of memory");
	rc = pread_all(file->fd, file->l1, n * sizeof(*file->l1), file->l1_offset);
	if (rc) {
		free(file->l1);
		file->l1 = NULL;
		return err_sys(err, rc, "cannot read the L1 table of layer %s", file->name);
	}
	for (size_t i = 0; i < n; i++)
		file->l1[i] = be64toh(file->l1[i]);
	return 0;
}

/* The L2 table of a guest cluster, 0 if it has none. */
static int table_offset(struct qfile *file, uint64_t cluster, uint64_t *ret, struct err *err)
{
	const int rc = qfile_load_l1(file, err);

	if (rc)
		return rc;
	*ret = file->l1[cluster >> L2_BITS] & QCOW2_OFFSET;
	if (*ret & OFFSET_MASK || *ret > file->end)
		return err_set(err, -EIO, "an L2 table of layer %s is out of place", file->name);
	return 0;
}

/* Where in its L2 table the slice of a guest cluster begins, in entries. */
static uint64_t slice_start(uint64_t cluster)
{
	return cluster & ((1u << L2_BITS) - 1) & ~(uint64_t)(SLICE_ENTRIES - 1);
}

/* The slice that holds the entry of a guest cluster whose L2 table is at `table`. */
static int get_slice(struct qfile *file, uint64_t cluster, uint64_t table, struct slice **ret,
		     struct err *err)
{
	const uint64_t index = cluster >> SLICE_BITS;
	struct slice *slice = &file->cache[index % SLICE_CACHE];
	int rc;

	*ret = slice;
	if (slice->entries && slice->index == index)
		return 0;
	if (!slice->entries) {
		slice->entries = malloc(SLICE_ENTRIES * sizeof(*slice->entries));
		if (!slice->entries)
			return err_set(err, -ENOMEM, "out of memory");
	}
	slice->index = UINT64_MAX;
	rc = pread_all(file->fd, slice->entries, SLICE_ENTRIES * sizeof(*slice->entries),
		       table + slice_start(cluster) * sizeof(*slice->entries));
	if (rc)
		return err_sys(err, rc, "cannot read an L2 table of layer %s", file->name);
	for (size_t i = 0; i < SLICE_ENTRIES; i++)
		slice->entries[i] = be64toh(slice->entries[i]);
	slice->index = index;
	return 0;
}

/* What one entry says; *ret_host is the cluster it names. NULL, or what is wrong with it. */
static const char *parse_entry(const struct qfile *file, uint64_t entry, enum extent_kind *ret_kind,
			       uint64_t *ret_host)
{
	*ret_host = entry & QCOW2_OFFSET;
	if (entry & QCOW2_COMPRESSED)
		return "is compressed";
	if (*ret_host & OFFSET_MASK || *ret_host > file->end)
		return "is out of place";
	if (entry & QCOW2_ZERO_FLAG)
		*ret_kind = EXTENT_ZERO;
	else
		*ret_kind = *ret_host ? EXTENT_DATA : EXTENT_UNALLOCATED;
	return NULL;
}

static int map_entries(struct qfile *file, uint64_t offset, uint64_t len, const uint64_t *entries,
		       struct extent *ret, struct err *err)
{
	const uint64_t within = offset & OFFSET_MASK;
	uint64_t i = (offset >> QCOW2_CLUSTER_BITS) % SLICE_ENTRIES, got = QCOW2_CLUSTER - within, host;
	const char *wrong = parse_entry(file, entries[i], &ret->kind, &ret->host);
	enum extent_kind kind;

	if (wrong)
		return err_set(err, -EIO, "a cluster of layer %s %s", file->name, wrong);
	ret->host += within;
	/* A damaged entry further on is met when it is its turn to be first. */
	while (got < len && ++i < SLICE_ENTRIES && !parse_entry(file, entries[i], &kind, &host)) {
		if (kind != ret->kind || (kind == EXTENT_DATA && host != ret->host + got))
			break;
		got += QCOW2_CLUSTER;
	}
	ret->len = min64(got, len);
	return 0;
}

int qfile_map(struct qfile *file, uint64_t offset, uint64_t len, struct extent *ret, struct err *err)
{
	const uint64_t cluster = offset >> QCOW2_CLUSTER_BITS;
	struct slice *slice;
	uint64_t table, end;
	int rc;

	ret->file = file;
	if (file->raw) {
		*ret = (struct extent){ EXTENT_DATA, file, offset, len };
		return 0;
	}
	rc = table_offset(file, cluster, &table, err);
	if (rc)
		return rc;
	if (!table) {
		end = ((cluster >> L2_BITS) + 1) << (L2_BITS + QCOW2_CLUSTER_BITS);
		*ret = (struct extent){ EXTENT_UNALLOCATED, file, 0, min64(len, end - offset) };
		return 0;
	}
	rc = get_slice(file, cluster, table, &slice, err);
	return rc ? rc : map_entries(file, offset, len, slice->entries, ret, err);
}

int qfile_map_chain(struct qfile *file, uint64_t offset, uint64_t len, struct extent *ret, struct err *err)
{
	int rc;

	for (; file; file = file->backing) {
		rc = qfile_map(file, offset, len, ret, err);
		if (rc || ret->kind != EXTENT_UNALLOCATED)
			return rc;
		len = ret->len;
	}
	*ret = (struct extent){ EXTENT_ZERO, NULL, 0, len };
	return 0;
}

/* ---- changing the map of a writable file */

bool qfile_in_place(const struct qfile *file, struct extent *extent)
{
	uint64_t cluster = extent->host >> QCOW2_CLUSTER_BITS;
	uint64_t len = QCOW2_CLUSTER - (extent->host & OFFSET_MASK);
	bool ret;

	if (extent->kind != EXTENT_DATA)
		return false;
	ret = refs_exclusive(file, cluster, false);
	while (len < extent->len && refs_exclusive(file, ++cluster, false) == ret)
		len += QCOW2_CLUSTER;
	extent->len = min64(extent->len, len);
	return ret;
}

uint64_t qfile_same_table(uint64_t cluster, uint64_t n)
{
	return min64(n, (1ull << L2_BITS) - (cluster & ((1ull << L2_BITS) - 1)));
}

int qfile_need_table(struct qfile *file, uint64_t cluster, struct err *err)
{
	const uint64_t l1_index = cluster >> L2_BITS;
	uint64_t old, host, n, entry, be;
	uint8_t *table;
	bool fresh;
	int rc;

	rc = table_offset(file, cluster, &old, err);
	if (rc || (old && refs_exclusive(file, old >> QCOW2_CLUSTER_BITS, true)))
		return rc;
	table = calloc(1, QCOW2_CLUSTER);
	if (!table)
		return err_set(err, -ENOMEM, "out of memory");
	rc = old ? pread_all(file->fd, table, QCOW2_CLUSTER, old) : 0;
	if (!rc)
		rc = refs_alloc(file, 1, true, &host, &n, &fresh);
	if (rc)
		goto out;
	entry = host << QCOW2_CLUSTER_BITS | QCOW2_COPIED;
	be = htobe64(entry);
	rc = pwrite_all(file->fd, table, QCOW2_CLUSTER, host << QCOW2_CLUSTER_BITS);
	if (!rc)
		rc = pwrite_all(file->fd, &be, sizeof(be), file->l1_offset + l1_index * sizeof(be));
	if (rc) {
		(void)refs_free(file, host, 1, true);
		goto out;
	}
	file->l1[l1_index] = entry;
	if (old)
		rc = refs_free(file, old >> QCOW2_CLUSTER_BITS, 1, true);
out:
	free(table);
	return rc ? err_sys(err, rc, "cannot write an L2 table of layer %s", file->name) : 0;
}

/* Free the host clusters of n replaced entries, contiguous ones at once. */
static int free_replaced(struct qfile *file, const uint64_t *old, uint64_t n)
{
	uint64_t i, host, run;
	int rc = 0, rc2;

	for (i = 0; i < n; i += run) {
		host = old[i] & QCOW2_OFFSET;
		for (run = 1; i + run < n && host; run++)
			if ((old[i + run] & QCOW2_OFFSET) != host + (run << QCOW2_CLUSTER_BITS))
				break;
		if (!host || old[i] & QCOW2_COMPRESSED)
			continue;
		rc2 = refs_free(file, host >> QCOW2_CLUSTER_BITS, run, false);
		rc = rc ? rc : rc2;
	}
	return rc;
}

int qfile_link(struct qfile *file, uint64_t cluster, uint64_t n, uint64_t host, struct err *err)
{
	uint64_t old[SLICE_ENTRIES], be[SLICE_ENTRIES], table, entry, first, part, i;
	struct slice *slice;
	int rc;

	rc = table_offset(file, cluster, &table, err);
	while (!rc && n) {
		rc = get_slice(file, cluster, table, &slice, err);
		if (rc)
			break;
		first = cluster % SLICE_ENTRIES;
		part = min64(n, SLICE_ENTRIES - first);
		for (i = 0; i < part; i++) {
			entry = host ? (host + (i << QCOW2_CLUSTER_BITS)) | QCOW2_COPIED : QCOW2_ZERO_FLAG;
			be[i] = htobe64(entry);
		}
		rc = pwrite_all(file->fd, be, part * sizeof(*be),
				table + (slice_start(cluster) + first) * sizeof(*be));
		if (rc) {
			/* What is on disk now is uncertain: look again. */
			slice->index = UINT64_MAX;
			return err_sys(err, rc, "cannot write an L2 table of layer %s", file->name);
		}
		memcpy(old, slice->entries + first, part * sizeof(*old));
		for (i = 0; i < part; i++)
			slice->entries[first + i] = be64toh(be[i]);
		rc = free_replaced(file, old, part);
		if (rc)
			err_sys(err, rc, "cannot free clusters of layer %s", file->name);
		cluster += part;
		n -= part;
		if (host)
			host += part << QCOW2_CLUSTER_BITS;
	}
	return rc;
}
