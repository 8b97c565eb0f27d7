/* SPDX-License-Identifier: MIT */
/*
 * pack.h - from a filesystem to the one layer of an image: a tar, compressed or not
 *
 * The filesystem may be a guest's, and hostile. What a layer cannot say is refused (names that begin with .wh.,
 * which mean that something is missing) or left out (sockets, lost+found, attributes that mean nothing elsewhere, as
 * unpack.c has them). Holes stay holes.
 */
#ifndef SBX_SNAP_IMAGE_PACK_H
#define SBX_SNAP_IMAGE_PACK_H

#include <ext2fs/ext2fs.h>
#include <stdbool.h>
#include <stdint.h>

#include "snap/image/confined.h"
#include "snap/image/oci.h"
#include "util/buf.h"
#include "util/err.h"

struct pack_result {
	char digest[OCI_DIGEST + 1];  /* of the layer as it was written */
	char diff_id[OCI_DIGEST + 1]; /* of the tar in it */
	uint64_t size;                /* bytes written */
};

/* Write the layer to out_fd, and put what the image says of commands into *ret_config. */
int pack_layer(ext2_filsys fs, int out_fd, bool gzip, struct confined_count *count, struct pack_result *ret,
	       struct buf *ret_config, struct err *err);

#endif
