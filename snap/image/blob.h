/* SPDX-License-Identifier: MIT */
/*
 * blob.h - the files of a container image, wherever it is
 *
 * A container is a directory (an OCI layout), whose files somebody else opens for us, or a tar archive without
 * compression, in which members are found by name. All that is read may be hostile.
 */
#ifndef SBX_SNAP_IMAGE_BLOB_H
#define SBX_SNAP_IMAGE_BLOB_H

#include <archive.h>
#include <nettle/sha2.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "snap/image/oci.h"
#include "util/buf.h"
#include "util/err.h"

struct container {
	int tar_fd;    /* the tar, seekable; -1: a directory */
	int broker_fd; /* a socket to whoever opens files of the directory (broker_open) */
	uint64_t tar_size;
	atomic_uint_fast64_t *done; /* bytes of blobs that were read, counted for a bar; or NULL */
};

struct blob;

/* name: "index.json", "blobs/sha256/HEX", a member's name. -ENOENT. */
int blob_open(const struct container *container, const char *name, struct blob **ret, struct err *err);
void blob_close(struct blob *blob);
uint64_t blob_size(const struct blob *blob);
/* Up to n bytes; 0 at the end. */
ssize_t blob_read(struct blob *blob, void *data, size_t n, struct err *err);

/* A document, whole: at most OCI_DOCUMENT_MAX bytes, with the size and digest that ref gives. */
int blob_document(const struct container *container, const struct oci_ref *ref, struct buf *ret,
		  struct err *err);

/* -EIO unless the sum of what was hashed is `digest` ("": anything goes). */
int digest_check(struct sha256_ctx *sum, const char *digest, const char *what, struct err *err);

/* libarchive reads a seekable file from its beginning; the archive is not opened yet. */
struct tar_file {
	int fd;
	uint64_t at, size;
	uint8_t data[128 << 10];
};
int tar_open(struct archive *archive, struct tar_file *file, struct err *err);

/*
 * The other side of broker_fd, in a process that may open files: answers one request for a file of the
 * layout in dir_fd. Only index.json, oci-layout and blobs/sha256/HEX are opened, and no links followed.
 * False: nobody asks any more.
 */
bool broker_answer(int fd, int dir_fd);

#endif
