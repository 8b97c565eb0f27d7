/* SPDX-License-Identifier: MIT */
/*
 * demand.h - how many machines are worth keeping ready for a template, by how it was forked lately
 *
 * Forks with less than five seconds between each two are a row, for a minute at most. Who made a row once makes
 * another: so there shall be as many as the rows of late would have needed to find one ready each time, and no
 * fewer than `least`. That is as many as the row had forks where one found none; where all found one, what was left
 * at the least was not needed. What a row did not need is given up by and by, with each row and each minute without
 * a fork; after an hour without one nothing is kept.
 *
 * Times are those of CLOCK_MONOTONIC in nanoseconds.
 */
#ifndef SBX_FS_POOL_DEMAND_H
#define SBX_FS_POOL_DEMAND_H

#include <stdbool.h>
#include <stdint.h>

#define DEMAND_ROW_NS (UINT64_C(5) * 1000000000)     /* a longer pause ends a row */
#define DEMAND_LONG_NS (UINT64_C(60) * 1000000000)   /* as long is a row */
#define DEMAND_LESS_NS (UINT64_C(60) * 1000000000)   /* of so much quiet each half goes */
#define DEMAND_NONE_NS (UINT64_C(3600) * 1000000000) /* after so much all goes */

struct demand {
	unsigned least, most; /* the caller's, and then as below */
	uint64_t last_ns;     /* when it was forked last; 0: never */
	unsigned learned;     /* what rows before this one needed */
	/* The row under way. */
	uint64_t began_ns;
	unsigned kept; /* what there should have been when it began */
	unsigned forks;
	bool missed;    /* one found none ready */
	unsigned spare; /* the fewest that were left */
};

/* It was forked, and `ready` machines were ready before that. The first fork needed none: nobody could know. */
void demand_fork(struct demand *demand, unsigned ready, uint64_t now_ns);
/* How many there should be. */
unsigned demand_want(const struct demand *demand, uint64_t now_ns);
/* How long until that is fewer by itself. */
uint64_t demand_holds_ns(const struct demand *demand, uint64_t now_ns);

#endif
