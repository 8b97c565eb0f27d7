/* SPDX-License-Identifier: MIT */
/*
 * ext4.h - make an ext4 filesystem in a file, without mounting anything and without privileges
 *
 * Owners are numbers in the new filesystem and nothing on the host, so an ordinary user makes files of
 * root's. Paths are relative to its root; leading "/" and "./" are dropped, missing directories are made
 * (root's, mode 755, of 1970, as its root is until an entry says more), a path with ".." is refused
 * (-EINVAL). Links on the way are followed as in a machine whose root it is, so nothing leads out; through
 * what is no directory there is no way (-ENOTDIR). An entry replaces what has its name, a directory with all
 * that is in it; where both are directories it stays and gets the new attributes.
 *
 * Names are kept in memory and directories written at the end. A filesystem has at most EXT4_NAMES_MAX names
 * (-E2BIG), EXT4_DEPTH_MAX deep (-ENAMETOOLONG). One thread. Once anything has failed, only ext4_close may
 * follow.
 */
#ifndef SBX_SNAP_IMAGE_EXT4_H
#define SBX_SNAP_IMAGE_EXT4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "util/err.h"

enum { EXT4_NAMES_MAX = 2000000, EXT4_DEPTH_MAX = 1000 };

struct ext4;

struct ext4_attr {
	mode_t mode; /* with the file type */
	uid_t uid;
	gid_t gid;
	struct timespec mtime;
};

/* Make an empty filesystem of `size` bytes in `file`, which exists and is empty. Runs mke2fs. */
int ext4_make(const char *file, uint64_t size, struct err *err);
/* Begin to fill one that was just made. */
int ext4_open(const char *file, struct ext4 **ret, struct err *err);
/* Both. */
int ext4_new(const char *file, uint64_t size, struct ext4 **ret, struct err *err);
/* Write what is still in memory, if `keep`, and free. */
int ext4_close(struct ext4 *fs, bool keep, struct err *err);

int ext4_dir(struct ext4 *fs, const char *path, const struct ext4_attr *attr, struct err *err);
int ext4_symlink(struct ext4 *fs, const char *path, const char *target, const struct ext4_attr *attr,
		 struct err *err);
/* A FIFO or a device. */
int ext4_node(struct ext4 *fs, const char *path, dev_t rdev, const struct ext4_attr *attr, struct err *err);
/* Another name of the file `existing`, which is no directory. */
int ext4_link(struct ext4 *fs, const char *path, const char *existing, struct err *err);
/* A regular file: begin, any number of writes in rising order (what is left out, and blocks of zeros, are
 * holes), end with its size. */
int ext4_file(struct ext4 *fs, const char *path, const struct ext4_attr *attr, struct err *err);
int ext4_write(struct ext4 *fs, uint64_t offset, const void *data, size_t n, struct err *err);
int ext4_end(struct ext4 *fs, uint64_t size, struct err *err);
/* An extended attribute of the entry made last. */
int ext4_xattr(struct ext4 *fs, const char *name, const void *value, size_t n, struct err *err);
/* One of the root, of up to 64 KiB: where a block is not enough it gets an inode of its own. Nothing but ext4_close may
 * follow. */
int ext4_root_xattr(struct ext4 *fs, const char *name, const void *value, size_t n, struct err *err);

/* What follows is a layer above all that is there. */
void ext4_layer(struct ext4 *fs);
/*
 * A whiteout, as layers of images have them: `DIR/.wh.NAME` takes NAME of the layers below away, and
 * `DIR/.wh..wh..opq` all that they have in DIR. Whatever this layer has brought stays, before and after.
 * Other names of the kind `.wh..wh.` are marks that mean nothing here.
 */
bool ext4_is_whiteout(const char *path);
int ext4_whiteout(struct ext4 *fs, const char *path, struct err *err);

#endif
