/* SPDX-License-Identifier: MIT */
/*
 * guest_names.h - fs/: the files of a guest, through its agent; or of a snapshot, through a helper like one
 *
 * A node is a file, whatever its names: the guest's id of it (vm/agent/proto.h) makes it, so that hard links
 * have one inode here too. The guest is asked by an open file's handle, or else by a path that is made of
 * names when it is needed, and with the id: where another file has that name by now the answer is ESTALE, on
 * which the kernel looks the path up again. A directory, and what is neither that nor a regular file, is a
 * node for each name all the same: a guest may show a directory in two places, which the kernel does not
 * believe, and what a symbolic link may say depends on where it is.
 *
 * Nothing is cached here, and by the kernel only for a moment, since the guest changes its files itself.
 */
#ifndef SBX_FS_GUEST_GUEST_NAMES_H
#define SBX_FS_GUEST_GUEST_NAMES_H

#include <limits.h>

#include "fs/fs.h"
#include "fs/tree/tree.h"
#include "vm/agent/channel.h"

/* How long a guest may take for an operation; and for one during which the host's kernel holds a lock of the
 * whole mount (guest_lock.c). */
enum { GUEST_TIMEOUT_MS = 30000, GUEST_LOCKED_MS = 1500 };
/* How long the kernel may keep what it was told: one walk of a path, not two questions a component. */
#define GUEST_CACHE_S 0.1

/* How an object's files are reached. */
struct guest_ops {
	/* 0 when there is an agent to ask, or why not. */
	int (*usable)(struct object *obj);
	struct agent *(*agent)(const struct object *obj); /* NULL: none */
	uint64_t (*epoch)(const struct object *obj);      /* counts agents: another has other handles */
	void (*path)(const struct object *obj, char *ret, size_t size); /* of its directory, in the mount */
	int lost; /* errno when the agent ends while it is asked */
	bool readonly;
};

struct guest_name {
	struct list link; /* node->names */
	struct guest_node *node;
	struct guest_node *parent; /* a reference */
	struct guest_name *next;   /* in the parent's bucket */
	uint32_t hash;
	char *name;
};

struct guest_ahead;
struct guest_call;

/* In which order the files of a directory are opened (guest_opened.c). */
struct guest_row {
	struct guest_node *last; /* of that directory; NULL: none */
	uint64_t ns;
	unsigned listed, numbers; /* how many in a row, by the listing and by their numbers */
};

/* All names of a directory were known at a time (guest_new.c). */
struct guest_made {
	uint64_t ns;           /* CLOCK_MONOTONIC; 0: they are not */
	uint64_t epoch, voids; /* while these are those of the machine and of guest->voids */
	unsigned doubts;       /* counts what may have made another */
	bool asking;           /* a listing is on its way */
};

struct guest_node {
	struct node node;
	unsigned refs; /* one while the kernel knows it, one for each child, open file and call under way */
	bool known;    /* the kernel has it */
	struct guest_mount *guest; /* of an object; a reference to that is held */
	const struct entry *entry; /* the root: its place in our tree; NULL: another */
	struct list names; /* struct guest_name, the one that was seen last first; none: it was removed */
	unsigned n_names;
	struct guest_name *first;    /* while there are few children: the only bucket */
	struct guest_name **buckets; /* n_buckets of children, by their hash */
	unsigned n_buckets, n_children;
	struct list files; /* struct guest_file: open ones */
	struct fs_id id;
	uint32_t type;
	struct guest_ahead *ahead; /* of a directory: entries that were asked for ahead of their lookups */
	struct guest_made made;
	uint64_t missed_ns; /* when a name was looked up that was not among them, */
	unsigned missed;    /* and how many were in a row */
	uint64_t
		listed_at; /* the cookie of the chunk of it that was listed last; 0: the first, or none is open */
	bool shared;       /* found by its id, in guest->files */
	struct guest_node *next;      /* in that bucket */
	struct list fresh;            /* guest->fresh */
	uint64_t told_ns;             /* when the kernel was told its attributes */
	uint64_t bare_ns;             /* until then it has no extended attributes, */
	uint64_t bare_changes;        /* while this is guest->changes; 0: it may have */
	struct fs_attr kept;          /* guest_kept.c: attributes that were asked for at kept_ns, 0: none, */
	uint64_t kept_ns, kept_voids; /* and when guest->voids was this */
	unsigned touched;             /* counts what may have changed them */
	struct list listed;           /* of a directory: regular files, as they were listed last, */
	struct guest_row row;         /* and opened */
	struct list entries;          /* in such a list, */
	struct guest_node *listed_in; /* of this directory */
	struct guest_call *opened;    /* ahead */
	bool fifo; /* one that was made through the mount: the host's programs may open it, and meet there */
};

