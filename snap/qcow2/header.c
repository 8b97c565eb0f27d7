/* SPDX-License-Identifier: MIT */
/*
 * qcow2.c - empty overlays, and what a header says
 *
 * An empty overlay is four clusters, almost all of it hole:
 *
 *   0  header, the extension naming the backing format, the backing file's name
 *   1  refcount table: its first entry points at cluster 2
 *   2  refcount block: these four clusters are used once
 *   3  L1 table: all zero, so that every read goes to the backing file
 *
 * Creating one is on the path of every fork: three small writes and no sync. A header that comes from outside
 * is checked for everything that could lead a reader to another file: a backing name with a path or a
 * protocol in it ("json:", "nbd:"), an external data file, a feature we do not know.
 */
#include "snap/qcow2/header.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "snap/qcow2/format.h"
#include "util/io.h"

enum {
	REFTABLE_CLUSTER = 1,
	REFBLOCK_CLUSTER = 2,
	L1_CLUSTER = 3,
	CLUSTERS = 4,
	REFCOUNT_ORDER = 4, /* 1 << 4 bits */
};

int qcow2_write_header(int fd, const struct qcow2_layout *layout, struct err *err)
{
	const size_t name_len = strlen(layout->backing), format_len = strlen(layout->backing_format);
	const struct qcow2_extension format = { htobe32(QCOW2_EXT_BACKING_FORMAT),
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
		.reftable_clusters = htobe32(layout->reftable_clusters),
		.refcount_order = htobe32(REFCOUNT_ORDER),
		.header_length = htobe32(sizeof(struct qcow2_header)),
	};
	uint8_t head[512] = { 0 };
	size_t at = sizeof(header);
	int rc;

	if (!layout->size || layout->size % 512 || layout->size > QCOW2_DISK_MAX)
		return err_set(err, -EINVAL, "a disk of %llu bytes is not supported",
			       (unsigned long long)layout->size);
	if (name_len > QCOW2_BACKING_MAX || format_len > 8)
		return err_set(err, -EINVAL, "backing file name %s is too long", layout->backing);
	memcpy(head + at, &format, sizeof(format));
	at += sizeof(format);
	memcpy(head + at, layout->backing_format, format_len);
	at += 8;
	at += sizeof(struct qcow2_extension); /* the end: type and length zero */
	header.backing_offset = htobe64(at);
	memcpy(head + at, layout->backing, name_len);
	memcpy(head, &header, sizeof(header));
	rc = pwrite_all(fd, head, sizeof(head), 0);
	return rc ? err_sys(err, rc, "cannot write a layer") : 0;
}

int qcow2_create_overlay(int fd, uint64_t size, const char *backing, const char *backing_format,
			 struct err *err)
{
	const struct qcow2_layout layout = {
		.size = size,
		.backing = backing,
		.backing_format = backing_format,
		.reftable_offset = (uint64_t)REFTABLE_CLUSTER * QCOW2_CLUSTER,
		.reftable_clusters = 1,
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

/* A name that QEMU, too, takes for a file in the same directory and nothing else. */
static bool bare_name(const char *name)
{
	if (!*name || *name == '.')
		return false;
	for (; *name; name++)
		if (!(*name >= 'a' && *name <= 'z') && !(*name >= '0' && *name <= '9') && *name != '.' &&
		    *name != '-')
			return false;
	return true;
}

/* Find the backing format among the extensions in data; they end before `end`. */
static int find_format(const uint8_t *data, size_t at, size_t end, char *ret, size_t ret_size,
		       struct err *err)
{
	struct qcow2_extension ext;

	while (end - at >= sizeof(ext)) {
		memcpy(&ext, data + at, sizeof(ext));
		ext.type = be32toh(ext.type);
		ext.len = be32toh(ext.len);
		at += sizeof(ext);
		if (!ext.type)
			break;
		if (ext.len > end - at)
			return err_set(err, -EINVAL, "a qcow2 header extension is cut off");
		if (ext.type == QCOW2_EXT_BACKING_FORMAT) {
			if (ext.len >= ret_size)
				return err_set(err, -EINVAL, "qcow2 backing format is not raw or qcow2");
			memcpy(ret, data + at, ext.len);
			ret[ext.len] = '\0';
		}
		at += (ext.len + 7u) & ~7u;
		if (at > end)
			break;
	}
	return 0;
}

int qcow2_read_header(int fd, struct qcow2_info *ret, struct err *err)
{
	struct qcow2_info info = { 0 };
	uint8_t head[4096] = { 0 };
	uint64_t name_at, end;
	uint32_t name_len, header_len;
	struct qcow2_header header;
	ssize_t n = pread(fd, head, sizeof(head), 0);
	int rc;

	if (n < 0)
		return err_sys(err, -errno, "cannot read a qcow2 header");
	if ((size_t)n < sizeof(header))
		return err_set(err, -EINVAL, "too short for a qcow2 file");
	memcpy(&header, head, sizeof(header));
	if (be32toh(header.magic) != QCOW2_MAGIC)
		return err_set(err, -EINVAL, "not a qcow2 file");
	if (be32toh(header.version) != 3 || be32toh(header.cluster_bits) != QCOW2_CLUSTER_BITS ||
	    header.crypt_method || header.nb_snapshots || be32toh(header.refcount_order) != REFCOUNT_ORDER)
		return err_set(err, -EINVAL, "not a plain qcow2 file of version 3 with 64 KiB clusters");
	if (be64toh(header.incompatible) & ~(uint64_t)QCOW2_INCOMPAT_DIRTY)
		return err_set(err, -EINVAL, "qcow2 features %#llx are not supported",
			       (unsigned long long)be64toh(header.incompatible));
	info.size = be64toh(header.size);
	if (!info.size || info.size % 512 || info.size > QCOW2_DISK_MAX)
		return err_set(err, -EINVAL, "a qcow2 disk of %llu bytes is not supported",
			       (unsigned long long)info.size);
	info.l1_offset = be64toh(header.l1_offset);
	if (be32toh(header.l1_size) < QCOW2_L1_ENTRIES(info.size) || !info.l1_offset ||
	    info.l1_offset % QCOW2_CLUSTER || info.l1_offset > QCOW2_FILE_MAX)
		return err_set(err, -EINVAL, "the qcow2 L1 table is out of place");

	header_len = be32toh(header.header_length);
	name_at = be64toh(header.backing_offset);
	name_len = be32toh(header.backing_size);
	if (header_len < sizeof(header) || header_len > (size_t)n)
		return err_set(err, -EINVAL, "qcow2 header length %u", header_len);
	end = name_at ? name_at : (uint64_t)n;
	if (end < header_len || end > (uint64_t)n)
		return err_set(err, -EINVAL, "the qcow2 backing file name is out of place");
	rc = find_format(head, header_len, end, info.backing_format, sizeof(info.backing_format), err);
	if (rc)
		return rc;
	if (name_at) {
		if (name_len > QCOW2_BACKING_MAX || name_len > (uint64_t)n - name_at)
			return err_set(err, -EINVAL, "the qcow2 backing file name is too long");
		memcpy(info.backing, head + name_at, name_len);
		if (strlen(info.backing) != name_len || !bare_name(info.backing))
			return err_set(err, -EINVAL, "the qcow2 backing file is not a plain name");
		if (strcmp(info.backing_format, "raw") && strcmp(info.backing_format, "qcow2"))
			return err_set(err, -EINVAL, "qcow2 backing format is not raw or qcow2");
	}
	*ret = info;
	return 0;
}
