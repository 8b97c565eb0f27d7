/* SPDX-License-Identifier: MIT */
/*
 * ramimage.h - the content of a memfd in a file: compressed in blocks, checked, without what is zero or
 * stored elsewhere
 *
 * Used for a machine's RAM and for its device state. Byte for byte in docs/format.md. Everything here is for
 * worker threads, starts more of them where that helps, and treats files as untrusted. -EIO: damaged, and err
 * names the file and the block; -EINVAL: not ours, or of another version.
 */
#ifndef SBX_SNAP_RAMIMAGE_H
#define SBX_SNAP_RAMIMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "snap/id.h"
#include "snap/store.h"
#include "util/err.h"

enum {
	RAMIMAGE_BLOCK = 64 << 10,
	RAMIMAGE_SOURCES_MAX = 4096,
};
/* The largest RAM a file may claim to hold, so that an index can be allocated without fear. */
#define RAMIMAGE_SIZE_MAX (UINT64_C(1) << 40)

/* Where a block is; all zero for a block of zeroes. */
struct ramimage_block {
	uint64_t offset;  /* in its file */
	uint32_t len;     /* bytes there; as many as the block has: not compressed */
	uint32_t source;  /* 0: this file, n: sources[n - 1] */
	uint64_t content; /* XXH3 of the block */
	uint64_t stored;  /* XXH3 of the bytes in the file */
};

struct ramimage {
	uint64_t size;     /* bytes of RAM */
	uint64_t data_end; /* in the file: blocks lie before it */
	size_t nblocks;
	struct ramimage_block *blocks;
	unsigned nsources;
	char (*sources)[ID_SIZE]; /* other objects whose blocks are used */
};
void ramimage_release(struct ramimage *image);

/* Check and take apart what lies before (the header) and behind (the tail) a file's blocks. */
enum { RAMIMAGE_HEADER = 64 };
int ramimage_parse(const uint8_t header[RAMIMAGE_HEADER], const uint8_t *tail, size_t tail_len,
		   uint64_t file_size, const char *name, struct ramimage *ret, struct err *err);
/* Read a file's index. */
int ramimage_open(int fd, const char *name, struct ramimage *ret, struct err *err);

/* What was written. */
struct ramimage_written {
	unsigned nsources;
	char (*sources)[ID_SIZE]; /* the caller's to free */
	uint64_t stored;          /* bytes of the file */
};
/*
 * Write `size` bytes of the memfd to the empty file fd; the caller syncs. With `parent`, the index of
 * object parent_id, blocks equal to the parent's in the same place are referred to.
 */
int ramimage_write(int memfd, uint64_t size, const struct ramimage *parent, const char *parent_id, int fd,
		   struct progress *progress, struct ramimage_written *ret, struct err *err);

/*
 * The file of an object that an image refers to: a descriptor, which stays the callee's, or a negative errno.
 * Called on one thread.
 */
typedef int (*ramimage_source_fn)(void *arg, const char *id, struct err *err);

/* Read an image into a new sealed memfd with holes. */
int ramimage_read(const struct ramimage *image, int fd, const char *name, ramimage_source_fn source,
		  void *arg, struct progress *progress, int *ret_memfd, struct err *err);
/* Read and check it, and that nothing else is in the file. */
int ramimage_verify(const struct ramimage *image, int fd, const char *name, ramimage_source_fn source,
		    void *arg, struct progress *progress, struct err *err);

#endif
