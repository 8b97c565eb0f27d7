/* SPDX-License-Identifier: MIT */
/* test_heap.c - what comes first is on top, whatever else is added and removed, and in few comparisons */
#include <stdint.h>
#include <stdlib.h>

#include "tests/unit/unit.h"
#include "util/heap.h"
#include "util/list.h"

enum { MANY = 20000, FEW = 300, STEPS = 20000 };

struct thing {
	struct heap_node node;
	unsigned value;
	bool there;
};

static struct thing things[MANY];
static uint64_t compared;

static unsigned value_of(const struct heap_node *node)
{
	return container_of(node, const struct thing, node)->value;
}

static bool before(const struct heap_node *a, const struct heap_node *b)
{
	compared++;
	return value_of(a) < value_of(b);
}

static void add(struct heap *heap, struct thing *thing)
{
	heap_add(heap, &thing->node);
	thing->there = true;
}

static void take(struct heap *heap, struct thing *thing)
{
	heap_remove(heap, &thing->node);
	thing->there = false;
}

/* Beside looking at all of them. */
static void the_first_is_on_top(void)
{
	struct heap heap = { .before = before };
	const struct thing *first;
	unsigned i, step;

	srandom(1);
	CHECK(!heap.top);
	for (step = 0; step < STEPS; step++) {
		struct thing *thing = &things[random() % FEW];

		if (thing->there)
			take(&heap, thing);
		thing->value = (unsigned)random() % 1000; /* some are the same */
		if (random() % 3)
			add(&heap, thing);
		for (first = NULL, i = 0; i < FEW; i++)
			if (things[i].there && (!first || things[i].value < first->value))
				first = &things[i];
		CHECK(!first == !heap.top && (!first || value_of(heap.top) == first->value));
	}
	while (heap.top)
		take(&heap, container_of(heap.top, struct thing, node));
	for (i = 0; i < FEW; i++)
		CHECK(!things[i].there);
}

static uint64_t sort(unsigned n)
{
	struct heap heap = { .before = before };
	unsigned i, last = 0;

	compared = 0;
	for (i = 0; i < n; i++) {
		things[i].value = (unsigned)random();
		add(&heap, &things[i]);
	}
	for (i = 0; i < n; i++) {
		CHECK(value_of(heap.top) >= last);
		last = value_of(heap.top);
		take(&heap, container_of(heap.top, struct thing, node));
	}
	CHECK(!heap.top);
	return compared / n;
}

/* One on top is taken, changed and put back, as often as there are things: what each change of a count is. */
static uint64_t change(unsigned n)
{
	struct heap heap = { .before = before };
	struct thing *thing;
	unsigned i;

	for (i = 0; i < n; i++) {
		things[i].value = i;
		add(&heap, &things[i]);
	}
	take(&heap, &things[0]); /* what adding left to be done */
	add(&heap, &things[0]);
	compared = 0;
	for (i = 0; i < n; i++) {
		thing = &things[random() % n];
		take(&heap, thing);
		thing->value = (unsigned)random() % n;
		add(&heap, thing);
		if (i % 4 == 0) {
			thing = container_of(heap.top, struct thing, node);
			take(&heap, thing);
			add(&heap, thing);
		}
	}
	return compared / n;
}

static void the_comparisons_are_few(void)
{
	const uint64_t few = sort(MANY / 100), many = sort(MANY);

	/* Twice the digits; all of them would be 100 times as many. */
	CHECK(few >= 1 && many <= 40 && many <= few * 4);
	CHECK(change(MANY / 100) <= 40 && change(MANY) <= 40);
}

int main(void)
{
	TEST(the_first_is_on_top);
	TEST(the_comparisons_are_few);
	return 0;
}
