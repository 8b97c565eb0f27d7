/* SPDX-License-Identifier: MIT */
/* index.c - things by name, in time that grows with the logarithm of their number */
#include "util/index.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/random.h>

/* xorshift64* from a seed that nobody outside knows: good enough that nobody can aim at a shape. */
static uint64_t next_rank(void)
{
	static uint64_t state;

	while (!state)
		if (getrandom(&state, sizeof(state), GRND_NONBLOCK) != sizeof(state))
			state = (uintptr_t)&state;
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 2685821657736338717u;
}

struct index_node *index_find(const struct index *index, const char *name)
{
	struct index_node *node = index->top;
	int order;

	while (node && (order = strcmp(name, node->name)))
		node = node->child[order > 0];
	return node;
}

/* Is a before b? Those of one name are in the order of their addresses. */
static bool is_before(const struct index_node *a, const struct index_node *b)
{
	const int order = strcmp(a->name, b->name);

	return order ? order < 0 : (uintptr_t)a < (uintptr_t)b;
}

/* Of the nodes from `top` on, those before and after `node`. */
static void split(struct index_node *top, const struct index_node *node, struct index_node **before,
		  struct index_node **after)
{
	while (top) {
		if (is_before(top, node)) {
			*before = top;
			before = &top->child[1];
			top = *before;
		} else {
			*after = top;
			after = &top->child[0];
			top = *after;
		}
	}
	*before = *after = NULL;
}

void index_add(struct index *index, struct index_node *node, const char *name)
{
	struct index_node **at = &index->top;

	node->name = name;
	node->rank = next_rank();
	while (*at && (*at)->rank > node->rank)
		at = &(*at)->child[is_before(*at, node)];
	split(*at, node, &node->child[0], &node->child[1]);
	*at = node;
	index->n++;
}

void index_remove(struct index *index, struct index_node *node)
{
	struct index_node **at = &index->top, *before, *after;

	if (!node->name)
		return;
	while (*at != node)
		at = &(*at)->child[is_before(*at, node)];
	index->n--;
	/* What was below it, in its place: all of one side is before all of the other. */
	before = node->child[0];
	after = node->child[1];
	while (before && after) {
		if (before->rank > after->rank) {
			*at = before;
			at = &before->child[1];
			before = *at;
		} else {
			*at = after;
			at = &after->child[0];
			after = *at;
		}
	}
	*at = before ? before : after;
	*node = (struct index_node){ 0 };
}