/* A part of a file as it was a moment ago (guest_content.c). */
struct guest_content {
	uint8_t *data; /* NULL: none */
	uint64_t at;
	size_t len;
	bool end; /* there is nothing after it */
	uint64_t asked_ns, voids;
	unsigned touched;
};

/* An open file or directory. */
struct guest_file {
	struct list all;         /* fs->guest_files */
	struct list link;        /* node->files */
	struct guest_node *node; /* a reference */
	uint64_t epoch;          /* of the machine that has the handle */
	uint32_t handle;
	struct guest_content content;
	struct kept kept; /* that */
	uint64_t next;    /* where a reader that goes on would read */
	size_t window;    /* what was asked for ahead of it last */
};

/* One operation of the agent's that a request waits for. */
struct guest_call {
	bool plus;               /* of a READDIR: READDIRPLUS */
	struct request *request; /* NULL: interrupted, and the answer has to be cleaned up */
	struct agent_call *call;
	enum fs_op op;
	struct guest_node *node; /* a reference */
	void (*done)(struct guest_call *gc, int err, struct reader *results);
	/* For done, which frees them. */
	char *name, *name2;
	struct guest_node *node2; /* a reference */
	struct guest_node *of;    /* of a LINK: what it was made of, a reference */
	pid_t caller;             /* a thread */
	struct timer lock_timer;  /* guest_lock.c */
	struct fuse_file_info fi;
	unsigned flags;
	/* Of a READDIR: what the kernel asks for, and the chunk that the agent is asked for (guest_dir.c). */
	size_t size;
	uint64_t offset, first, cookie;
	/* Of one that was asked ahead: what came is in `value`. Of an OPEN: fs->guest_opened. */
	struct list ahead;
	uint64_t epoch;
	bool answered;
	/* Of a GETXATTR: what there is of the value so far, as `size` says; its size and hash; how often it was begun. */
	struct buf value;
	uint64_t hash;
	uint32_t all;
	unsigned tries;
	/* As of when it was sent: guest->changes, and how often node and node2 had been touched. */
	uint64_t sent_ns, changes, voids;
	unsigned touched, touched2;
	bool opens;    /* the answer has a handle, which must not be lost */
	uint32_t type; /* S_IFMT: the file in the answer must be of this type; 0: any */
	bool fifo;     /* and is one made through the mount */
};

/* The node for the tree's lookup of fs/. */
struct node *guestfs_root(struct guest_mount *guest, const struct entry *entry);
extern const struct fuse_lowlevel_ops guestfs_ops;

/* The mount is gone: what is still open is closed. */
void guestfs_close_all(struct fs *fs);
/* A command of the guest's has said something, or ended: what it did to files before is to be seen. */
void guestfs_changed(struct guest_mount *guest);
/* A command of the guest's is about to begin, or to hear something: what is open there for nobody is closed. */
void guestfs_let_go(struct guest_mount *guest);

/* ---- guest_node.c */

struct guest_node *guest_node_of(fuse_req_t req, fuse_ino_t ino);
struct guest_node *guest_ref(struct guest_node *gn);
void guest_unref(struct guest_node *gn); /* NULL is allowed */
/* NULL: the kernel knows none of this name. */
struct guest_name *guest_child(const struct guest_node *dir, const char *name);
/* Is there one of that name in other letters? */
bool guest_child_like(const struct guest_node *dir, const char *name);
/* The file of this id and type has this name: a reference to its node, or NULL when out of memory. */
struct guest_node *guest_found(struct guest_node *dir, const char *name, const struct fs_id *id,
			       uint32_t type);
/* Another name, which it takes over, in a directory. */
void guest_name_move(struct guest_name *gn, struct guest_node *dir, char *name);
/* It is no file's any more. */
void guest_name_free(struct guest_name *gn);
/* The directory it is in; NULL: none, or it is the root. */
struct guest_node *guest_parent(const struct guest_node *gn);
/* The kernel is told of it: it holds a reference until it forgets. */
struct node *guest_known(struct guest_node *gn);
/* Append a node as a FILE: by its handle, if it has one, or else its path; -ESTALE, -ENAMETOOLONG or 0. */
int guest_put_file(struct buf *args, const struct guest_node *gn);
/* The same, always by the path if there is one. */
int guest_put_named(struct buf *args, const struct guest_node *gn);
/* As a NAME. */
int guest_put_name(struct buf *args, const struct guest_node *dir, const char *name);
/* The path of a node in the guest; -ESTALE or -ENAMETOOLONG. */
int guest_path(const struct guest_node *gn, char ret[PATH_MAX]);

/* ---- guest_attr.c */

