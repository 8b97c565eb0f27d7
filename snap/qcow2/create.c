/* SPDX-License-Identifier: MIT */
/*
 * create.c - new qcow2 files
 *
 * An empty overlay is four clusters, almost all of it hole:
 *
 *   0  header, the extension naming the backing format, the backing file's name
 *   1  refcount table: its first entry points at cluster 2
 *   2  refcount block: these four clusters are used once
 *   3  L1 table: all zero, so that every read goes to the backing file
 *
 * Creating one is on the path of every fork: three small writes and no sync.
 */
#include "snap/qcow2/create.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "snap/qcow2/format.h"
#include "snap/qcow2/header.h"
#include "util/io.h"

enum {
	REFTABLE_CLUSTER = 1,
	REFBLOCK_CLUSTER = 2,
	L1_CLUSTER = 3,
	CLUSTERS = 4,
};

int qcow2_write_header(int fd, const struct qcow2_layout *layout, struct err *err)
{
	static const char raw[8] = "raw", qcow2[8] = "qcow2";
	const char *format = qcow2_name_raw(layout->backing) ? raw : qcow2;
	const size_t name_len = strlen(layout->backing), format_len = strlen(format);
	const struct qcow2_extension ext = { htobe32(QCOW2_EXT_BACKING_FORMAT),
					     htobe32((uint32_t)format_len) };
	struct qcow2_header header = {
		.magic = htobe32(QCOW2_MAGIC),
		.version = htobe32(3),
		.backing_size = htobe32((uint32_t)name_len),
		.cluster_bits = htobe32(QCOW2_CLUSTER_BITS),
		.size = htobe64(layout->size),
		.l1_size = htobe32((uint32_t)QCOW2_L1_ENTRIES(layout->size)),
		.l1_offset = htobe64(layout->l1_offset),
		.reftable_offset = htobe64(layout->reftable_offset),
		.reftable_clusters = htobe32(1),
		.refcount_order = htobe32(QCOW2_REFCOUNT_ORDER),
		.header_length = htobe32(sizeof(struct qcow2_header)),
	};
	uint8_t head[512] = { 0 };
	size_t at = sizeof(header);
	int rc;

	if (!layout->size || layout->size % 512 || layout->size > QCOW2_DISK_MAX)
		return err_set(err, -EINVAL, "a disk of %llu bytes is not supported",
			       (unsigned long long)layout->size);
	if (!qcow2_name_valid(layout->backing))
		return err_set(err, -EINVAL, "\"%.80s\" is not the name of a layer", layout->backing);
	memcpy(head + at, &ext, sizeof(ext));
	at += sizeof(ext);
	memcpy(head + at, format, sizeof(raw));
	at += sizeof(raw);
	at += sizeof(struct qcow2_extension); /* the end: type and length zero */
	header.backing_offset = htobe64(at);
	memcpy(head + at, layout->backing, name_len);
	memcpy(head, &header, sizeof(header));
	rc = pwrite_all(fd, head, sizeof(head), 0);
	return rc ? err_sys(err, rc, "cannot write a layer") : 0;
}

int qcow2_create_overlay(int fd, uint64_t size, const char *backing, struct err *err)
{
	const struct qcow2_layout layout = {
		.size = size,
		.backing = backing,
		.reftable_offset = (uint64_t)REFTABLE_CLUSTER * QCOW2_CLUSTER,
		.l1_offset = (uint64_t)L1_CLUSTER * QCOW2_CLUSTER,
	};
	const uint64_t refblock = htobe64((uint64_t)REFBLOCK_CLUSTER * QCOW2_CLUSTER);
	uint16_t refcounts[CLUSTERS];
	int rc = qcow2_write_header(fd, &layout, err);

	if (rc)
		return rc;
	for (unsigned i = 0; i < CLUSTERS; i++)
		refcounts[i] = htobe16(1);
	rc = pwrite_all(fd, &refblock, sizeof(refblock), layout.reftable_offset);
	if (!rc)
		rc = pwrite_all(fd, refcounts, sizeof(refcounts), (uint64_t)REFBLOCK_CLUSTER * QCOW2_CLUSTER);
	if (!rc && ftruncate(fd, (off_t)CLUSTERS * QCOW2_CLUSTER) < 0)
		rc = -errno;
	return rc ? err_sys(err, rc, "cannot write a layer") : 0;
}

int qcow2_rename_backing(int fd, const char *backing, struct err *err)
{
	const size_t n = strlen(backing);
	struct qcow2_header header;
	int rc = pread_all(fd, &header, sizeof(header), 0);

	if (!rc && be32toh(header.backing_size) != n)
		return err_set(err, -EINVAL, "the backing file's name is not as long as \"%.80s\"", backing);
	if (!rc)
		rc = pwrite_all(fd, backing, n, be64toh(header.backing_offset));
	if (!rc && fsync(fd) < 0)
		rc = -errno;
	return rc ? err_sys(err, rc, "cannot name a layer's backing file") : 0;
}
