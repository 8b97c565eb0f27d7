/* SPDX-License-Identifier: MIT */
/*
 * qcow2_map.c - from the guest's bytes to where they are in the files
 *
 * A guest cluster is found through two levels: the L1 table, which is in memory, names an L2 table, which is
 * one cluster of entries. An entry names a host cluster, or says "zero", or is empty: then the backing file
 * is asked. Entries are checked where they are used, since a file may hold anything.
 */
#include "snap/qcow2/priv.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "snap/qcow2/format.h"
#include "util/log.h"

/* An L2 table is one cluster of 8-byte entries. */
static unsigned l2_bits(const struct qfile *file)
{
	return file->cluster_bits - 3;
}

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Damage is the guest's I/O error, and once per file a line in the log. */
static int damaged(struct qfile *file, const char *what, int code)
{
	if (!file->warned)
		log_warn("disk file %s: %s", file->name, what);
	file->warned = true;
	return code;
}

static int table_offset(struct qfile *file, uint64_t cluster, uint64_t *ret)
{
	*ret = file->l1[cluster >> l2_bits(file)] & QCOW2_OFFSET;
	if (*ret & (cluster_size(file) - 1))
		return damaged(file, "an L2 table is not at the start of a cluster", -EIO);
	return 0;
}

/* Where in its L2 table the slice of a guest cluster begins, in entries. */
static uint64_t slice_start(const struct qfile *file, uint64_t cluster)
{
	return cluster & ((1ull << l2_bits(file)) - 1) & ~((1ull << file->slice_bits) - 1);
}

/* The slice that holds the entry of a guest cluster whose L2 table is at `table`. */
static int get_slice(struct qfile *file, uint64_t cluster, uint64_t table, struct slice **ret)
{
	const uint64_t index = cluster >> file->slice_bits;
	const size_t n = (size_t)1 << file->slice_bits;
	struct slice *slice = &file->cache[index % SLICE_CACHE];
	size_t i;
	int rc;

	*ret = slice;
	if (slice->entries && slice->index == index)
		return 0;
	if (!slice->entries) {
		slice->entries = malloc(n * sizeof(*slice->entries));
		if (!slice->entries)
			return -ENOMEM;
	}
	slice->index = UINT64_MAX;
	rc = pread_all(file->fd, slice->entries, n * sizeof(*slice->entries),
		       table + slice_start(file, cluster) * sizeof(*slice->entries));
	if (rc < 0)
		return damaged(file, "an L2 table cannot be read", rc);
	for (i = 0; i < n; i++)
		slice->entries[i] = be64toh(slice->entries[i]);
	slice->index = index;
	return 0;
}

/* What one entry says; *ret_host is the cluster it names. */
static int parse_entry(struct qfile *file, uint64_t entry, enum extent_kind *ret_kind, uint64_t *ret_host)
{
	*ret_host = entry & QCOW2_OFFSET;
	if (entry & QCOW2_COMPRESSED)
		return damaged(file, "compressed clusters are not supported", -ENOTSUP);
	if (*ret_host & (cluster_size(file) - 1))
		return damaged(file, "a guest cluster is not at the start of a cluster", -EIO);
	if (entry & QCOW2_ZERO_FLAG)
		*ret_kind = EXTENT_ZERO;
	else
		*ret_kind = *ret_host ? EXTENT_DATA : EXTENT_UNALLOCATED;
	return 0;
}

static int map_entries(struct qfile *file, uint64_t offset, uint64_t len, const uint64_t *entries,
		       struct extent *ret)
{
	const uint64_t mask = (1ull << file->slice_bits) - 1, cluster = offset >> file->cluster_bits;
	const uint64_t within = offset & (cluster_size(file) - 1);
	uint64_t i = cluster & mask, got, host;
	enum extent_kind kind;
	int rc;

	rc = parse_entry(file, entries[i], &ret->kind, &ret->host);
	if (rc)
		return rc;
	ret->host += within;
	got = cluster_size(file) - within;
	/* A damaged entry further on is met when it is its turn to be first. */
	while (got < len && ++i <= mask && !(entries[i] & QCOW2_COMPRESSED)) {
		if (parse_entry(file, entries[i], &kind, &host) || kind != ret->kind ||
		    (kind == EXTENT_DATA && host != ret->host + got))
			break;
		got += cluster_size(file);
	}
	ret->len = min64(got, len);
	return 0;
}

int qfile_map(struct qfile *file, uint64_t offset, uint64_t len, struct extent *ret)
{
	const uint64_t cluster = offset >> file->cluster_bits;
	struct slice *slice;
	uint64_t table, end;
	int rc;

	ret->file = file;
	if (file->raw) {
		*ret = (struct extent){ EXTENT_DATA, file, offset, len };
		return 0;
	}
	rc = table_offset(file, cluster, &table);
	if (rc)
		return rc;
	if (!table) {
		end = ((cluster >> l2_bits(file)) + 1) << (l2_bits(file) + file->cluster_bits);
		*ret = (struct extent){ EXTENT_UNALLOCATED, file, 0, min64(len, end - offset) };
		return 0;
	}
	rc = get_slice(file, cluster, table, &slice);
	return rc ? rc : map_entries(file, offset, len, slice->entries, ret);
}