/* The inode number of a file of the guest's. */
uint64_t guest_ino(struct guest_mount *guest, const struct fs_id *id);
/* The next attributes in results, checked: 0, or -EIO for what no file has. */
int guest_attr_get(struct reader *results, struct fs_attr *ret);
int guest_attr_check(struct fs_attr *attr);
/* Ids of the guest, for those of the host: its root is the sandbox's owner. */
uint32_t guest_uid(const struct guest_node *gn, uid_t uid);
uint32_t guest_gid(const struct guest_node *gn, gid_t gid);
/* Append the owner, in the guest, of what req makes in dir. */
void guest_put_owner(struct buf *args, const struct guest_node *dir, fuse_req_t req);
/* The same, with a mode and the umask: a MAKER. */
void guest_put_maker(struct buf *args, const struct guest_node *dir, mode_t mode, fuse_req_t req);
/* Whoever asks is not root: what is set-user-ID does not stay so when they change it. */
bool guest_is_other(fuse_req_t req);
/* What the guest said of its extended attributes at asked_ns, and has not been changed since. */
/* Has it other names that are other nodes? What is done to it by one of those is nothing the kernel sees, so it keeps
 * none of its attributes. */
bool guest_is_elsewhere(const struct guest_node *gn, const struct fs_attr *attr);
void guest_told_bare(struct guest_node *gn, const struct fs_attr *attr, uint64_t asked_ns);
/* It has none, as far as is known. */
bool guest_is_bare(const struct guest_node *gn);
/* The kernel is told its attributes, and may keep them for GUEST_CACHE_S. */
void guest_told(struct guest_node *gn);
void guest_stat(const struct guest_node *gn, const struct fs_attr *attr, struct stat *ret);

/* ---- guest_kept.c */

/* Something is on its way to the guest that may change its attributes: what is known of them is void. */
void guest_touch(struct guest_node *gn);
/* Its attributes, asked for at asked_ns; the caller knows that it was not touched since. */
void guest_keep(struct guest_node *gn, const struct fs_attr *attr, uint64_t asked_ns);
/* What is known of it; NULL: nothing. */
const struct fs_attr *guest_kept(const struct guest_node *gn);
/* The attributes of dir are next in results, if the agent has told them. touched: as of when it was asked. */
void guest_keep_dir(struct guest_node *dir, unsigned touched, uint64_t asked_ns, struct reader *results);
/* Its content was, which may change the time of the last access. */
void guest_was_read(struct guest_node *gn);

/* ---- guest_owner.c */

/* A SETATTR that changes nothing is answered, and goes to the guest with what is asked next; false: it is not. */
bool guest_owner_answers(fuse_req_t req, struct guest_node *gn, unsigned valid, const struct fs_attr *want);
/* What a SETATTR of valid and want has to change along with it. */
unsigned guest_owner_with(struct guest_node *gn, unsigned valid, struct fs_attr *want);

/* ---- guest_new.c */

/* A directory was made. */
void guest_new_made(struct guest_node *dir);
/* It may have names that are not known; NULL: none may. */
void guest_new_doubt(struct guest_node *dir);
/* Is it known to have no such name? */
bool guest_new_lacks(struct guest_node *dir, const char *name);

/* ---- guest_content.c */

/* A read of an open file is answered from what is known; false: it is not. */
bool guest_content_answers(fuse_req_t req, struct guest_file *file, size_t size, uint64_t off);
/*
 * What was read, from `at` on; data is taken over. As of when it was asked for: the time, guest->voids and how often
 * the file had been touched.
 */
void guest_content_keep(struct guest_file *file, const struct guest_content *content);
void guest_content_drop(struct guest_file *file);
void guest_content_forget(struct kept *kept);
/* How much a read of `size` bytes at `off` asks for. */
size_t guest_content_want(struct guest_file *file, size_t size, uint64_t off);

/* ---- guest_opened.c */

/* An OPEN is answered, now or later, from what was opened ahead; false: it is not. */
bool guest_opened_answers(fuse_req_t req, struct guest_node *gn, const struct fuse_file_info *fi);
/* It is opened for reading: what may be next is opened ahead. */
void guest_opened_next(struct guest_node *gn);
/* It is next in a listing of dir; or in none any more. */
void guest_opened_listed(struct guest_node *dir, struct guest_node *gn);
void guest_opened_unlisted(struct guest_node *gn);
/* It ends. */
void guest_opened_forget(struct guest_node *gn);

/* ---- guest_call.c */

/* May it be used? 0 or a negative errno. */
int guest_usable(const struct guest_node *gn);
struct agent *guest_agent(const struct guest_node *gn);
uint64_t guest_epoch(const struct guest_node *gn);
/* Ask for entries of a directory, from a cookie on, for no request of the kernel's; NULL: it cannot be asked. */
struct agent_call *guest_list(const struct guest_node *dir, uint64_t cookie, agent_fs_fn done, void *arg);
/* An operation's errno as users see it, and as the kernel may hear it (guest_errno.h). */
int guest_errno(const struct guest_node *gn, enum fs_op op, int err);

