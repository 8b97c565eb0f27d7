/* SPDX-License-Identifier: MIT */
/*
 * gauge.h - how much of the host's memory machines take
 *
 * The kernel walks all of a process' memory to tell, so it is asked on a thread, and who wants to know waits. What
 * it said counts for a second, and for twenty times as long as it took.
 */
#ifndef SBX_FS_SANDBOX_GAUGE_H
#define SBX_FS_SANDBOX_GAUGE_H

#include "util/list.h"
#include "vm/engine.h"

struct object;
struct sandbox;

/* Part of an object. */
struct gauge {
	struct vm_memory seen;
	uint64_t until_ns;   /* CLOCK_MONOTONIC; seen holds so long */
	struct list waiting; /* struct request, of reads of a text */
	struct object *holder;
	const struct sandbox *of;
	uint64_t epoch;       /* of->epoch then */
	uint64_t began_ns;    /* of the look under way; 0: there is none */
	struct vm_memory sum; /* of the machines that it was asked of so far... */
	size_t asked;         /* ...so many */
};

/* `of`: of whose machine, the holder; NULL: of all. */
void gauge_init(struct gauge *gauge, struct object *holder, const struct sandbox *of);
/* For struct entry's refresh. */
struct list *gauge_refresh(struct gauge *gauge);

#endif
