/* SPDX-License-Identifier: MIT */
/* test_index.c - names are found, and however many there are, and whoever chose them, in few comparisons */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/unit.h"
#include "util/index.h"

enum { MANY = 20000 };

struct thing {
	struct index_node node;
	char name[16];
	bool there;
};

static struct thing things[MANY];

/* How deep the tree is: as many comparisons as finding a name takes at most. */
static unsigned depth(const struct index_node *node)
{
	unsigned a, b;

	if (!node)
		return 0;
	a = depth(node->child[0]);
	b = depth(node->child[1]);
	return 1 + (a > b ? a : b);
}

static void check(const struct index *index, const struct thing *thing)
{
	CHECK(index_find(index, thing->name) == (thing->there ? &thing->node : NULL));
}

static void add(struct index *index, unsigned i)
{
	index_add(index, &things[i].node, things[i].name);
	things[i].there = true;
}

static void take(struct index *index, unsigned i)
{
	index_remove(index, &things[i].node);
	things[i].there = false;
}

/* In order, which makes a list of a tree that does nothing about it. */
static void the_most_comparisons_are_few(void)
{
	struct index index = { 0 };
	unsigned i, few = 0;

	for (i = 0; i < MANY; i++) {
		snprintf(things[i].name, sizeof(things[i].name), "name%06u", i);
		add(&index, i);
		if (i == MANY / 10)
			few = depth(index.top);
	}
	/* 4.3 ln n is what the depth comes to, 34 and 43 here; that it exceeds this has no chance worth naming. */
	CHECK(few < 68 && depth(index.top) < 86);
	for (i = 0; i < MANY; i++)
		check(&index, &things[i]);
	CHECK(!index_find(&index, "") && !index_find(&index, "name") && !index_find(&index, "name0000001"));
	for (i = 0; i < MANY; i++)
		take(&index, i);
	CHECK(!index.top && !index.n);
}

static void what_comes_and_goes_is_found_or_not(void)
{
	struct index index = { 0 };
	unsigned i, n;

	srandom(7);
	for (n = 0; n < 200000; n++) {
		i = (unsigned)random() % 300;
		if (things[i].there)
			take(&index, i);
		else
			add(&index, i);
		check(&index, &things[i]);
		check(&index, &things[(unsigned)random() % 300]);
	}
	for (i = 0; i < 300; i++) {
		check(&index, &things[i]);
		index_remove(&index, &things[i].node);
		index_remove(&index, &things[i].node); /* harmless */
	}
	CHECK(!index.top);
}

/* Of several of one name each can be taken, and one that is left is found. */
static void one_name_twice(void)
{
	struct index index = { 0 };
	struct index_node a = { 0 }, b = { 0 }, c = { 0 };

	index_add(&index, &a, "same");
	index_add(&index, &b, "same");
	index_add(&index, &c, "same");
	CHECK(index.n == 3);
	index_remove(&index, &b);
	index_remove(&index, &a);
	CHECK(index.n == 1 && index_find(&index, "same") == &c);
	index_remove(&index, &c);
	CHECK(!index_find(&index, "same"));
}

int main(void)
{
	TEST(the_most_comparisons_are_few);
	TEST(what_comes_and_goes_is_found_or_not);
	TEST(one_name_twice);
	return 0;
}
