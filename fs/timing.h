/* SPDX-License-Identifier: MIT */
/* timing.h - how long something took, counted for the file `metrics` */
#ifndef SBX_FS_TIMING_H
#define SBX_FS_TIMING_H

#include <stdint.h>

enum { TIMING_BOUNDS = 15 };

/* Upper bounds of the buckets, in milliseconds; what is above the last counts as well. */
extern const uint32_t timing_bounds_ms[TIMING_BOUNDS];

struct timing {
	uint64_t n, sum_ns;
	uint64_t bucket[TIMING_BOUNDS]; /* those that took at most its bound and more than the one's before */
};

/* Once more, and it took so long. */
void timing_add(struct timing *timing, uint64_t ns);

#endif
