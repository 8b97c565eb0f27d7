/* SPDX-License-Identifier: MIT */
/*
 * agent_clock.c - the wall clock, put right once more
 *
 * A machine that stood still has a clock that is behind by as long, and the host's time is old by as much as
 * it was on its way. Both are lags: of several times that came, the one that is ahead is the best.
 */
#include <time.h>

#include "vm/guest/agent.h"

void clock_forward(uint64_t real_ns)
{
	const struct timespec ts = { .tv_sec = (time_t)(real_ns / 1000000000u),
				     .tv_nsec = (long)(real_ns % 1000000000u) };
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (ts.tv_sec > now.tv_sec || (ts.tv_sec == now.tv_sec && ts.tv_nsec > now.tv_nsec))
		clock_settime(CLOCK_REALTIME, &ts);
}
