/* SPDX-License-Identifier: MIT */
/*
 * qcow2.h - the qcow2 file format as far as the store needs it: empty overlays, and what a header says
 *
 * Names and numbers are those of QEMU's docs/interop/qcow2.txt, version 3; everything on disk is big-endian.
 * The store makes and accepts one shape only: 64 KiB clusters, 16-bit refcounts, no encryption, no internal
 * snapshots, no external data file, a backing file named by its bare name or none.
 */
#ifndef SBX_SNAP_QCOW2_HEADER_H
#define SBX_SNAP_QCOW2_HEADER_H

#include <stdint.h>

#include "util/err.h"

enum {
	QCOW2_CLUSTER_BITS = 16,
	QCOW2_CLUSTER = 1 << QCOW2_CLUSTER_BITS,
	QCOW2_BACKING_MAX = 63, /* ID.qcow2 is 38 */
};

/* One cluster of L1 entries reaches so far; larger disks are refused. */
#define QCOW2_DISK_MAX (4ull << 40)
/* No offset in a file is beyond: room for every cluster of such a disk, and what describes them. */
#define QCOW2_FILE_MAX (8ull << 40)

/* What a header says, checked. */
struct qcow2_info {
	uint64_t size;                       /* bytes of the disk */
	char backing[QCOW2_BACKING_MAX + 1]; /* bare file name, or "" */
	char backing_format[8];              /* "raw", "qcow2", or "" without a backing file */
	uint64_t l1_offset; /* aligned to a cluster; QCOW2_L1_ENTRIES(size) big-endian entries */
};

/* A cluster of L2 entries reaches QCOW2_L2_ENTRIES clusters, 512 MiB. */
enum { QCOW2_L2_ENTRIES = QCOW2_CLUSTER / 8 };
#define QCOW2_L1_ENTRIES(size) (((size) + (512ull << 20) - 1) / (512ull << 20))

/*
 * Write an empty overlay of `size` bytes (a multiple of 512) on the file `backing` into the empty file fd.
 * Nothing is synced.
 */
int qcow2_create_overlay(int fd, uint64_t size, const char *backing, const char *backing_format,
			 struct err *err);

/* Write a header into the first cluster of an empty file; what it points at is the caller's to write. */
struct qcow2_layout {
	uint64_t size;
	const char *backing, *backing_format;
	uint64_t reftable_offset;
	uint32_t reftable_clusters;
	uint64_t l1_offset;
};
int qcow2_write_header(int fd, const struct qcow2_layout *layout, struct err *err);

/*
 * Read and check an untrusted header. -EINVAL with the reason when it is not a qcow2 file of the shape above,
 * or refers to any file but a plain name beside itself.
 */
int qcow2_read_header(int fd, struct qcow2_info *ret, struct err *err);

#endif
