/* SPDX-License-Identifier: MIT */
/* pending.h - a callback that is owed for an operation under way */
#ifndef SBX_UTIL_PENDING_H
#define SBX_UTIL_PENDING_H

#include <stddef.h>

#include "util/err.h"

/* Zero-initialised owes nothing. */
struct pending {
	done_fn done; /* NULL: none is owed */
	void *arg;
};

/*
 * Call back, if that is owed, and owe nothing from then on. The callback may begin the next operation, or free
 * what *pending is part of.
 */
static inline void pending_end(struct pending *pending, const struct err *err)
{
	const struct pending owed = *pending;

	pending->done = NULL;
	if (owed.done)
		owed.done(owed.arg, err);
}

#endif
