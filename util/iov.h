/* SPDX-License-Identifier: MIT */
/*
 * iov.h - whole transfers between a file and memory in several pieces
 *
 * All return 0 or a negative errno, retry EINTR, and move the cursor on behind what was transferred. The
 * pieces from the cursor on must have at least len bytes.
 */
#ifndef SBX_UTIL_IOV_H
#define SBX_UTIL_IOV_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* A place in an I/O vector. */
struct cursor {
	const struct iovec *iov;
	size_t offset; /* in *iov */
};

/* What is behind the file's end reads as zero. */
int preadv_padded(int fd, struct cursor *to, uint64_t len, uint64_t offset);
int pwritev_all(int fd, struct cursor *from, uint64_t len, uint64_t offset);
void cursor_zero(struct cursor *to, uint64_t len);

#endif
