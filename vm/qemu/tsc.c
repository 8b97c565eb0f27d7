/* SPDX-License-Identifier: MIT */
/*
 * tsc.c - the frequency of the host's time stamp counter
 *
 * Under TCG the guest's counter is the host's with an offset (cpu_get_host_ticks in QEMU's
 * include/qemu/timer.h), and nothing tells the guest its frequency. A guest that measures it against the PIT
 * fails when the host is busy in that moment, one boot in eight with two loaded CPUs, and microvm has no
 * other timer to fall back on: it then hangs. So we measure, where time can be had, and tell it.
 */
#include "vm/qemu/tsc.h"

#include <stdint.h>
#include <time.h>
#include <x86intrin.h>

#include "util/loop.h"

enum { SPAN_NS = 20 * 1000 * 1000, TRIES = 16 };

struct sample {
	uint64_t tsc, ns;
};

/* Both clocks at one moment: of several tries the one that was not interrupted. */
static struct sample sample(void)
{
	struct sample best = { 0 };
	uint64_t before, after, ns, shortest = UINT64_MAX;
	unsigned i;

	for (i = 0; i < TRIES; i++) {
		before = __rdtsc();
		ns = now_mono_ns();
		after = __rdtsc();
		if (after - before >= shortest)
			continue;
		shortest = after - before;
		best = (struct sample){ .tsc = before + shortest / 2, .ns = ns };
	}
	return best;
}

unsigned tsc_khz(void)
{
	static const struct timespec span = { .tv_nsec = SPAN_NS };
	static unsigned khz;
	struct sample from, to;

	if (!khz) {
		from = sample();
		nanosleep(&span, NULL);
		to = sample();
		khz = (unsigned)((to.tsc - from.tsc) * 1000000 / (to.ns - from.ns));
	}
	return khz;
}

bool tsc_fits(unsigned khz)
{
	const unsigned ours = tsc_khz(), tolerance = ours / 4000;

	return khz <= ours + tolerance && khz + tolerance >= ours;
}
