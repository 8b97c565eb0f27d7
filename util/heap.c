/* SPDX-License-Identifier: MIT */
/* heap.c - which of many things comes first, in time that grows with the logarithm of their number */
#include "util/heap.h"

/* One heap of two, which have no siblings. Each may be NULL. */
static struct heap_node *meld(const struct heap *heap, struct heap_node *a, struct heap_node *b)
{
	struct heap_node *first, *other;

	if (!a || !b)
		return a ? a : b;
	first = heap->before(a, b) ? a : b;
	other = first == a ? b : a;
	other->prev = first;
	other->next = first->child;
	if (first->child)
		first->child->prev = other;
	first->child = other;
	return first;
}

/* One heap of what was below a node: in pairs from the first to the last, and those back from the last. */
static struct heap_node *meld_children(const struct heap *heap, struct heap_node *child)
{
	struct heap_node *pairs = NULL, *all = NULL, *a, *b;

	while ((a = child)) {
		b = a->next;
		child = b ? b->next : NULL;
		a->prev = a->next = NULL;
		if (b)
			b->prev = b->next = NULL;
		a = meld(heap, a, b);
		a->next = pairs;
		pairs = a;
	}
	while ((a = pairs)) {
		pairs = a->next;
		a->next = NULL;
		all = meld(heap, all, a);
	}
	return all;
}

void heap_add(struct heap *heap, struct heap_node *node)
{
	*node = (struct heap_node){ 0 };
	heap->top = meld(heap, heap->top, node);
}

void heap_remove(struct heap *heap, struct heap_node *node)
{
	struct heap_node *rest = meld_children(heap, node->child);

	if (node == heap->top) {
		heap->top = rest;
		return;
	}
	if (node->prev->child == node)
		node->prev->child = node->next;
	else
		node->prev->next = node->next;
	if (node->next)
		node->next->prev = node->prev;
	heap->top = meld(heap, heap->top, rest);
}
