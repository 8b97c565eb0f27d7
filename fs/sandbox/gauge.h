/* SPDX-License-Identifier: MIT */
/*
 * gauge.h - how much of the host's memory machines take
 *
 * The kernel walks all of a process' memory to tell, so it is asked on a thread, and who wants to know waits. What
 * it said counts for a second, and for twenty times as long as it took. A look at all machines tells of each, too.
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
	uint64_t epoch; /* of->epoch then */
	/* `of` was among those that a look at all was asked of: its place there, plus 1, and of->epoch then; 0: it was not. */
	size_t place;
	uint64_t place_epoch;
	/* What a look at all said of `of` last, and of->epoch then. */
	struct vm_memory each;
	uint64_t each_epoch;
	uint64_t began_ns;    /* of the look under way; 0: there is none */
	struct vm_memory sum; /* of the machines that it was asked of so far... */
	size_t asked;         /* ...so many */
};

/* `of`: of whose machine, the holder; NULL: of all. */
static inline void gauge_init(struct gauge *gauge, struct object *holder, const struct sandbox *of)
{
	list_init(&gauge->waiting);
	gauge->of = of;
	gauge->holder = holder;
}

/* What the last look at all machines said of sb's; NULL: it was not there. */
const struct vm_memory *gauge_of(const struct sandbox *sb);

/* For struct entry's refresh. */
struct list *gauge_refresh(struct gauge *gauge);

#endif
