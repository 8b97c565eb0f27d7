/* SPDX-License-Identifier: MIT */
/*
 * work.h - slow work on a snapshot, on threads: saving, loading, checking, archives
 *
 * The store's slow functions begin on the loop, run on a worker, and end on the loop. A worker that is not
 * wanted any more is asked to give up, and ends when it does; it holds a reference to its snapshot. Whoever
 * is interested in how far it is polls `status`.
 */
#ifndef SBX_FS_SNAPSHOT_WORK_H
#define SBX_FS_SNAPSHOT_WORK_H

#include "fs/snapshot/snapshot.h"

struct work_kind {
	const char *doing; /* in status; NULL: the snapshot is ready meanwhile */
	bool waits;        /* for others: on a thread of its own */
	bool writes;       /* to the store */
	int (*run)(struct worker *worker);
	/* End what was begun; err says how that went. */
	void (*end)(struct worker *worker, int result, struct err *err);
};

struct worker {
	struct list link;      /* snap->workers */
	struct list all;       /* of the daemon */
	struct snapshot *snap; /* a reference */
	const struct work_kind *kind;
	struct progress progress;
	unsigned told; /* percent, when pollers were last woken */
	union {        /* what the store's begin function gave */
		struct save *save;
		struct visit *visit;
		struct export *export;
		struct import *import;
	};
	int fd;                        /* an archive's: the worker's end of the pipe */
	struct timer timer;            /* it could not be started */
	char name[STORE_NAME_MAX + 1]; /* a save's: the name to be */
	uint64_t began_ns;             /* a save; 0: it is none */
	struct sandbox *source;        /* a save's: whose snapshot it is; a reference, or NULL */
	bool full;                     /* it is ended, since the store is almost full */
	bool promised; /* whoever wanted it was told that it is done: only a removal ends it */
	done_fn done;  /* NULL: nobody waits */
	void *arg;
};

/* The daemon's; -ENOMEM. Closed when fs->working is 0. */
int workers_open(struct fs *fs, struct err *err);
void workers_close(struct fs *fs);
/* Something is promised, and not done yet. */
bool workers_owe(const struct fs *fs);
/* No snapshot is worked on. */
bool workers_idle(const struct fs *fs);
/*
 * May one more that waits for others be started, each with a thread and buffers of its own? So many may be under
 * way in all, and for the snapshots of one owner. 0, or -EBUSY with the reason.
 */
enum { WAITING_MAX = 64, WAITING_OF_OWNER_MAX = 16 };
int worker_room(const struct snapshot *snap, struct err *err);
/* NULL when out of memory. One that is not started is just freed. */
struct worker *worker_new(struct snapshot *snap, const struct work_kind *kind, done_fn done, void *arg);
/* What it is to run has begun. From here on the worker ends itself and that, never from inside this call. */
void worker_start(struct worker *worker);
/* The one that keeps the snapshot from being used otherwise; NULL: none does. */
struct worker *worker_busy(const struct snapshot *snap);

#endif
