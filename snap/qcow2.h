/* SPDX-License-Identifier: MIT */
/*
 * qcow2.h - make an empty qcow2 overlay, and read the header of one
 *
 * Reading and writing a disk's content is the engines' affair. All functions work relative to the directory
 * that holds every layer, and return negative errno values.
 */
#ifndef SBX_SNAP_QCOW2_H
#define SBX_SNAP_QCOW2_H

#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"

enum { QCOW2_BACKING_MAX = 255 };
/* What one cluster of L1 entries spans: 8192 entries of 512 MiB. */
#define QCOW2_DISK_MAX (UINT64_C(4) << 40)

/*
 * Create `name` in dirfd: `size` bytes that read as the file `backing` of the same directory does, "raw" or
 * qcow2. -EEXIST if there is such a file. Not synced: the loss of a machine's scratch disk in a power cut
 * loses nothing that was promised.
 */
int qcow2_create_overlay(int dirfd, const char *name, uint64_t size, const char *backing, bool backing_raw,
			 struct err *err);

struct qcow2_info {
	uint64_t size;                       /* bytes of the disk */
	char backing[QCOW2_BACKING_MAX + 1]; /* bare file name, or "" */
};

/* Read the header of an untrusted file; `name` is for err. -EINVAL: not a qcow2 file of the kind we make. */
int qcow2_read_info(int fd, const char *name, struct qcow2_info *ret, struct err *err);

#endif
