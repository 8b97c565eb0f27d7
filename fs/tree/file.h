/* SPDX-License-Identifier: MIT */
/* file.h - open files of the tree: texts, commands and streams */
#ifndef SBX_FS_TREE_FILE_H
#define SBX_FS_TREE_FILE_H

#include "fs/tree/tree.h"

enum {
	/* What stat says of a file whose text is expensive to produce (/proc of every VMM). Not 0, for busybox cat
	 * reads nothing from a file of size 0. */
	COSTLY_SIZE = 4096,
	STREAM_SIZE = 1 << 20, /* and of a stream: see file_read */
	WRITE_MAX = CTL_MAX,
	/*
	 * What surely comes in one piece: a longer write(2) may reach us in several of up to 256 pages
	 * (FUSE_MAX_MAX_PAGES), the first of which is less by where in its page it begins.
	 */
	LONG_WRITE_MAX = 255 * 4096,
};

uint64_t file_size(struct object *obj, const struct entry *entry, struct err *err);
/* Cut to nothing: a text of lines is then empty, and to others it means nothing. 0, or a negative errno with
 * the sentence in `error`. */
int file_truncate(struct object *obj, const struct entry *entry);
void file_open(fuse_req_t req, struct object *obj, const struct entry *entry, struct fuse_file_info *fi);

void file_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void file_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
		struct fuse_file_info *fi);
void file_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void file_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void file_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void file_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void file_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph);

#endif
