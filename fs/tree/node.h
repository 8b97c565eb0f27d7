/* SPDX-License-Identifier: MIT */
/*
 * node.h - what the kernel knows: node ids and their lookup counts
 *
 * A node id is the address of its struct node. A node lives until the kernel has forgotten every lookup it
 * was answered with. There are two kinds, told apart by their operations: places in our tables (tree.c), and
 * files of a guest (guest/).
 */
#ifndef SBX_FS_TREE_NODE_H
#define SBX_FS_TREE_NODE_H

#include <stdint.h>

#include "fs/tree/fuse.h"
#include "util/list.h"

struct fs;

struct node {
	const struct fuse_lowlevel_ops *ops;
	struct list link; /* fs->nodes; whoever frees it unlinks it */
	uint64_t lookups;
	void (*free)(struct node *node);
};

void node_init(struct fs *fs, struct node *node, const struct fuse_lowlevel_ops *ops,
	       void (*free)(struct node *node));

/* A request's node. The root's id is FUSE_ROOT_ID, which is not an address. */
struct node *node_of(fuse_req_t req, fuse_ino_t ino);
/* Its id, for an answer with an entry: counts a lookup. */
fuse_ino_t node_id(struct node *node);
/* The kernel drops n lookups; the last one frees it. */
void node_forget(struct node *node, uint64_t n);
/* The mount is gone: the kernel has forgotten all. */
void nodes_forget(struct fs *fs);

#endif
