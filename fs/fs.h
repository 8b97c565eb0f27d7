/* SPDX-License-Identifier: MIT */
/*
 * fs.h - the daemon's one object: what everything in fs/ shares
 *
 * Single-threaded: all of fs/ runs on the loop's thread and needs no locks.
 */
#ifndef SBX_FS_FS_H
#define SBX_FS_FS_H

#include <stdint.h>

#include "fs/sandbox/settings.h"
#include "fs/tree/node.h"
#include "fs/tree/object.h"
#include "snap/store.h"
#include "vm/engine.h"

struct session;
struct ready;

/* What the command line decides. */
struct options {
	struct shape shape;       /* of a new sandbox */
	unsigned pool;            /* machines kept ready for each template that is forked */
	unsigned pool_total;      /* and for all of them together */
	uint64_t pool_memory;     /* no more of them once they have so many bytes of their own */
	unsigned boot_timeout_ms; /* power-on until the guest's agent answers */
	unsigned fork_timeout_ms; /* start of a fork's machine until it answers */
	unsigned stop_timeout_ms; /* how long `stop` asks before it kills */
};

struct fs {
	struct loop *loop;
	struct store *store;
	const struct engine *engine;
	struct engine_env env;
	char engine_how[ERR_TEXT_MAX];
	struct options options;
	struct session *session;

	struct object root;      /* never gone, never freed */
	uint64_t objects;        /* how many there ever were: the next inode number */
	struct list nodes;       /* struct node: what the kernel knows */
	struct list files;       /* struct file: open ones */
	struct list guest_files; /* struct guest_file: open ones */
	struct list requests;    /* struct request: those that wait */
	struct list images;      /* struct object, by siblings: images that were looked at */
	struct list sandboxes;   /* struct sandbox */
	struct list snapshots;   /* struct snapshot: named ones */
	struct list pool;        /* struct ready: machines kept ready (pool.c) */
	struct timer pool_timer;
	struct ready *pool_preparing; /* the one under way, or NULL */
	unsigned forking;             /* forks and rollbacks under way */
	unsigned working;             /* threads at work on the store */
	struct list workers;          /* struct worker: of them, those of snapshots (snapwork.c) */
	struct timer work_timer;      /* tells how far they are */
	struct list browsed;          /* struct snapfs: helpers for files of snapshots, the last used first */
	unsigned browse_opening;      /* of them, those that may still have to open their layers */
	struct {
		struct compact *compact; /* under way, or NULL */
		struct progress progress;
		struct timer timer;
		bool wanted;     /* there may be something to do */
		bool settling;   /* there are files to let go of */
		unsigned waited; /* how often it was put off */
	} compaction;            /* compaction.c */
	uint64_t forks_made;
};

#define FS_VERSION "0.1"

#endif
