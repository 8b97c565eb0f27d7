/* SPDX-License-Identifier: MIT */
/*
 * unpack.h - what is in an archive goes into a new filesystem
 *
 * Nothing is unpacked on the host: entries go straight to where no path has a way out (ext4.h). Devices are
 * taken where they belong, in dev/, which the kernel of a machine covers anyway, and refused elsewhere (-EPERM).
 * Sockets are left out. Of extended attributes those stay that mean the same in a machine: user.*, trusted.*,
 * file capabilities and access lists.
 */
#ifndef SBX_SNAP_IMAGE_UNPACK_H
#define SBX_SNAP_IMAGE_UNPACK_H

#include <archive.h>
#include <archive_entry.h>
#include <stdbool.h>

#include "snap/image/ext4.h"

struct unpack {
	struct ext4 *fs;
	struct archive *archive; /* open; a tar, or a directory of the host's */
	size_t strip;            /* bytes of each path that are the source's own */
	bool is_dir;             /* a directory: files of whoever runs this become root's */
	bool is_layer;           /* names that begin with .wh. are whiteouts */
};

/* The entry whose header was read last. */
int unpack_entry(const struct unpack *unpack, struct archive_entry *entry, struct err *err);
/* All that follow, to the end of the archive. */
int unpack_rest(const struct unpack *unpack, struct err *err);

/* All of a directory of the host. */
int unpack_dir(struct ext4 *fs, const char *dir, struct err *err);

/* Whether an extended attribute means the same in a machine, and in another image. */
bool unpack_keeps_xattr(const char *name);

/* What libarchive says went wrong. */
int unpack_failed(struct archive *archive, const char *what, struct err *err);

#endif
