/* SPDX-License-Identifier: MIT */
/*
 * index.h - things by name, in time that grows with the logarithm of their number
 *
 * A search tree that is part of the things, so that adding one cannot fail. Who chooses the names cannot make it
 * slow: each node has a random rank, and the tree has the shape it would have if they had been added by rank (a treap;
 * Seidel and Aragon, 1996).
 */
#ifndef SBX_UTIL_INDEX_H
#define SBX_UTIL_INDEX_H

#include <stddef.h>
#include <stdint.h>

struct index_node {
	struct index_node *child[2]; /* names before and after this one */
	const char *name;            /* of the thing that it is in: does not change while it is here */
	uint64_t rank;               /* no child has a higher one */
};

/* Zero-initialised it is empty. */
struct index {
	struct index_node *top;
	size_t n; /* how many are in it */
};

/* NULL: there is none of that name. */
struct index_node *index_find(const struct index *index, const char *name);
/* The string is not copied. Of several of one name any is found. */
void index_add(struct index *index, struct index_node *node, const char *name);
/* Nothing happens to a node that is in no index, if it was zero-initialised or removed. */
void index_remove(struct index *index, struct index_node *node);

#endif
