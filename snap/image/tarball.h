/* SPDX-License-Identifier: MIT */
/*
 * tarball.h - a tar, compressed or not, as a stream: its checksums, and how much may come of it
 *
 * Decompression, checksums and entries are three steps of one pass: nothing is kept but what the filesystem
 * takes. `budget` is what all that an import decompresses may still come to, so that a small archive cannot
 * keep us busy for ever.
 */
#ifndef SBX_SNAP_IMAGE_TARBALL_H
#define SBX_SNAP_IMAGE_TARBALL_H

#include "snap/image/blob.h"
#include "snap/image/ext4.h"

enum { TARBALL_BUFFER = 256 << 10 };

struct tarball {
	/* Where the bytes come from: a blob, or a descriptor, read from where it is. */
	struct blob *blob;
	int fd;
	atomic_uint_fast64_t *done; /* counts what is read of fd, or NULL */
	uint64_t *budget;

	struct archive *unzip, *tar;
	bool hash_in, hash_out;
	struct sha256_ctx in, out;
	uint64_t plain_len; /* decompressed so far, for the tar */
	struct err err;     /* why a callback failed */
	struct buf *kept;   /* what was decompressed so far; NULL: nobody wants it any more */
	uint8_t raw[TARBALL_BUFFER], plain[TARBALL_BUFFER];
};

/* Open both archives; tarball->blob or fd, done, budget, kept and hash_* are given. tarball_close in any case. */
int tarball_open(struct tarball *tarball, struct err *err);
bool tarball_is_compressed(const struct tarball *tarball);
/* The next decompressed bytes; 0 at the end. *ret is valid until the next call. For who wants no entries. */
ssize_t tarball_read(struct tarball *tarball, const void **ret, struct err *err);
/* Read to the end, and compare: digests may be "". */
int tarball_end(struct tarball *tarball, const char *digest, const char *diff_id, struct err *err);
void tarball_close(struct tarball *tarball);

/* A layer of an image goes onto what is there. */
int tarball_apply(struct ext4 *fs, const struct container *container, const struct oci_ref *ref,
		  const char *diff_id, uint64_t *budget, struct err *err);

#endif
