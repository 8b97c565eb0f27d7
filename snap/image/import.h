/* SPDX-License-Identifier: MIT */
/*
 * import.h - from what people have to a filesystem: directories, tars, docker archives, OCI layouts
 *
 * A directory with an index.json and oci-layout is an OCI layout; any other is the root of a machine. A file is a
 * tar, compressed or not: if it has what an OCI layout or `docker save` has, it is that, else the root of a
 * machine.
 *
 * Archives and layouts come from anywhere, so they are read in a process of its own, which has the source and
 * the new disk open, and nothing else: no file can be opened, no socket made, no program run (its system call
 * filter), its memory is bounded, and it has no privileges. What it says is checked. A directory of the host's
 * is read by the caller: its names and attributes come from the kernel, and its files are copied as they are.
 */
#ifndef SBX_SNAP_IMAGE_IMPORT_H
#define SBX_SNAP_IMAGE_IMPORT_H

#include <stdatomic.h>
#include <stdint.h>

#include "util/buf.h"
#include "util/err.h"

struct image_import {
	const char *source; /* a path, or "-" for standard input */
	const char *disk;   /* a path of the new disk: a file without content, of the disk's size */
	uint64_t size;      /* of the disk */
	struct buf config;  /* what the image says of commands; the caller's to release */
	/* Called a few times a second; total is 0 if nobody knows. */
	void (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

/* Blocks. A disk whose import failed is of no use. */
int image_import(struct image_import *import, struct err *err);

/* How large a disk will do for a source: an estimate, at least 2 GiB. -ENOENT and others where there is no such
 * source. One thread at a time. */
int image_import_size(const char *source, uint64_t *ret, struct err *err);

/* The part in the jail, without it, for tests: fill `disk` from the open file fd or, when that is -1, from
 * the layout that broker_fd asks for (blob.h). spool_fd: an empty file that may be used. */
struct import_input {
	int fd, broker_fd, spool_fd;
	const char *tag;
	uint64_t budget;
	atomic_uint_fast64_t *done, *total;
};
struct ext4;
int import_fill(struct ext4 *fs, const struct import_input *input, struct buf *ret_config, struct err *err);

#endif
