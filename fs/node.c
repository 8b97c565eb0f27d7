/* SPDX-License-Identifier: MIT */
/* node.c - the names the kernel knows, and what is behind them */
#include "fs/node.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Names are found by (parent, name). Guests have directories with thousands of names, so the table is of that
 * order. */
enum { BUCKETS = 1 << 14 };
static struct list buckets[BUCKETS];

static uint64_t next_ino = 2;

static struct list *bucket(const struct node *parent, const char *name)
{
	struct list *head = &buckets[XXH3_64bits_withSeed(name, strlen(name), (uintptr_t)parent) % BUCKETS];

	if (!head->next)
		list_init(head);
	return head;
}

struct node *node_new(struct node *parent, const char *name, const struct node_ops *ops, void *obj)
{
	struct node *node = calloc(1, sizeof(*node));

	if (!node)
		return NULL;
	node->name = strdup(name);
	if (!node->name) {
		free(node);
		return NULL;
	}
	node->ops = ops;
	node->obj = obj;
	node->ino = parent ? next_ino++ : 1;
	list_init(&node->children);
	list_init(&node->hash);
	list_init(&node->sibling);
	node->parent = parent;
	if (parent) {
		list_add(&parent->children, &node->sibling);
		if (!ops->fresh)
			list_add(bucket(parent, name), &node->hash);
	}
	return node;
}

struct node *node_find(const struct node *parent, const char *name)
{
	struct list *head = bucket(parent, name);
	struct node *node;

	list_for_each (node, head, hash)
		if (node->parent == parent && !strcmp(node->name, name))
			return node;
	return NULL;
}

static void maybe_free(struct node *node)
{
	struct node *parent;

	/* A chain of parents may hang on this one node. */
	while (node && !node->nlookup && !node->pins && list_empty(&node->children)) {
		parent = node->parent;
		list_del(&node->hash);
		list_del(&node->sibling);
		free(node->name);
		free(node);
		node = parent;
	}
}

void node_pin(struct node *node)
{
	node->pins++;
}

void node_unpin(struct node *node)
{
	node->pins--;
	maybe_free(node);
}

void node_looked_up(struct node *node)
{
	node->nlookup++;
}

void node_forget(struct node *node, uint64_t n)
{
	node->nlookup -= n < node->nlookup ? n : node->nlookup;
	maybe_free(node);
}

void node_detach(struct node *node)
{
	struct node *parent = node->parent;

	list_del(&node->hash);
	list_del(&node->sibling);
	node->parent = NULL;
	maybe_free(node);
	if (parent)
		maybe_free(parent);
}

static void mark_removed(struct node *node)
{
	struct node *child, *tmp;

	node->removed = true;
	node->pins++; /* the last child's going must not free it under us */
	list_for_each_safe (child, tmp, &node->children, sibling) {
		mark_removed(child);
		node_detach(child);
	}
	node->pins--;
}

void node_remove(struct node *parent, const char *name)
{
	struct node *node = node_find(parent, name);

	if (!node)
		return;
	mark_removed(node);
	node_detach(node);
}

int node_move(struct node *node, struct node *parent, const char *name)
{
	struct node *const old = node->parent;
	char *copy = strdup(name);

	if (!copy)
		return -ENOMEM;
	list_del(&node->hash);
	list_del(&node->sibling);
	free(node->name);
	node->name = copy;
	node->parent = parent;
	list_add(&parent->children, &node->sibling);
	list_add(bucket(parent, name), &node->hash);
	if (old)
		maybe_free(old);
	return 0;
}