int qfile_map_chain(struct qfile *file, uint64_t offset, uint64_t len, struct extent *ret)
{
	int rc;

	for (; file; file = file->backing) {
		/* A backing file may be shorter than what builds on it; zeroes follow. */
		if (offset >= file->size)
			break;
		len = min64(len, file->size - offset);
		rc = qfile_map(file, offset, len, ret);
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
	uint64_t cluster = extent->host >> file->cluster_bits;
	uint64_t len = cluster_size(file) - (extent->host & (cluster_size(file) - 1));
	bool ret;

	if (extent->kind != EXTENT_DATA)
		return false;
	ret = refs_exclusive(file, cluster, false);
	while (len < extent->len && refs_exclusive(file, ++cluster, false) == ret)
		len += cluster_size(file);
	extent->len = min64(extent->len, len);
	return ret;
}

uint64_t qfile_same_table(const struct qfile *file, uint64_t cluster, uint64_t n)
{
	return min64(n, (1ull << l2_bits(file)) - (cluster & ((1ull << l2_bits(file)) - 1)));
}

int qfile_need_table(struct qfile *file, uint64_t cluster)
{
	const uint64_t l1_index = cluster >> l2_bits(file);
	uint64_t old, host, n, entry, be;
	uint8_t *table;
	bool fresh;
	int rc;

	rc = table_offset(file, cluster, &old);
	if (rc || (old && refs_exclusive(file, old >> file->cluster_bits, true)))
		return rc;
	table = calloc(1, cluster_size(file));
	if (!table)
		return -ENOMEM;
	rc = old ? pread_all(file->fd, table, cluster_size(file), old) : 0;
	if (!rc)
		rc = refs_alloc(file, 1, true, &host, &n, &fresh);
	if (rc)
		goto out;
	entry = host << file->cluster_bits | QCOW2_COPIED;
	be = htobe64(entry);
	rc = pwrite_all(file->fd, table, cluster_size(file), host << file->cluster_bits);
	if (!rc)
		rc = pwrite_all(file->fd, &be, sizeof(be), file->l1_offset + l1_index * sizeof(be));
	if (rc) {
		(void)refs_free(file, host, 1, true);
		goto out;
	}
	file->l1[l1_index] = entry;
	if (old)
		rc = refs_free(file, old >> file->cluster_bits, 1, true);
out:
	free(table);
	return rc;
}

/* Free the host clusters of n replaced entries, contiguous ones at once. */
static int free_replaced(struct qfile *file, const uint64_t *old, uint64_t n)
{
	uint64_t i, host, run;
	int rc = 0, rc2;

	for (i = 0; i < n; i += run) {
		host = old[i] & QCOW2_OFFSET;
		for (run = 1; i + run < n && host; run++)
			if ((old[i + run] & QCOW2_OFFSET) != host + (run << file->cluster_bits))
				break;
		if (!host || old[i] & QCOW2_COMPRESSED)
			continue;
		rc2 = refs_free(file, host >> file->cluster_bits, run, false);
		rc = rc ? rc : rc2;
	}
	return rc;
}

int qfile_link(struct qfile *file, uint64_t cluster, uint64_t n, uint64_t host)
{
	uint64_t old[1 << SLICE_BITS], be[1 << SLICE_BITS], table, entry, first, part, i;
	struct slice *slice;
	int rc;

	rc = table_offset(file, cluster, &table);
	while (!rc && n) {
		rc = get_slice(file, cluster, table, &slice);
		if (rc)
			break;
		first = cluster & ((1ull << file->slice_bits) - 1);
		part = min64(n, (1ull << file->slice_bits) - first);
		for (i = 0; i < part; i++) {
			entry = host ? (host + (i << file->cluster_bits)) | QCOW2_COPIED : QCOW2_ZERO_FLAG;
			be[i] = htobe64(entry);
		}
		rc = pwrite_all(file->fd, be, part * sizeof(*be),
				table + (slice_start(file, cluster) + first) * sizeof(*be));
		if (rc) {
			/* What is on disk now is uncertain: look again. */
			slice->index = UINT64_MAX;
			break;
		}
		memcpy(old, slice->entries + first, part * sizeof(*old));
		for (i = 0; i < part; i++)
			slice->entries[first + i] = be64toh(be[i]);
		rc = free_replaced(file, old, part);
		cluster += part;
		n -= part;
		if (host)
			host += part << file->cluster_bits;
	}
	return rc;
}