/*
 * Send an operation for req, which is answered if it cannot be sent; args is released. done is to answer
 * gc->request and to call guest_call_free.
 */
struct guest_call *guest_call_new(fuse_req_t req, struct guest_node *gn, const char *name,
				  void (*done)(struct guest_call *gc, int err, struct reader *results));
/* One that makes a name in a directory: args begins with that, and *rc is how it went. */
struct guest_call *guest_call_make(fuse_req_t req, fuse_ino_t parent, const char *name, uint32_t type,
				   void (*done)(struct guest_call *gc, int err, struct reader *results),
				   struct buf *args, int *rc);
void guest_call_send(struct guest_call *gc, enum fs_op op, int rc, struct buf *args);
/* The same for no request yet: nothing is sent where rc says why not. NULL: it was not. */
struct guest_call *guest_call_ahead(struct guest_node *gn, enum fs_op op, int rc, struct buf *args,
				    void (*done)(struct guest_call *gc, int err, struct reader *results));
/* Now there is one; false: that is answered already. */
bool guest_call_adopt(struct guest_call *gc, fuse_req_t req);
/* Now it is for the request of another, a READDIR's, which was not sent and is freed. */
void guest_call_take_over(struct guest_call *gc, struct guest_call *from);
void guest_call_free(struct guest_call *gc);
/* Answers with the entry `name` of gc->node, whose attributes are next in results; false: it did not get
 * there. */
int guest_entry(struct guest_call *gc, struct reader *results, struct fuse_entry_param *ret,
		struct guest_node **ret_node);
/* The call was sent: see to it that no lock of the whole mount is held for longer than GUEST_LOCKED_MS. */
void guest_lock_watch(struct guest_call *gc);
/* It ends with -ETIMEDOUT, and the guest counts as silent. */
void guest_call_give_up(struct guest_call *gc);

/*
 * The same with attributes that were asked for at `asked_ns`; they are not checked yet, and a link's target
 * follows in results. ret->ino is 0 where no entry can be made of them. fifo: it was made through the mount.
 */
int guest_entry_of(struct guest_node *dir, const char *name, struct fs_attr *attr, struct reader *results,
		   uint64_t asked_ns, bool fifo, struct fuse_entry_param *ret, struct guest_node **ret_node);

/* For calls whose answer is the entry. */
void guest_done_entry(struct guest_call *gc, int err, struct reader *results);
/* For calls whose answer is only an errno. */
void guest_done_err(struct guest_call *gc, int err, struct reader *results);

/* The size of a link in dir is that of the target shown; the guest's is next in results. Others: nothing. */
void guest_link_attr(const struct guest_node *dir, struct reader *results, struct fs_attr *attr);
void guest_readlink(fuse_req_t req, fuse_ino_t ino);
void guest_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);

/* ---- guest_ahead.c */

/* A lookup of name in dir is answered from what was asked for ahead; false: it is not. */
bool guest_ahead_answers(fuse_req_t req, struct guest_node *dir, const char *name);
/* NULL is allowed. */
void guest_ahead_free(struct guest_ahead *ahead);
/* The host asks the guest for something that changes files. */
void guest_ahead_void(struct guest_mount *guest);

/* ---- guest_xattr.c */

void guest_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void guest_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void guest_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
		    int flags);
void guest_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

/* ---- guest_io.c and guest_dir.c */

/* An entry of a listing: its cookie, name and attributes; a link's target is left in r. Skipped, it is not. */
struct dir_item {
	uint64_t cookie;
	char name[NAME_MAX + 1];
	struct fs_attr attr;
	struct reader target;
};
void guest_item_get(struct reader *r, struct dir_item *ret);
/* Whether the kernel accepts the name. */
bool guest_item_named(const struct dir_item *item);

/* An open file's or directory's handle in the guest; NULL when out of memory, and it is closed. */
struct guest_file *guest_file_new(struct guest_node *gn, uint32_t handle);
/* NULL is allowed. */
void guest_file_free(struct guest_file *file);
/* Nobody wants a handle that the guest gave in this epoch. */
void guest_close_handle(const struct guest_node *gn, uint64_t epoch, uint32_t handle);

/* For OPEN and CREATE; without a request the file is closed again. */
void guest_done_open(struct guest_call *gc, int err, struct reader *results);
void guest_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void guest_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		  struct fuse_file_info *fi);
void guest_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void guest_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
		 struct fuse_file_info *fi);
void guest_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void guest_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void guest_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void guest_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t length,
		     struct fuse_file_info *fi);
void guest_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph);
void guest_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void guest_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void guest_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void guest_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);

#endif
