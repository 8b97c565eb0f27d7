/* SPDX-License-Identifier: MIT */
/*
 * digest.h - SHA-256 of what may be mostly zeroes: files of an archive, disks, sets of blocks
 *
 * XXH3 finds damage; whoever means harm makes other bytes with the same one. So what one store says to another of
 * what it has is said with this: of the size (u64, little-endian), and then of each block of 64 KiB, the last may
 * be shorter, that is not all zero, its offset (u64) and its bytes (docs/format.md).
 */
#ifndef SBX_SNAP_DIGEST_H
#define SBX_SNAP_DIGEST_H

#include <nettle/sha2.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

enum { DIGEST_BLOCK = 64 * 1024, DIGEST_TEXT = 2 * SHA256_DIGEST_SIZE + 1 };

struct digest {
	struct sha256_ctx sha;
};

void digest_begin(struct digest *digest, uint64_t size);
/* Blocks in rising order. */
void digest_block(struct digest *digest, uint64_t offset, const void *data, size_t n);
/* As lower-case hexadecimal digits. */
void digest_end(struct digest *digest, char ret[DIGEST_TEXT]);

/* [worker] Of a disk, as a guest reads it through dir_fd/file and all layers below. */
int digest_disk(int dir_fd, const char *file, char ret[DIGEST_TEXT], struct err *err);

#endif
