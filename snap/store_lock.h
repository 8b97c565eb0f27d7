/* SPDX-License-Identifier: MIT */
/*
 * store_lock.h - one daemon has a store at a time, and the next one waits for one that is ending
 *
 * An unmount is over when the tree is gone, and the daemon ends after that: with --keep it suspends machines first.
 * Who unmounts and mounts again would find the store taken. So a daemon has two locks: it serves as long as it has
 * DIR/serving, and the store is its own as long as it has DIR/lock. The next one gets the first as soon as the tree is
 * gone, and then waits for the second, however long that takes. Both are flock(2)'s, and so end with the process.
 *
 * Called at the start and end of the daemon, by one thread, before there are others that take signals.
 */
#ifndef SBX_SNAP_STORE_LOCK_H
#define SBX_SNAP_STORE_LOCK_H

#include "util/err.h"

/* How long a daemon whose tree has just gone may take to see that. */
enum { STORE_LOCK_PATIENCE_MS = 2000 };

struct store_lock {
	int serving_fd, fd; /* -1: not held, as in STORE_LOCK_NONE */
};

#define STORE_LOCK_NONE                                                                                      \
	(struct store_lock)                                                                                  \
	{                                                                                                    \
		-1, -1                                                                                       \
	}

/*
 * Into *lock, which holds none: both locks in the directory dir_fd, whose name `dir` is for messages. -EBUSY: another daemon serves it, and went on
 * for STORE_LOCK_PATIENCE_MS. SIGTERM and SIGINT end the process while it waits for one that is ending.
 */
int store_lock_take(struct store_lock *lock, int dir_fd, const char *dir, struct err *err);
/* Serves no longer, and has the store still. Also when nothing is held. */
void store_lock_yield(struct store_lock *lock);
void store_lock_release(struct store_lock *lock);

#endif
