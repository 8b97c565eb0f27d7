/* SPDX-License-Identifier: MIT */
/*
 * ext4_disk.h - a disk for libext2fs: layers, and on top what the journal holds for it
 *
 * A process has one disk at a time; it is read only, and by one thread. What is on it may be hostile.
 */
#ifndef SBX_SNAP_IMAGE_EXT4_DISK_H
#define SBX_SNAP_IMAGE_EXT4_DISK_H

#include <ext2fs/ext2fs.h>
#include <stdbool.h>
#include <stdint.h>

#include "snap/qcow2/chain.h"
#include "util/err.h"

/* A filesystem block whose newest content is in the journal. */
struct redo {
	uint64_t block; /* of the filesystem */
	uint64_t from;  /* block in the journal that has the content */
	uint32_t order; /* later ones win */
	bool escaped;   /* it began with the journal's magic number, which was zeroed */
};

/* The manager reads from here. */
void disk_set_chain(struct chain *chain);
/* Put n blocks over the disk, in any order; the array is the callee's from now on. */
void disk_set_redo(struct redo *redo, size_t n, unsigned block_size);
/* 0 or a negative errno. */
int disk_read(void *data, size_t n, uint64_t offset);

extern struct struct_io_manager disk_io_manager;

/* The filesystem on a chain, with what its journal still has to say. The chain stays the caller's and must outlive
 * it; ext4_view_close also after a failure. */
int ext4_view_open(struct chain *chain, ext2_filsys *ret, struct err *err);
void ext4_view_close(ext2_filsys fs); /* NULL is allowed */

#endif
