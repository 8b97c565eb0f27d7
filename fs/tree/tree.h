/* SPDX-License-Identifier: MIT */
/*
 * tree.h - the tree as tables
 *
 * A directory is an array of struct entry (its fixed files and directories) and, where names come and go, the
 * functions of struct dir_ops. The tables are all there is: lookup, listing, permissions, reading, writing
 * and the README are generated from them.
 */
#ifndef SBX_FS_TREE_TREE_H
#define SBX_FS_TREE_TREE_H

#include <stdbool.h>

#include "fs/tree/ctl.h"
#include "fs/tree/kept.h"
#include "fs/tree/node.h"
#include "fs/tree/object.h"
#include "fs/tree/request.h"

struct entry;
struct tail;

/* An open file. */
struct file {
	struct list all;    /* fs->files */
	struct object *obj; /* a reference */
	const struct entry *entry;
	uid_t uid; /* who opened it */
	gid_t gid;
	struct buf text; /* what `show` gave when it was last read from its beginning */
	bool shown;
	bool forgotten;               /* the text was, to keep others': it is made anew for the next read */
	struct buf written;           /* to a text of lines, in one piece so far... */
	size_t written_to;            /* ...so much; it may have been forgotten */
	struct kept kept;             /* of both texts */
	bool emptied;                 /* opened with O_TRUNC, and nothing was written since */
	uint64_t seen;                /* obj->version then */
	struct list link;             /* in obj->files, or in a list of the stream's */
	struct fuse_pollhandle *poll; /* who polls it; NULL: nobody since the last wake */
	void *priv;                   /* the stream's */
	struct request *opening;      /* who waits for file_opened */
};

/* What these reads (struct request, by link) wait for is known. */
void files_refreshed(struct list *waiting);

/* The mount is gone: what is still open is closed. */
void files_close(struct fs *fs);

/* Wake who polls these files (struct file, by link). */
void files_wake(struct list *files);

/* For connect functions: it is open, or a negative errno says why not; then it is gone. */
void file_opened(struct file *file, int rc);

/* A file that is not a text: what is done with an open one. Without a function: EINVAL; for open, nothing. */
struct stream_ops {
	int (*open)(struct file *file, int flags);
	/* In place of it, where opening takes a moment: file_opened is called, now or later, unless it is released
	 * before. Such a file has no position. */
	void (*connect)(struct file *file);
	void (*release)(struct file *file);
	void (*read)(struct file *file, uint64_t offset, bool nonblock, struct request *request);
	void (*write)(struct file *file, const char *data, bool nonblock, struct request *request);
	void (*flush)(struct file *file, struct request *request); /* close(2); NULL: nothing to hear of */
	unsigned (*poll)(const struct file *file);                 /* POLLIN... that hold now */
	uint64_t (*size)(const struct object *obj,
			 const struct entry *entry); /* st_size; NULL: STREAM_SIZE */
};

enum entry_flags {
	/* every lookup is a node of its own: a writer does not queue behind another's inode lock */
	ENTRY_FRESH = 1,
	ENTRY_POLL = 2,      /* poll(2) tells when the value changed: obj->version counts it */
	ENTRY_COSTLY = 4,    /* asks the host's kernel: st_size is COSTLY_SIZE and not the text's */
	ENTRY_APPEND = 8,    /* a text of lines: O_APPEND adds to it */
	ENTRY_VOLATILE = 16, /* a name that others than users of the tree take away: is looked up each time */
	ENTRY_SHARED = 32,   /* who may write in the object's own directory may write here */
	ENTRY_LONG = 64,     /* a text of up to LONG_WRITE_MAX bytes, not WRITE_MAX */
	/* a stream without content at offsets, of which programs may ask where they are (lseek) */
	ENTRY_POSITIONED = 128,
};

struct entry {
	const char *name; /* of a child that is made: what the README calls it, "VM" */
	/* type and permissions; S_IFDIR alone: an object's own directory, with its permissions */
	mode_t mode;
	unsigned flags; /* enum entry_flags */
	const char *help;
	/* A ctl file: it lists those of its verbs that the object's state allows, and a write is one of them. The
	 * state is a bit in struct verb, and has a name; NULL: there is but the state 0. */
	const struct verb *verbs;
	unsigned (*state)(const struct object *obj, const char **name);
	/* A text: what it reads, and what a write does (text[n] is 0, a newline at its end cut off). */
	int (*show)(struct object *obj, struct buf *text, struct err *err);
	/* What `show` tells has to be asked for, where it is too old: the list (struct request, by link) in which reads
	 * then wait until it is given to files_refreshed. NULL: it can be shown. */
	struct list *(*refresh)(struct object *obj);
	int (*store)(struct object *obj, const char *text, size_t n, struct err *err);
	/* What was stored takes a moment to hold: takes the request over and answers it then. */
	void (*settle)(struct object *obj, struct request *request);
	/* A setting that takes a while: takes the request over. In place of `store`. */
	void (*command)(struct object *obj, const char *text, struct request *request);
	const struct stream_ops *stream;
	/* What grows, with the stream tail_ops: where it is. */
	struct tail *(*tail)(const struct object *obj);
	const struct dir_ops *dir;
	/* A symbolic link's target. */
	void (*target)(struct object *obj, struct buf *text);
	/* Not ours: the root of a guest's files. Returns a node, or NULL when out of memory. */
	struct node *(*mount)(struct object *obj, const struct entry *entry);
};

