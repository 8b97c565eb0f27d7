/* SPDX-License-Identifier: MIT */
/*
 * qcow2.c - make an empty qcow2 overlay, and read the header of one
 *
 * Format: QEMU, docs/interop/qcow2.txt. An overlay is made on the way of every fork, so it is the smallest
 * file that is valid: four clusters, of which only the few bytes that are not zero are written.
 *
 *   cluster 0   header, the backing format's name, the backing file's name
 *   cluster 1   refcount table: one entry, for the block in cluster 2
 *   cluster 2   refcount block: 1 for each of the four clusters
 *   cluster 3   L1 table, all entries zero: everything reads from the backing file
 */
#include "snap/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau

enum {
	CLUSTER_BITS = 16,
	CLUSTER = 1 << CLUSTER_BITS,
	REFTABLE_CLUSTER = 1,
	REFBLOCK_CLUSTER,
	L1_CLUSTER,
	CLUSTERS,
	REFCOUNT_ORDER = 4, /* 16 bits each */
	/* One L2 table is a cluster of 8-byte entries, each of which maps a cluster. */
	L2_SPAN_BITS = CLUSTER_BITS - 3 + CLUSTER_BITS,
};

struct header {
	uint32_t magic, version;
	uint64_t backing_offset;
	uint32_t backing_size;
	uint32_t cluster_bits;
	uint64_t size;
	uint32_t crypt_method;
	uint32_t l1_size;
	uint64_t l1_offset;
	uint64_t reftable_offset;
	uint32_t reftable_clusters;
	uint32_t nb_snapshots;
	uint64_t snapshots_offset;
	uint64_t incompatible, compatible, autoclear;
	uint32_t refcount_order;
	uint32_t header_length;
};
_Static_assert(sizeof(struct header) == 104, "as on disk");

/* All that cluster 0 holds. */
struct first_cluster {
	struct header header;
	struct {
		uint32_t type, length;
		char name[8];
	} format;
	uint32_t end[2];
	char backing[QCOW2_BACKING_MAX + 1];
};
_Static_assert(offsetof(struct first_cluster, backing) == 128, "extensions are padded to 8 bytes");

static int write_at(int fd, const void *data, size_t n, off_t offset)
{
	ssize_t done = pwrite(fd, data, n, offset);

	if (done < 0)
		return -errno;
	return (size_t)done == n ? 0 : -ENOSPC;
}

int qcow2_create_overlay(int dirfd, const char *name, uint64_t size, const char *backing, bool backing_raw,
			 struct err *err)
{
	const char *format = backing_raw ? "raw" : "qcow2";
	size_t backing_len = strlen(backing);
	struct first_cluster first = { .header = {
					       .magic = htobe32(QCOW2_MAGIC),
					       .version = htobe32(3),
					       .backing_offset =
						       htobe64(offsetof(struct first_cluster, backing)),
					       .backing_size = htobe32((uint32_t)backing_len),
					       .cluster_bits = htobe32(CLUSTER_BITS),
					       .size = htobe64(size),
					       .l1_size = htobe32((
						       uint32_t)((size + (UINT64_C(1) << L2_SPAN_BITS) - 1) >>
								 L2_SPAN_BITS)),
					       .l1_offset = htobe64(L1_CLUSTER * CLUSTER),
					       .reftable_offset = htobe64(REFTABLE_CLUSTER * CLUSTER),
					       .reftable_clusters = htobe32(1),
					       .refcount_order = htobe32(REFCOUNT_ORDER),
					       .header_length = htobe32(sizeof(struct header)),
				       } };
	uint64_t refblock = htobe64(REFBLOCK_CLUSTER * CLUSTER);
	uint16_t refcounts[CLUSTERS];
	int fd, rc;

	if (size > QCOW2_DISK_MAX)
		return err_set(err, -ERANGE, "a disk of %llu bytes is larger than 4 TiB",
			       (unsigned long long)size);
	if (!backing_len || backing_len > QCOW2_BACKING_MAX)
		return err_set(err, -EINVAL, "'%s' cannot name a backing file", backing);
	first.format.type = htobe32(QCOW2_EXT_BACKING_FORMAT);
	first.format.length = htobe32((uint32_t)strlen(format));
	memcpy(first.format.name, format, strlen(format));
	memcpy(first.backing, backing, backing_len);
	for (int i = 0; i < CLUSTERS; i++)
		refcounts[i] = htobe16(1);

	fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(err, -errno, "cannot create layer %s", name);
	rc = write_at(fd, &first, offsetof(struct first_cluster, backing) + backing_len, 0);
	if (!rc)
		rc = write_at(fd, &refblock, sizeof(refblock), REFTABLE_CLUSTER * CLUSTER);
	if (!rc)
		rc = write_at(fd, refcounts, sizeof(refcounts), REFBLOCK_CLUSTER * CLUSTER);
	if (!rc && ftruncate(fd, CLUSTERS * CLUSTER))
		rc = -errno;
	close(fd);
	if (rc) {
		unlinkat(dirfd, name, 0);
		return err_sys(err, rc, "cannot write layer %s", name);
	}
	return 0;
}

int qcow2_read_info(int fd, const char *name, struct qcow2_info *ret, struct err *err)
{
	struct qcow2_info info = { 0 };
	struct header header;
	uint32_t backing_size;
	uint64_t backing_offset;
	ssize_t n = pread(fd, &header, sizeof(header), 0);

	if (n < 0)
		return err_sys(err, -errno, "cannot read layer %s", name);
	if (n != sizeof(header) || be32toh(header.magic) != QCOW2_MAGIC || be32toh(header.version) != 3)
		return err_set(err, -EINVAL, "layer %s is not a qcow2 file of version 3", name);
	info.size = be64toh(header.size);
	backing_size = be32toh(header.backing_size);
	backing_offset = be64toh(header.backing_offset);
	if (info.size > QCOW2_DISK_MAX || be32toh(header.cluster_bits) != CLUSTER_BITS)
		return err_set(err, -EINVAL, "layer %s has a size or cluster size that is not ours", name);
	if (backing_offset) {
		if (!backing_size || backing_size > QCOW2_BACKING_MAX || backing_offset > CLUSTER)
			return err_set(err, -EINVAL, "layer %s names its backing file wrongly", name);
		n = pread(fd, info.backing, backing_size, (off_t)backing_offset);
		if (n < 0)
			return err_sys(err, -errno, "cannot read layer %s", name);
		if (n != (ssize_t)backing_size || strlen(info.backing) != backing_size)
			return err_set(err, -EINVAL, "layer %s names its backing file wrongly", name);
	}
	*ret = info;
	return 0;
}
