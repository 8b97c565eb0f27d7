/* SPDX-License-Identifier: MIT */
/* files.h - shared by files.c and names.c, which answer F_FS */
#ifndef SBX_VM_AGENT_GUEST_FILES_H
#define SBX_VM_AGENT_GUEST_FILES_H

#include <limits.h>
#include <sys/stat.h>

#include "vm/agent/guest/agent.h"

/* An operation reads its arguments and adds its results; it returns 0 or a negative errno. */
struct guest_request {
	struct guest_files *files;
	struct reader args;
	struct buf reply;
};

/* A directory, open, and the name of an entry in it. The caller closes dir where it is not -1. */
struct guest_place {
	char path[PATH_MAX];
	const char *name;
	int dir;
};

/* Absolute, without empty, "." and ".." components; "/" itself is fine. */
bool guest_path_valid(const char *path);
/* The next argument, a valid path; 0 or -EINVAL. */
int guest_path_get(struct reader *r, char ret[PATH_MAX]);
/* An O_PATH descriptor, or a negative errno. */
int guest_path_open(const char *path, int flags);
/* The next argument as a place. -EBUSY: it is the root itself. */
int guest_place_get(struct reader *r, struct guest_place *ret);

void guest_put_stat(struct buf *reply, const struct stat *st);
/* The target of a link, by name, or of an O_PATH descriptor of one ("") */
int guest_put_target(struct buf *reply, int dir, const char *name);

int guest_op_mkdir(struct guest_request *rq);
int guest_op_mknod(struct guest_request *rq);
int guest_op_symlink(struct guest_request *rq);
int guest_op_unlink(struct guest_request *rq);
int guest_op_rmdir(struct guest_request *rq);
int guest_op_rename(struct guest_request *rq);
int guest_op_link(struct guest_request *rq);

#endif
