/* SPDX-License-Identifier: MIT */
/*
 * heap.h - which of many things comes first, in time that grows with the logarithm of their number
 *
 * A pairing heap (Fredman, Sedgewick, Sleator and Tarjan, 1986) that is part of the things, so that adding one cannot
 * fail: adding takes constant time, and removing, averaged over all that was done, time that is logarithmic.
 */
#ifndef SBX_UTIL_HEAP_H
#define SBX_UTIL_HEAP_H

#include <stdbool.h>
#include <stddef.h>

struct heap_node {
	struct heap_node *child, *next, *prev;
};

/* Zero-initialised but for `before` it is empty. */
struct heap {
	struct heap_node *top; /* what comes first; NULL: nothing is in it */
	/* Does a come before b? Its answer for two that are in the heap does not change. */
	bool (*before)(const struct heap_node *a, const struct heap_node *b);
};

/* The node is in no heap. */
void heap_add(struct heap *heap, struct heap_node *node);
/* The node is in this heap. */
void heap_remove(struct heap *heap, struct heap_node *node);

#endif
