/* SPDX-License-Identifier: MIT */
/*
 * clock.c - the wall clock, put right, and once more
 *
 * A machine that stood still has a clock that is behind by as long, and the host's time is old by as much as
 * it was on its way. Both are lags: of several times that came, the one that is ahead is the best.
 */
#include <errno.h>
#include <time.h>

#include "vm/agent/guest/agent.h"

int clock_set(uint64_t real_ns)
{
	const struct timespec ts = { .tv_sec = (time_t)(real_ns / 1000000000u),
				     .tv_nsec = (long)(real_ns % 1000000000u) };

	return clock_settime(CLOCK_REALTIME, &ts) < 0 ? -errno : 0;
}

void clock_forward(uint64_t real_ns)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (real_ns > (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec)
		(void)clock_set(real_ns);
}
