/* SPDX-License-Identifier: MIT */
/*
 * fs.h - the daemon's one object: what everything in fs/ shares
 *
 * Single-threaded: all of fs/ runs on the loop's thread and needs no locks.
 */
#ifndef SBX_FS_FS_H
#define SBX_FS_FS_H

#include <stdint.h>

#include "fs/sandbox/gauge.h"
#include "fs/sandbox/limits.h"
#include "fs/sandbox/settings.h"
#include "fs/timing.h"
#include "fs/tree/node.h"
#include "fs/tree/object.h"
#include "snap/store.h"
#include "vm/agent/proto.h"
#include "vm/engine.h"
#include "vm/net/policy.h"

struct admission;
struct boots;
struct browsing;
struct changes;
struct compaction;
struct idle_watch;
struct keepers;
struct modules;
struct net_helpers;
struct pool;
struct room_watch;
struct sandbox;
struct session;
struct workers;

/* What the command line decides. */
struct options {
	struct shape shape;                         /* of a new sandbox */
	unsigned pool;                              /* machines kept ready for each template that is forked */
	unsigned pool_total;                        /* and for all of them together */
	unsigned max_sandboxes;                     /* in all */
	unsigned max_per_user;                      /* sandboxes of one owner */
	unsigned max_jobs;                          /* of a sandbox, with those behind an open `run` */
	unsigned max_jobs_total, max_jobs_per_user; /* in all; of one owner's sandboxes */
	uint64_t max_memory, max_memory_per_user;   /* of all machines; of one owner's */
	unsigned max_files_per_user; /* of the daemon's descriptors; 0: half of them (admission.h) */
	bool has_reserve;
	uint64_t reserve;         /* bytes of the store that are kept free (room.h) */
	uint64_t pool_memory;     /* no more of them once they have so many bytes of their own */
	unsigned boot_timeout_ms; /* power-on until the guest's agent answers */
	unsigned fork_timeout_ms; /* start of a fork's machine until it answers */
	enum net_mode net;        /* of a new sandbox */
	struct limits limits;     /* of a new sandbox; more is for root to give */
	unsigned boot_snapshots;  /* how many there may be; 0: every start boots */
	bool metrics_sandboxes;   /* `metrics` has each sandbox */
	bool keep;                /* the daemon's end suspends what there is (fs/life/life.h) */
	unsigned stop_timeout_ms; /* how long `stop` asks before it kills */
};

struct fs {
	struct loop *loop;
	struct store *store;
	const struct engine *engine;
	struct engine_env env;
	struct modules *modules; /* of the guest's kernel; NULL: there are none (vm/agent/modules.h) */
	char engine_how[ERR_TEXT_MAX];
	struct options options;
	struct session *session;
	bool confined;          /* it gave up its privileges (vm/jail/confine.h) */
	bool filtered;          /* it has the filter of system calls alone */
	const char *mountpoint; /* absolute, without links */

	struct object root;              /* never gone, never freed */
	uint64_t objects;                /* how many there ever were: the next inode number */
	struct list nodes;               /* struct node: what the kernel knows */
	struct list files;               /* struct file: open ones */
	struct list guest_files;         /* struct guest_file: open ones */
	struct list guest_opened;        /* struct guest_call: files that are opened ahead */
	uint32_t guest_mounts;           /* how many there ever were */
	struct list requests;            /* struct request: those that wait */
	struct index images;             /* struct object: images that were looked at */
	struct list sandboxes;           /* struct sandbox... */
	struct index sandbox_names;      /* ...by name */
	struct net_helpers *net_helpers; /* ready ones */
	struct list snapshots;           /* struct snapshot: named ones... */
	struct index snapshot_names;     /* ...by name */
	unsigned forking;                /* forks and rollbacks under way */
	unsigned working;                /* threads at work on the store */
	uint64_t forks_made;
	uint64_t found_ready; /* forks and starts that took a machine of the pool's that was ready */
	uint64_t starts_warm, starts_cold;                                /* from boot snapshots; by a boot */
	struct timing fork_times, start_times, capture_times, save_times; /* of those that went well */
	struct gauge memory;                                              /* of all machines, for status */
	uint32_t next_addr;  /* of the next sandbox on this host (network.c); 0: not chosen yet */
	uint8_t addrs[8192]; /* a bit for each that a sandbox has */

	/* What belongs to one file alone, by the name of its header. */
	struct admission *admission;
	struct keepers *keepers; /* kept.h */
	struct boots *boots;
	struct idle_watch *idle;
	struct changes *changes;
	struct pool *pool;
	struct room_watch *room;
	struct workers *workers;
	struct browsing *browsing;
	struct compaction *compaction;
	/* A disk layer was frozen, or came with an archive. */
	void (*layer_frozen)(struct fs *fs);
	/* The store has less than its reserve: what can be had again goes. */
	void (*store_short)(struct fs *fs);
	/* A guest asks for a verb of its own sandbox, and may be answered now (fs/fork/asked.h). */
	void (*asked)(struct sandbox *sb, uint32_t id, enum guest_verb verb, uint32_t number,
		      const char *name);
	void (*asked_go_on)(struct sandbox *sb);
	/* What writes to the store, and is no machine, has to end. */
	void (*store_full)(struct fs *fs);
};

#endif
