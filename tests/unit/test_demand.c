/* SPDX-License-Identifier: MIT */
#include "fs/pool/demand.h"

#include "tests/unit/unit.h"

enum { LEAST = 2, MOST = 40 };

#define SECOND UINT64_C(1000000000)

/* A pool that has as many as it should when a row begins, and makes none while one is under way. */
struct pool {
	struct demand demand;
	uint64_t now;
};

static struct pool begin(void)
{
	return (struct pool){ .demand = { .least = LEAST, .most = MOST }, .now = 5 * SECOND };
}

/* n forks, a tenth of a second apart, `pause` after the last: how many found one ready. */
static unsigned row(struct pool *pool, unsigned n, uint64_t pause)
{
	unsigned ready, found = 0;

	pool->now += pause;
	for (ready = demand_want(&pool->demand, pool->now); n--; pool->now += SECOND / 10) {
		demand_fork(&pool->demand, ready, pool->now);
		found += ready > 0;
		ready -= ready > 0;
	}
	return found;
}

static unsigned want(const struct pool *pool)
{
	return demand_want(&pool->demand, pool->now);
}

static void a_row_is_kept_for_the_next(void)
{
	struct pool pool = begin();

	CHECK(want(&pool) == 0);
	CHECK(row(&pool, 1, 0) == 0 && want(&pool) == LEAST);
	CHECK(row(&pool, 20, DEMAND_ROW_NS) == LEAST && want(&pool) == 20);
	CHECK(row(&pool, 20, DEMAND_ROW_NS) == 20 && want(&pool) == 20);
	CHECK(row(&pool, 30, DEMAND_ROW_NS) == 20 && want(&pool) == 30);
	CHECK(row(&pool, 1000, DEMAND_ROW_NS) == 30 && want(&pool) == MOST);
}

/* Where machines are made as fast as they are taken no more are needed, however long the row is. */
static void a_row_that_finds_all_needs_no_more(void)
{
	struct pool pool = begin();
	unsigned i;

	for (i = 0; i < 1000; i++) {
		demand_fork(&pool.demand, LEAST, pool.now);
		pool.now += SECOND / 10;
		CHECK(want(&pool) == LEAST);
	}
}

static void forks_by_themselves_need_the_least(void)
{
	struct pool pool = begin();
	unsigned i;

	for (i = 0; i < 100; i++) {
		row(&pool, 1, DEMAND_ROW_NS);
		CHECK(want(&pool) == LEAST);
	}
}

static void what_rows_do_not_need_is_given_up(void)
{
	struct pool pool = begin();
	unsigned i;

	row(&pool, 1, 0);
	row(&pool, 32, DEMAND_ROW_NS);
	for (i = 0; want(&pool) > LEAST; i++) {
		CHECK(i < 20);
		CHECK(row(&pool, 1, DEMAND_ROW_NS) == 1);
	}
	CHECK(i > 4);
	/* A row that is not much shorter counts as it is. */
	row(&pool, 32, DEMAND_ROW_NS);
	row(&pool, 28, DEMAND_ROW_NS);
	pool.now += DEMAND_ROW_NS;
	CHECK(want(&pool) >= 28 && want(&pool) <= 32);
	CHECK(row(&pool, 28, 0) == 28);
}

/* One that is long is looked at now and then. */
static void a_row_without_end_keeps_what_it_needs(void)
{
	struct pool pool = begin();
	unsigned i;

	row(&pool, 1, 0);
	row(&pool, 32, DEMAND_ROW_NS);
	CHECK(want(&pool) == 32);
	for (i = 0; i < 12000; i++) {
		demand_fork(&pool.demand, want(&pool), pool.now);
		pool.now += SECOND / 10;
	}
	CHECK(want(&pool) == LEAST);
}

static void quiet_gives_it_back(void)
{
	struct pool pool = begin();
	uint64_t end, holds;
	unsigned before, steps = 0;

	row(&pool, 1, 0);
	row(&pool, 16, DEMAND_ROW_NS);
	end = pool.demand.last_ns;
	CHECK(want(&pool) == 16);
	while ((before = want(&pool))) {
		holds = demand_holds_ns(&pool.demand, pool.now);
		CHECK(holds > 0 && demand_want(&pool.demand, pool.now + holds - 1) == before);
		pool.now += holds;
		CHECK(want(&pool) <= before);
		steps += want(&pool) < before;
	}
	CHECK(pool.now == end + DEMAND_NONE_NS);
	CHECK(steps == 4); /* 8, 4, 2, none */
	CHECK(demand_holds_ns(&pool.demand, pool.now) > 0);
	/* And it begins anew. */
	CHECK(row(&pool, 1, SECOND) == 0 && want(&pool) == LEAST);
}

int main(void)
{
	TEST(a_row_is_kept_for_the_next);
	TEST(a_row_that_finds_all_needs_no_more);
	TEST(forks_by_themselves_need_the_least);
	TEST(what_rows_do_not_need_is_given_up);
	TEST(a_row_without_end_keeps_what_it_needs);
	TEST(quiet_gives_it_back);
	return 0;
}
