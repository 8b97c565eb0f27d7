/* SPDX-License-Identifier: MIT */
/* node.c - what the kernel knows: node ids and their lookup counts */
#include "fs/tree/node.h"

#include "fs/fs.h"
#include "fs/tree/tree.h"

struct node *node_of(fuse_req_t req, fuse_ino_t ino)
{
	struct fs *fs = fuse_req_userdata(req);

	return ino == FUSE_ROOT_ID ? tree_root(fs) : (struct node *)(uintptr_t)ino;
}

void node_init(struct fs *fs, struct node *node, const struct fuse_lowlevel_ops *ops,
	       void (*free)(struct node *node))
{
	node->ops = ops;
	node->free = free;
	list_add(&fs->nodes, &node->link);
}

fuse_ino_t node_id(struct node *node)
{
	node->lookups++;
	return (fuse_ino_t)(uintptr_t)node;
}

void node_forget(struct node *node, uint64_t n)
{
	node->lookups -= n < node->lookups ? n : node->lookups;
	if (!node->lookups)
		node->free(node);
}

void nodes_forget(struct fs *fs)
{
	struct list *pos = fs->nodes.next, *next;
	struct node *node;

	/* A node that others hold stays linked. */
	for (; pos != &fs->nodes; pos = next) {
		next = pos->next;
		node = list_entry(pos, struct node, link);
		if (node->lookups)
			node_forget(node, node->lookups);
	}
}
