/* SPDX-License-Identifier: MIT */
/* parallel.h - do many independent pieces of one job on all cores */
#ifndef SBX_SNAP_PARALLEL_H
#define SBX_SNAP_PARALLEL_H

#include <stddef.h>

#include "snap/store.h"
#include "util/err.h"

/*
 * Call piece(arg, i, scratch, err) once for every i below n, on several threads, in about rising order;
 * scratch is scratch_size bytes of the thread's own. Ends early when a piece fails or progress->cancel is
 * set; returns the first failure. progress may be NULL.
 */
int parallel_run(size_t n, int (*piece)(void *arg, size_t i, void *scratch, struct err *err), void *arg,
		 size_t scratch_size, struct progress *progress, struct err *err);

#endif