/* An object's files that are not ours (fs/guest/guest_names.h). */
enum { GUEST_DEVS_MAX = 64 };
/* A change of owner that waits for the next question (guest_owner.c). */
struct guest_owner {
	struct guest_node *node; /* a reference; NULL: none waits */
	uint64_t epoch;
	unsigned valid; /* FSV_UID, FSV_GID */
	uint32_t uid, gid;
};

struct guest_mount {
	struct object *obj;
	const struct guest_ops *ops;
	struct guest_node *root;   /* while the kernel knows it */
	struct guest_node **files; /* n_buckets of nodes, by their ids; NULL: none */
	unsigned n_buckets, n_files;
	uint32_t number;               /* of the mounts there ever were, from 1 on: in its inode numbers */
	uint64_t devs[GUEST_DEVS_MAX]; /* the guest's filesystems, in the order they were seen in */
	unsigned n_devs;
	uint64_t changes;    /* counts what may have changed a file: what is known from before is void */
	uint64_t changed_ns; /* the last by the host */
	uint64_t voids;      /* counts those of which nothing else is known (guestfs_changed) */
	struct list aheads;  /* struct guest_ahead (guest_ahead.c), the oldest first */
	unsigned n_aheads;
	unsigned n_opened;  /* files that are open ahead (guest_opened.c); */
	int opened_score;   /* those that were wanted less those that were not; */
	uint64_t vain_ns;   /* when those were too many; */
	uint64_t opened_ns; /* when one was wanted last, */
	bool opened_listed; /* and by which order: the listing's, or their numbers' */
	struct guest_owner owner;
	struct list
		fresh; /* struct guest_node: whose attributes the kernel may still have, the oldest first */
};

struct listing;

struct dir_ops {
	const struct entry *entries; /* the fixed ones; ends with a NULL name. NULL: there are none */
	const struct entry *child;   /* what its made children are like, for the README; NULL: none */
	/* A child by name: its object (borrowed) and entry; NULL: there is none. */
	struct object *(*find)(struct object *dir, const char *name, const struct entry **ret);
	void (*list)(struct object *dir, struct listing *listing);
	/* In place of it, where somebody has to be asked: listing_end is called, now or later. */
	void (*gather)(struct object *dir, struct listing *listing);
	/* The name is valid and new. Ends the command, whose caller the child belongs to, with command_made;
	 * a NULL function refuses. */
	void (*mkdir)(struct object *dir, const char *name, struct command *command);
	int (*rmdir)(struct object *dir, const char *name, struct err *err);
	/* Of an object's own directory: its owner or permissions are about to become these. NULL: nothing to
	 * hear of. 0, or why they cannot. */
	int (*chown)(struct object *obj, const struct owner *owner, struct err *err);
	/* To another name or directory; ends the command. */
	void (*rename)(struct object *dir, const char *name, struct object *to_dir, const struct entry *to,
		       const char *to_name, struct command *command);
};

/* For list functions. */
void listing_add(struct listing *listing, const char *name, const struct object *obj,
		 const struct entry *entry);
/* For gather functions: it is whole, or a negative errno says why not. */
void listing_end(struct listing *listing, int rc);

struct node *tree_root(struct fs *fs);

/* The answer to a mkdir that made obj. `alias`: obj's own path is another; the next lookup of this one asks
 * again. */
int tree_entry(struct object *obj, const struct entry *entry, bool alias, struct fuse_entry_param *ret,
	       struct node **ret_node);
/* Answer a mkdir; it is no error if the caller has gone away. */
void tree_made(struct request *request, struct object *obj, const struct entry *entry, bool alias);

/* For verbs, which do what a mkdir would: may the caller make names in obj's own directory (dir: NULL), or in
 * its directory `dir`, one marked ENTRY_SHARED? 0 or -EACCES. What leads to obj is not looked at. */
int tree_may_make(const struct caller *caller, const struct object *obj, const char *dir, struct err *err);

void tree_attr(struct object *obj, const struct entry *entry, struct stat *ret);
/* The inode number of a place, which it keeps as long as its object lives. */
uint64_t tree_ino(const struct object *obj, const struct entry *entry);
/* What tree_attr says of its directories has changed: the kernel has to ask again. */
void tree_attr_changed(const struct object *obj);

extern const struct fuse_lowlevel_ops tree_ops;

/* The root's table, in root.c. */
extern const struct entry root_entry;

#endif
