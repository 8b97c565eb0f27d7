/* SPDX-License-Identifier: MIT */
/*
 * ext4.h - make an ext4 filesystem in a file, without mounting anything and without privileges
 *
 * Owners are numbers in the new filesystem and nothing on the host, so an ordinary user makes files of
 * root's. Paths are relative to its root; leading "/" and "./" are dropped, missing directories are made
 * (root's, mode 755), a path with ".." or through something that is no directory is refused (-EINVAL,
 * -ENOTDIR). An entry replaces one of the same name, as in tar; a directory stays and gets the new
 * attributes.
 */
#ifndef SBX_CLI_EXT4_H
#define SBX_CLI_EXT4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/err.h"

struct ext4;

struct ext4_attr {
	mode_t mode; /* with the file type */
	uid_t uid;
	gid_t gid;
	int64_t mtime; /* seconds since 1970 */
};

/* Make an empty filesystem of `size` bytes in `file`, which exists and is empty. */
int ext4_new(const char *file, uint64_t size, struct ext4 **ret, struct err *err);
/* The same with one that was just made. */
int ext4_open(const char *file, struct ext4 **ret, struct err *err);
/* Write what is still in memory, if `keep`, and free. */
int ext4_close(struct ext4 *fs, bool keep, struct err *err);

int ext4_dir(struct ext4 *fs, const char *path, const struct ext4_attr *attr, struct err *err);
int ext4_symlink(struct ext4 *fs, const char *path, const char *target, const struct ext4_attr *attr,
		 struct err *err);
/* A FIFO or a device. */
int ext4_node(struct ext4 *fs, const char *path, dev_t rdev, const struct ext4_attr *attr, struct err *err);
/* Another name of the file `existing`. */
int ext4_link(struct ext4 *fs, const char *path, const char *existing, struct err *err);
/* A regular file: begin, any number of writes (what is left out is a hole), end with its size. */
int ext4_file(struct ext4 *fs, const char *path, const struct ext4_attr *attr, struct err *err);
int ext4_write(struct ext4 *fs, uint64_t offset, const void *data, size_t n, struct err *err);
int ext4_end(struct ext4 *fs, uint64_t size, struct err *err);
/* An extended attribute of the entry made last. */
int ext4_xattr(struct ext4 *fs, const char *name, const void *value, size_t n, struct err *err);

#endif
