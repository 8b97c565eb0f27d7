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

#include "snap/digest.h"
#include "snap/id.h"
#include "snap/store.h"
#include "util/err.h"

enum {
	RAMIMAGE_BLOCK = 64 << 10,
	RAMIMAGE_HEADER = 64,
	/* Each is an open file while an image is read. An image whose parent has as many is written in
	 * full. */
	RAMIMAGE_SOURCES_MAX = 64,
};
/* The largest content. */
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
	uint64_t size;     /* bytes of content */
	uint64_t data_end; /* the file's own blocks lie between RAMIMAGE_HEADER and here */
	size_t nblocks;
	struct ramimage_block *blocks;
	unsigned nsources;
	char (*sources)[ID_SIZE]; /* other objects whose blocks are used */
};
void ramimage_release(struct ramimage *image);

/* Check and take apart what lies before (the header) and behind (the tail) a file's blocks; `name` is for
 * err. */
int ramimage_parse_header(const uint8_t header[RAMIMAGE_HEADER], uint64_t file_size, const char *name,
			  struct ramimage *ret, struct err *err);
int ramimage_parse_tail(const uint8_t header[RAMIMAGE_HEADER], const uint8_t *tail, const char *name,
			struct ramimage *image, struct err *err);
/* Both, from a file. */
int ramimage_open(int fd, const char *name, struct ramimage *ret, struct err *err);
/* Bytes of the tail. */
size_t ramimage_tail_len(const struct ramimage *image);
/* The reverse: header and tail of image, for the caller to free; NULL when out of memory. */
uint8_t *ramimage_encode_tail(const struct ramimage *image, uint8_t ret_header[RAMIMAGE_HEADER]);
/* Bytes of content in a block. */
static inline size_t ramimage_block_len(const struct ramimage *image, size_t i)
{
	uint64_t left = image->size - (uint64_t)i * RAMIMAGE_BLOCK;

	return left < RAMIMAGE_BLOCK ? (size_t)left : RAMIMAGE_BLOCK;
}

/* What is to be written: a memfd, and over it those pages of another that a map has (template.h). */
struct ramimage_content {
	int memfd;
	int over_fd;        /* -1: none */
	const uint8_t *map; /* NULL: none */
	uint64_t size;      /* bytes */
};
/*
 * Write the content to the empty file fd; the caller syncs. With `parent`, the index of the
 * image in object parent_id, blocks equal to the parent's in the same place are referred to. *ret, the
 * caller's to release, is what was written.
 */
int ramimage_write(const struct ramimage_content *content, const struct ramimage *parent,
		   const char *parent_id, int fd, struct progress *progress, struct ramimage *ret,
		   struct err *err);

/* The files of image->sources, in their order: for ramimage_read and ramimage_verify to read from. */
struct ramimage_files {
	int fd;           /* of the image itself */
	const char *name; /* for err */
	const int *sources;
};
/* Read an image into a new sealed memfd with holes. */
int ramimage_read(const struct ramimage *image, const struct ramimage_files *files, struct progress *progress,
		  int *ret_memfd, struct err *err);
/* The digest (digest.h) of those of its blocks that are not its own. */
int ramimage_digest_sources(const struct ramimage *image, const struct ramimage_files *files,
			    char ret[DIGEST_TEXT], struct err *err);
/* Read and check every block, and that there are no others in the file. */
int ramimage_verify(const struct ramimage *image, const struct ramimage_files *files,
		    struct progress *progress, struct err *err);

#endif
