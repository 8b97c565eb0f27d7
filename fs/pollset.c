/* SPDX-License-Identifier: MIT */
/* pollset.c - a value that can be polled for change */
#include "fs/pollset.h"

#include <stdlib.h>

#include "fs/fuse.h"

/* A kernel that polls again and again without a change sends a handle each time; only the newest few matter.
 */
enum { WAITERS_MAX = 1024 };

struct waiter {
	struct list link;
	struct fuse_pollhandle *ph;
};

void pollset_init(struct pollset *set)
{
	set->version = 1;
	list_init(&set->waiters);
}

static void wake(struct pollset *set)
{
	struct waiter *w;

	while ((w = list_first(&set->waiters, struct waiter, link))) {
		list_del(&w->link);
		fuse_lowlevel_notify_poll(w->ph);
		fuse_pollhandle_destroy(w->ph);
		free(w);
	}
}

void pollset_wake(struct pollset *set)
{
	set->version++;
	wake(set);
}

void pollset_add(struct pollset *set, struct fuse_pollhandle *ph)
{
	struct waiter *w = malloc(sizeof(*w)), *old;
	unsigned n = 0;

	list_for_each (old, &set->waiters, link)
		n++;
	if (n >= WAITERS_MAX) {
		old = list_first(&set->waiters, struct waiter, link);
		list_del(&old->link);
		/* Woken for nothing, its owner looks again. */
		fuse_lowlevel_notify_poll(old->ph);
		fuse_pollhandle_destroy(old->ph);
		free(old);
	}
	if (!w) {
		fuse_pollhandle_destroy(ph);
		return;
	}
	w->ph = ph;
	list_add(&set->waiters, &w->link);
}

void pollset_release(struct pollset *set)
{
	wake(set);
}
