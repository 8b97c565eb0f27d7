/* SPDX-License-Identifier: MIT */
/* timing.c - how long something took, counted for the file `metrics` */
#include "fs/timing.h"

const uint32_t timing_bounds_ms[TIMING_BOUNDS] = { 1,   2,    5,    10,   25,    50,    100,  250,
						   500, 1000, 2500, 5000, 10000, 30000, 60000 };

void timing_add(struct timing *timing, uint64_t ns)
{
	unsigned i;

	timing->n++;
	timing->sum_ns += ns;
	for (i = 0; i < TIMING_BOUNDS; i++)
		if (ns <= timing_bounds_ms[i] * UINT64_C(1000000)) {
			timing->bucket[i]++;
			return;
		}
}
