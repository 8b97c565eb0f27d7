/* SPDX-License-Identifier: MIT */
/* files.h - shared by files.c, attr.c, xattr.c, listing.c and names.c, which answer F_FS */
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

/* A FILE of the host's: its descriptor, of an open file, or O_PATH and to be closed. -1: none. */
struct guest_ref {
	int fd;
	struct guest_open *open; /* the open file, until another is opened */
	bool ours;
	bool checked;
	struct fs_attr attr; /* what it was when it was checked, but for FSA_NO_XATTR */
};

/* A NAME of the host's: a directory and the name of an entry in it. */
struct guest_place {
	struct guest_ref dir;
	char name[NAME_MAX + 1];
};

enum { GUEST_PROC_PATH = 32 };
/* Where /proc has a descriptor. */
void guest_proc_path(char ret[GUEST_PROC_PATH], int fd);

/* What op_* tell the host for "not the file you know" (PROTO_STALE). */
#define GUEST_STALE (-PROTO_STALE)

/* Absolute, without empty, "." and ".." components; "/" itself is fine. */
bool guest_path_valid(const char *path);
/* The next arguments; with O_DIRECTORY a path is a directory's, and what is done in an open file that is none fails by
 * itself. Sets *ret also when it fails. 0 or a negative errno. */
int guest_file_get(struct guest_request *rq, int flags, struct guest_ref *ret);
int guest_place_get(struct guest_request *rq, struct guest_place *ret);
void guest_ref_close(struct guest_ref *ref);

/* Open files by their numbers, which are not used again for long. Does not consume fd where it fails. */
int guest_handle_new(struct guest_files *files, int fd, uint32_t *ret);
int guest_handle_fd(const struct guest_files *files, uint32_t id);
struct guest_open *guest_handle_find(const struct guest_files *files, uint32_t id); /* NULL: none */
int guest_handle_close(struct guest_files *files, uint32_t id);

/* What a name in a directory, or a descriptor itself (""), is; links are not followed. */
int guest_attr(int dir, const char *name, struct fs_attr *ret);
/* The same without a look for extended attributes: FSA_NO_XATTR is not set. */
int guest_attr_bare(int dir, const char *name, struct fs_attr *ret);
/* The same as attr in a reply, with a link's target. */
int guest_put_attr(struct buf *reply, int dir, const char *name);
/* The same, bare, of a directory that something was done in, at the end of a reply. */
void guest_put_dir(struct guest_request *rq, const struct guest_ref *dir);
int guest_put_target(struct buf *reply, int dir, const char *name);

/* Who makes a file, and its mode: with S_ISUID and its like, and before the umask. */
struct guest_maker {
	uint32_t mode, umask, uid, gid;
};
void guest_maker_get(struct guest_request *rq, struct guest_maker *ret);

/* What comes between, if `other`, is done as by a user other than root to whom all is allowed: S_ISUID and
 * S_ISGID of the file go (CAP_FSETID in capabilities(7)). */
void guest_other_begin(bool other);
void guest_other_end(bool other);

/* Whose group a new file in a directory has, where the host's caller has this one: a setgid directory's. */
gid_t guest_group(int dir, gid_t gid);

/* Has a new file in a directory, which we made, its owner already? A change to what it is costs as much as any. */
bool guest_is_owned(const struct stat *st, int dir, const struct guest_maker *maker);

/* There are extended attributes, or may be, of a name in a directory, or of a descriptor itself (""). */
bool guest_has_xattr(int dir, const char *name);
/* Many names of one directory are asked for in between. */
void guest_has_xattr_begin(int dir);
void guest_has_xattr_end(void);

int guest_op_getxattr(struct guest_request *rq);
int guest_op_setxattr(struct guest_request *rq);
int guest_op_removexattr(struct guest_request *rq);
int guest_op_xattr_part(struct guest_request *rq);
int guest_op_getattr(struct guest_request *rq);
int guest_op_lookup(struct guest_request *rq);
int guest_op_setattr(struct guest_request *rq);
int guest_op_readlink(struct guest_request *rq);
int guest_op_readdir(struct guest_request *rq);
int guest_op_opendir(struct guest_request *rq);
int guest_op_mkdir(struct guest_request *rq);
int guest_op_mknod(struct guest_request *rq);
int guest_op_symlink(struct guest_request *rq);
int guest_op_unlink(struct guest_request *rq);
int guest_op_rmdir(struct guest_request *rq);
int guest_op_rename(struct guest_request *rq);
int guest_op_link(struct guest_request *rq);

#endif
