/* SPDX-License-Identifier: MIT */
/* test_kept.c - what open files keep and writes hold has a bound: for each user, and for all */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/fs.h"
#include "fs/tree/kept.h"
#include "tests/unit/unit.h"

enum { MANY = 4000, SIZE = 1 << 20 };

static struct fs fs;
static struct kept kept[MANY];
static unsigned forgotten[MANY], n_forgotten;
static size_t sizes[MANY];

static void forget(struct kept *which)
{
	forgotten[which - kept]++;
	n_forgotten++;
}

static void begin(void)
{
	struct err err;
	unsigned i;

	CHECK(!kept_open(&fs, &err));
	n_forgotten = 0;
	for (i = 0; i < MANY; i++) {
		kept[i] = (struct kept){ .forget = forget };
		forgotten[i] = 0;
	}
}

static void end(void)
{
	unsigned i;

	for (i = 0; i < MANY; i++)
		kept_drop(&fs, &kept[i]);
	kept_close(&fs);
}

/* A user gives up the oldest of their own, and of nobody else's; what was used again is no longer old. */
static void a_user_has_so_much(void)
{
	const unsigned fit = KEPT_EACH / SIZE;
	const uid_t user = geteuid() + 1;
	unsigned i;

	begin();
	kept_use(&fs, &kept[0], user + 1, SIZE);
	for (i = 1; i <= fit; i++)
		kept_use(&fs, &kept[i], user, SIZE);
	CHECK(!n_forgotten);
	kept_use(&fs, &kept[1], user, SIZE);
	kept_use(&fs, &kept[fit + 1], user, SIZE);
	CHECK(n_forgotten == 1 && forgotten[2] && !kept[2].keeper);
	kept_use(&fs, &kept[fit + 2], user, KEPT_EACH + SIZE);
	CHECK(n_forgotten == 1 + fit && !forgotten[fit + 2] && !forgotten[0]);
	/* What grows counts as it is. */
	kept_use(&fs, &kept[fit + 2], user, SIZE);
	for (i = 1; i < fit; i++)
		kept_use(&fs, &kept[i], user, SIZE);
	CHECK(n_forgotten == 1 + fit);
	end();
}

/* The daemon's own user fills all there is, and gives room to whoever has less. */
static void all_have_so_much(void)
{
	const unsigned fit = KEPT_ALL / SIZE;
	const uid_t own = geteuid();
	unsigned i;

	begin();
	for (i = 0; i < fit; i++)
		kept_use(&fs, &kept[i], own, SIZE);
	CHECK(!n_forgotten);
	for (; i < fit + 4; i++)
		kept_use(&fs, &kept[i], own + 1, SIZE);
	CHECK(n_forgotten == 4 && forgotten[0] && forgotten[3] && !forgotten[4] && !forgotten[fit]);
	end();
	/* Where many have little each, somebody has to. */
	begin();
	for (i = 0; i < MANY; i++)
		kept_use(&fs, &kept[i], own + 1 + i, SIZE / 2);
	CHECK(n_forgotten == MANY - 2 * fit && !forgotten[MANY - 1]);
	end();
}

/* Whoever has the most gives the oldest of theirs, beside looking at all of them. */
static void the_richest_give(void)
{
	enum { USERS = 50, EACH = MANY / USERS };
	const uid_t own = geteuid();
	size_t total = 0, most, has[USERS] = { 0 };
	unsigned used[MANY] = { 0 }, step, user, i, oldest, gave = 0;

	begin();
	srandom(1);
	for (step = 1; step <= MANY; step++) {
		struct kept *which = &kept[random() % MANY];
		const size_t size = (size_t)(random() % (KEPT_EACH / EACH)) + 1;

		user = (unsigned)(which - kept) / EACH;
		total += size - which->bytes;
		has[user] += size - which->bytes;
		n_forgotten = 0;
		kept_use(&fs, which, own + 1 + user, size);
		used[which - kept] = step;
		for (; n_forgotten; n_forgotten--, gave++) {
			most = 0;
			for (i = 0; i < USERS; i++)
				most = has[i] > most ? has[i] : most;
			/* Any of those who had so much may have been chosen; of theirs it was the oldest. */
			oldest = MANY;
			for (i = 0; i < MANY; i++)
				if (forgotten[i] && has[i / EACH] == most &&
				    (oldest == MANY || used[i] < used[oldest]))
					oldest = i;
			CHECK(oldest < MANY && used[oldest]);
			for (i = oldest / EACH * EACH; i < (oldest / EACH + 1) * EACH; i++)
				CHECK(!kept[i].keeper || used[i] > used[oldest]);
			forgotten[oldest] = 0;
			used[oldest] = 0;
			has[oldest / EACH] -= sizes[oldest];
			total -= sizes[oldest];
		}
		sizes[which - kept] = size;
		CHECK(total <= KEPT_ALL);
	}
	CHECK(gave > 100);
	end();
}

static void writes_hold_so_much(void)
{
	const uid_t own = geteuid(), user = own + 1;
	struct err err;
	size_t all;

	begin();
	CHECK(!kept_hold(&fs, user, HELD_EACH, &err));
	CHECK(kept_hold(&fs, user, 1, &err) == -EDQUOT && err.text[0]);
	for (all = HELD_EACH; all < HELD_ALL; all += HELD_EACH)
		CHECK(!kept_hold(&fs, own, HELD_EACH, &err));
	CHECK(kept_hold(&fs, own, 1, &err) == -ENOMEM && err.text[0]);
	CHECK(kept_hold(&fs, user + 1, 1, &err) == -ENOMEM);
	kept_release(&fs, user, HELD_EACH);
	CHECK(!kept_hold(&fs, user + 1, 1, &err) && !kept_hold(&fs, user, 1, &err));
	kept_release(&fs, user + 1, 1);
	kept_release(&fs, user, 1);
	kept_release(&fs, own, HELD_ALL - HELD_EACH);
	CHECK(!kept_hold(&fs, user, HELD_EACH, &err));
	kept_release(&fs, user, HELD_EACH);
	end();
}

int main(void)
{
	TEST(a_user_has_so_much);
	TEST(all_have_so_much);
	TEST(the_richest_give);
	TEST(writes_hold_so_much);
	return 0;
}
