/* SPDX-License-Identifier: MIT */
/*
 * node.h - the names the kernel knows, and what is behind them
 *
 * A node is one name in the tree, made when the kernel looks it up and freed when the kernel forgets it. What
 * it does is in its ops, constant tables; what it is about is in obj: a sandbox, a snapshot, a job. When the
 * thing goes away its nodes are marked removed, since a program may still have them open: from then on they
 * answer ENODEV and obj is not touched.
 *
 * The kernel knows a node by its address, as libfuse's examples do it: it names only nodes whose lookup count
 * we hold.
 */
#ifndef SBX_FS_NODE_H
#define SBX_FS_NODE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "fs/fuse.h"
#include "fs/pollset.h"
#include "util/buf.h"
#include "util/list.h"

struct node;
struct file;

/* Who owns a directory object and what is in it. */
struct owner {
	uid_t uid;
	gid_t gid;
	mode_t mode;         /* permissions of the directory */
	uint64_t created_ns; /* since 1970 */
};

/* What a name in a directory of ours stands for. */
struct child {
	const struct node_ops *ops;
	void *obj;
};

struct entry {
	const char *name;
	const struct node_ops *ops;
};

typedef void (*list_fn)(void *arg, const char *name, const struct node_ops *ops);

struct node_ops {
	mode_t mode; /* type and permissions */
	/* Seconds the kernel may remember the name. Only users remove names, so static ones are remembered
	 * for good. */
	double timeout;
	/* A new node for each lookup, so that two writers do not queue on one inode's lock. */
	bool fresh;
	/* The directory of an object: chmod and chown change its owner. */
	bool ownable;
	const char *help; /* for the README: one line */

	/* Files of text. show: 0 or -errno. store is given a line without its newline and NUL-terminated; 0
	 * or -errno. command: the same, but replies itself, with fuse_reply_write(req, len). */
	int (*show)(struct node *node, struct buf *out);
	int (*store)(struct node *node, const char *line, size_t len);
	void (*command)(struct node *node, fuse_req_t req, const char *line, size_t len, size_t written);
	struct pollset *(*pollset)(struct node *node);
	/* Streams: open may set file->priv; 0 or -errno. The others reply. poll returns poll(2) events. */
	int (*open)(struct file *file);
	void (*read)(struct file *file, fuse_req_t req, size_t size, uint64_t offset, bool nonblock);
	void (*write)(struct file *file, fuse_req_t req, const char *data, size_t size, bool nonblock);
	unsigned (*poll)(struct file *file, struct fuse_pollhandle *ph);
	void (*release)(struct file *file);
	uint64_t (*size)(struct node *node);

	/* Directories. */
	const struct entry *entries; /* names that are always there; ends with a NULL name */
	int (*child)(struct node *dir, const char *name, struct child *ret); /* 0 or -ENOENT */
	void (*list)(struct node *dir, list_fn add, void *arg);
	void (*mkdir)(struct node *dir, fuse_req_t req, const char *name, mode_t mode); /* replies */
	int (*rmdir)(struct node *dir, const char *name, fuse_req_t req); /* 0, -errno, or 1: it replies */
	/* Links. */
	void (*link)(struct node *node, char *ret, size_t size);

	struct owner *(*owner)(struct node *node); /* NULL: the mount's */

	/* Replaces everything above but mode: the guest's files. The inode numbers in it are nodes. */
	const struct fuse_lowlevel_ops *raw;
};

struct node {
	struct node *parent; /* NULL: the root, or taken out of the tree */
	struct list sibling, children, hash;
	const struct node_ops *ops;
	void *obj;
	uint64_t ino, nlookup;
	unsigned pins; /* open files, and whoever else needs the address */
	bool removed;
	char *name;
};

/* One open of a node. */
struct file {
	struct node *node;
	struct buf text; /* what show said at the last read from offset 0 */
	bool loaded;
	unsigned seen; /* the pollset's version then */
	void *priv;
};

/* What an open file of a removed node answers. */
static inline bool node_gone(const struct node *node)
{
	return node->removed;
}

struct node *node_new(struct node *parent, const char *name, const struct node_ops *ops, void *obj);
/* A living child by name; NULL if the kernel does not know one. */
struct node *node_find(const struct node *parent, const char *name);
void node_pin(struct node *node);
void node_unpin(struct node *node); /* may free it */
/* The kernel was told of it, or forgot it n times (may free it). */
void node_looked_up(struct node *node);
void node_forget(struct node *node, uint64_t n);
/* Take the name and all below it out of the tree and mark it removed. Harmless when the kernel knows no such
 * name. */
void node_remove(struct node *parent, const char *name);
/* Take just this node out of the tree, without marking it: the name means another thing now. */
void node_detach(struct node *node);
/* After a rename: the same node under another name. 0 or -ENOMEM. */
int node_move(struct node *node, struct node *parent, const char *name);

#endif
