/* SPDX-License-Identifier: MIT */
/*
 * member.h - the container of an archive: named files in one stream, written and read from front to back
 *
 * A file travels as chunks of at most MEMBER_CHUNK bytes, compressed where that helps; what no chunk covers
 * is a hole. Every byte is under a checksum, so a reader finds damage before it uses what it read; and the last
 * file, which neither side's caller sees, has a digest of each of the others (digest.h). Byte for byte in
 * docs/format.md. Archives of version 1 have no digests. For worker threads: both sides block on their descriptor, a pipe as a rule.
 */
#ifndef SBX_SNAP_MEMBER_H
#define SBX_SNAP_MEMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "snap/digest.h"
#include "util/buf.h"
#include "util/err.h"

enum { MEMBER_CHUNK = 64 * 1024, MEMBER_NAME_MAX = 63 };

struct member_writer {
	int fd;
	uint64_t count; /* members so far */
	uint8_t *packed;
	struct digest digest; /* of the present file */
	struct buf digests;   /* lines NAME HEX */
	char name[MEMBER_NAME_MAX + 1];
};

/* Start an archive on fd, which stays the caller's. On failure nothing needs releasing. */
int member_writer_begin(struct member_writer *w, int fd, struct err *err);
/* Start a file of `size` bytes; member_chunk its content, in rising order; member_end. */
int member_begin(struct member_writer *w, const char *name, uint64_t size, struct err *err);
/* All of a block, or of the last one: offset is a multiple of MEMBER_CHUNK. try_pack: see whether LZ4 makes it smaller. */
int member_chunk(struct member_writer *w, uint64_t offset, const void *data, size_t n, bool try_pack,
		 struct err *err);
int member_end(struct member_writer *w, uint64_t size, struct err *err);
/* The archive is complete. */
int member_writer_end(struct member_writer *w, struct err *err);
void member_writer_release(struct member_writer *w);

struct member_reader {
	int fd;
	unsigned version;
	bool ended; /* the digests came, and fit */
	uint64_t count;
	uint64_t size, at; /* of the present file: its length, and where the next chunk may start */
	uint8_t *packed, *chunk;
	struct digest digest;
	struct buf digests;
	char name[MEMBER_NAME_MAX + 1];
};

int member_reader_begin(struct member_reader *r, int fd, struct err *err);
/* The next file, when the one before was read to its end: 1 with its name and size; 0 at the end of the archive, all
 * of which fits its digests then, and behind which there is nothing. */
int member_next(struct member_reader *r, char name[MEMBER_NAME_MAX + 1], uint64_t *ret_size, struct err *err);
/* Its next chunk: 1 with *ret_data valid until the next call; 0 when it is complete. */
int member_read(struct member_reader *r, uint64_t *ret_offset, const uint8_t **ret_data, size_t *ret_n,
		struct err *err);
void member_reader_release(struct member_reader *r);

#endif
