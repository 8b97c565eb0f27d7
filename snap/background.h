/* SPDX-License-Identifier: MIT */
/*
 * background.h - one thread that does the store's chores in the order they were asked for
 *
 * Unlinking a large file or syncing a directory can take many milliseconds; neither may happen on the loop's
 * thread, and nobody waits for either. Order matters: a chore may rely on what an earlier one synced.
 */
#ifndef SBX_SNAP_BACKGROUND_H
#define SBX_SNAP_BACKGROUND_H

struct background;

/* NULL when out of memory or threads. */
struct background *background_new(void);
/* Finishes all chores first. NULL is allowed. */
void background_free(struct background *bg);

/* Call run(arg) on the thread; run owns arg. When memory is short it is called here and now, after all
 * others. */
void background_run(struct background *bg, void (*run)(void *arg), void *arg);
/* Wait until everything asked for so far is done. */
void background_flush(struct background *bg);

#endif
