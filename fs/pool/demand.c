/* SPDX-License-Identifier: MIT */
/* demand.c - how many machines are worth keeping ready for a template, by how it was forked lately */
#include "fs/pool/demand.h"

static unsigned within(const struct demand *demand, unsigned n)
{
	if (n < demand->least)
		return demand->least;
	return n < demand->most ? n : demand->most;
}

/* Of what was needed, what counts after a time without forks. */
static unsigned after(unsigned needed, uint64_t quiet_ns)
{
	const uint64_t halvings = quiet_ns / DEMAND_LESS_NS;

	return halvings < 32 ? needed >> halvings : 0;
}

static unsigned greater(unsigned a, unsigned b)
{
	return a > b ? a : b;
}

/* By the row under way. */
static unsigned needed(const struct demand *demand)
{
	if (demand->missed)
		return within(demand, greater(demand->kept, demand->forks));
	return within(demand, demand->kept - demand->spare);
}

static void begin_row(struct demand *demand, uint64_t now_ns)
{
	const unsigned less = demand->learned / 4 + (demand->learned > 0);

	if (demand->last_ns)
		demand->learned =
			after(greater(needed(demand), demand->learned - less), now_ns - demand->last_ns);
	demand->kept = within(demand, demand->learned);
	demand->spare = demand->kept;
	demand->forks = 0;
	demand->missed = false;
	demand->began_ns = now_ns;
}

void demand_fork(struct demand *demand, unsigned ready, uint64_t now_ns)
{
	const unsigned left = ready ? ready - 1 : 0;
	const uint64_t quiet_ns = now_ns - demand->last_ns;
	const bool first = !demand->last_ns || quiet_ns >= DEMAND_NONE_NS;

	if (first || quiet_ns >= DEMAND_ROW_NS || now_ns - demand->began_ns >= DEMAND_LONG_NS)
		begin_row(demand, now_ns);
	demand->last_ns = now_ns;
	if (first)
		return;
	if (left < demand->spare)
		demand->spare = left;
	demand->forks++;
	demand->missed |= !ready;
}

unsigned demand_want(const struct demand *demand, uint64_t now_ns)
{
	const uint64_t quiet_ns = now_ns - demand->last_ns;

	if (!demand->last_ns || quiet_ns >= DEMAND_NONE_NS)
		return 0;
	/* While a row is under way it may need all that there is. */
	if (quiet_ns < DEMAND_ROW_NS)
		return greater(needed(demand), demand->kept);
	return within(demand, after(greater(needed(demand), demand->learned), quiet_ns));
}

uint64_t demand_holds_ns(const struct demand *demand, uint64_t now_ns)
{
	const uint64_t quiet_ns = now_ns - demand->last_ns;

	if (quiet_ns < DEMAND_ROW_NS)
		return DEMAND_ROW_NS - quiet_ns;
	if (demand_want(demand, now_ns) > demand->least)
		return DEMAND_LESS_NS - quiet_ns % DEMAND_LESS_NS;
	return quiet_ns < DEMAND_NONE_NS ? DEMAND_NONE_NS - quiet_ns : DEMAND_NONE_NS;
}
