/* SPDX-License-Identifier: MIT */
/*
 * header.h - what a qcow2 file says of itself, and whether it is of the one shape we have
 *
 * Names and numbers are those of QEMU's docs/interop/qcow2.txt, version 3; everything on disk is big-endian.
 * One shape only is made and accepted, by whoever opens a disk: 64 KiB clusters, 16-bit refcounts, no feature
 * bits, no encryption, no internal snapshots, no external data file, and a backing file named by its bare name
 * or none. Any thread.
 */
#ifndef SBX_SNAP_QCOW2_HEADER_H
#define SBX_SNAP_QCOW2_HEADER_H

#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"

enum {
	QCOW2_CLUSTER_BITS = 16,
	QCOW2_CLUSTER = 1 << QCOW2_CLUSTER_BITS,
	QCOW2_NAME_MAX = 63, /* the store's names, ID.qcow2, are 38 */
};

/* One cluster of L1 entries reaches so far; larger disks are refused. */
#define QCOW2_DISK_MAX (4ull << 40)
/* No offset in a file is beyond: room for every cluster of such a disk, and what describes them. A refcount
 * table of one cluster counts twice as much. */
#define QCOW2_FILE_MAX (8ull << 40)

/* A cluster of L2 entries reaches QCOW2_L2_ENTRIES clusters, 512 MiB. */
enum { QCOW2_L2_ENTRIES = QCOW2_CLUSTER / 8 };
#define QCOW2_L1_ENTRIES(size) (((size) + (512ull << 20) - 1) / (512ull << 20))

/* What a file says, checked. */
struct qcow2_info {
	uint64_t size;      /* bytes of the disk; of a file with a header a multiple of 512 */
	uint64_t file_size; /* bytes of the file, at most QCOW2_FILE_MAX */
	/* Of a file with a header. Both tables are inside the file, at the start of a cluster. */
	char backing[QCOW2_NAME_MAX + 1]; /* the name of the file it builds on, or "" */
	uint64_t l1_offset;               /* QCOW2_L1_ENTRIES(size) entries */
	uint64_t reftable_offset;         /* one cluster */
};

/*
 * Is this the name of a layer: lower-case letters, digits, '-' and '.', not beginning with one, so that QEMU,
 * too, takes it for a file in the same directory; and .raw or .qcow2 at the end, which is the file's format?
 */
bool qcow2_name_valid(const char *name);
bool qcow2_name_raw(const char *name); /* of a valid one */

/*
 * Read and check what an untrusted file says; a raw one has no header and is all disk. -EINVAL with the reason
 * when it is no regular file, or not of the shape above.
 */
int qcow2_inspect(int fd, bool raw, struct qcow2_info *ret, struct err *err);

#endif
