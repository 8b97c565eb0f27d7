/* SPDX-License-Identifier: MIT */
/*
 * listing.h - reading a directory of the tree
 *
 * A listing has the names that were there when the directory was opened; offsets are numbers of its items, so that
 * whatever offset a reader seeks to is within it or at its end. What open listings keep is counted (kept.h), and
 * may be forgotten for somebody else's: the next read of one fails with ENOMEM.
 */
#ifndef SBX_FS_TREE_LISTING_H
#define SBX_FS_TREE_LISTING_H

#include "fs/tree/fuse.h"
#include "fs/tree/object.h"
#include "fs/tree/tree.h"

/* Answers an opendir of this place, at once or when all its names have been gathered (struct dir_ops). */
void listing_open(fuse_req_t req, struct object *obj, const struct entry *place, struct fuse_file_info *fi);
/* FUSE's functions for what listing_open opened. */
void listing_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void listing_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void listing_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);

#endif
