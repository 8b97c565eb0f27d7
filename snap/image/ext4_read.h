/* SPDX-License-Identifier: MIT */
/*
 * ext4_read.h - what an inode says, of a filesystem that may be hostile (ext4_disk.h)
 *
 * All are 0 or a negative errno: -EIO for what no kernel would have written.
 */
#ifndef SBX_SNAP_IMAGE_EXT4_READ_H
#define SBX_SNAP_IMAGE_EXT4_READ_H

#include <ext2fs/ext2fs.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

int ext4_read_errno(errcode_t code);
int ext4_read_inode(ext2_filsys fs, ext2_ino_t ino, struct ext2_inode_large *ret);

uid_t ext4_uid(const struct ext2_inode_large *inode);
gid_t ext4_gid(const struct ext2_inode_large *inode);
struct timespec ext4_mtime(const struct ext2_inode_large *inode);
/* One of i_atime, i_mtime, i_ctime with its extra half. */
struct timespec ext4_time(const struct ext2_inode_large *inode, uint32_t seconds, uint32_t extra);
dev_t ext4_device(const struct ext2_inode_large *inode); /* 0 for what is none */

/* Up to n bytes of a file at offset; the number, or a negative errno. */
int ext4_read_at(ext2_file_t file, void *data, unsigned n, uint64_t offset);
/* The target of a symbolic link, which has no NUL in it; terminated. */
int ext4_read_target(ext2_filsys fs, ext2_ino_t ino, const struct ext2_inode_large *inode,
		     char ret[PATH_MAX]);
/* A name that a guest could have made: neither empty nor "." or "..", without "/" and NUL. */
bool is_entry_name(const char *name, int n);

#endif
