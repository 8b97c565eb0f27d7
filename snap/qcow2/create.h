/* SPDX-License-Identifier: MIT */
/* create.h - new qcow2 files. Nothing is synced. Any thread. */
#ifndef SBX_SNAP_QCOW2_CREATE_H
#define SBX_SNAP_QCOW2_CREATE_H

#include <stdint.h>

#include "util/err.h"

/*
 * Write an empty overlay of `size` bytes, the size of the disk it builds on, into the empty file fd. `backing`
 * is a valid layer's name (header.h).
 */
int qcow2_create_overlay(int fd, uint64_t size, const char *backing, struct err *err);

/* Write a header into the first cluster of an empty file; what it points at is the caller's to write. */
struct qcow2_layout {
	uint64_t size;
	const char *backing;
	uint64_t reftable_offset; /* one cluster */
	uint64_t l1_offset;
};
int qcow2_write_header(int fd, const struct qcow2_layout *layout, struct err *err);

/* Change the name of the backing file, in a file that qcow2_inspect accepted, to one of the same length and format. */
int qcow2_rename_backing(int fd, const char *backing, struct err *err);

#endif
