/* SPDX-License-Identifier: MIT */
/* serve.h - answer file operations (enum fs_op) from an ext4 filesystem */
#ifndef SBX_VM_AGENT_BROWSE_SERVE_H
#define SBX_VM_AGENT_BROWSE_SERVE_H

#include <ext2fs/ext2fs.h>

#include "snap/qcow2/chain.h"
#include "util/buf.h"
#include "util/err.h"

enum { BROWSE_FILES_MAX = 256 };

struct browse_server {
	ext2_filsys fs;
	struct {
		uint32_t id; /* 0: free */
		ext2_file_t file;
		uint64_t size;
	} open[BROWSE_FILES_MAX];
	uint32_t last;
};

/* Open the filesystem on a chain, which stays the caller's and must outlive the server; one server at a time.
 * On failure server_close is still due. */
int server_open(struct browse_server *server, struct chain *chain, struct err *err);
void server_close(struct browse_server *server);

/* One operation: args as enum fs_op has them, after the op; results are added to reply. 0 or a negative errno
 * with nothing useful in reply. */
int serve(struct browse_server *server, uint8_t op, struct reader *args, struct buf *reply);

/* GETXATTR of an inode; args after the FILE. */
int serve_xattr(ext2_filsys fs, ext2_ino_t ino, struct reader *args, struct buf *reply);

#endif
