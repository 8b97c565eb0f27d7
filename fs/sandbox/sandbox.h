/* SPDX-License-Identifier: MIT */
/*
 * sandbox.h - a sandbox: a name, settings, a disk, and while it runs a machine
 *
 * One verb at a time is under way on a sandbox: its task. The task's callback is called once, when the verb
 * is done, or when the machine ends under it. Machines are driven by machine.h, captured by capture.h, forked
 * by fork.h.
 */
#ifndef SBX_FS_SANDBOX_SANDBOX_H
#define SBX_FS_SANDBOX_SANDBOX_H

#include "fs/fs.h"
#include "fs/life/life.h"
#include "fs/sandbox/admission.h"
#include "fs/sandbox/console.h"
#include "fs/sandbox/gauge.h"
#include "fs/sandbox/network.h"
#include "fs/sandbox/rights.h"
#include "fs/sandbox/room.h"
#include "fs/tree/object.h"
#include "fs/tree/request.h"
#include "fs/tree/tree.h"
#include "util/pending.h"
#include "vm/agent/channel.h"

enum sandbox_state {
	SANDBOX_CREATED,
	SANDBOX_RUNNING,
	SANDBOX_PAUSED,
	SANDBOX_STOPPED,
	SANDBOX_CRASHED,
	SANDBOX_SUSPENDED, /* its machine is in the store (fs/life/life.h) */
	SANDBOX_STATES
};

/* What a task waits for of the machine (machine.c). */
struct step {
	const char *name;    /* NULL: none is under way */
	struct pending then; /* NULL: the task ends with it */
};

struct task {
	const char *verb; /* NULL: none under way */
	done_fn done;
	void *arg;
	uint64_t began_ns;  /* for the story that -v tells */
	struct timer timer; /* the task's own limit */
	struct timer limit; /* while a VMM is asked for something: how long it may take */
	/* The VMM does not answer, and the caller was told: what ends the task now tells nobody. With `late` that
	 * was called in place of `done`, which is still to come. */
	bool answered;
	bool continuing; /* the engine was asked to let a machine run that stalled: it has not answered */
	bool unstalled;  /* it had stalled */
	/* A start that comes from a boot snapshot, or waits for one (fs/start/start.h): the guest is told that it booted,
	 * and if its machine ends the step's callback is told, since it may boot instead. */
	bool starting;
	bool waking; /* a resume of a stored machine: if that fails it stays stored */
	done_fn late;
	struct shape want; /* of a resize under way */
	struct err why;    /* of a pause that nobody asked for */
	/* The step of machine.c that it waits for. */
	bool returning; /* its machine will be what it was earlier: the guest runs hooks for that */
	struct step step;
	unsigned awaited; /* answers of the guest's that the step waits for */
};

/* What its guest asks for (fs/fork/asked.h). */
struct question {
	enum guest_verb verb; /* 0: nothing */
	bool begun;
	uint32_t id, number;
	char name[PROTO_NAME_MAX + 1];
	uint64_t epoch; /* of the machine that asks */
};

struct sandbox {
	struct object obj;
	struct list link; /* fs->sandboxes */
	bool born;        /* false: a fork on its way; its name is taken, but it is not to be seen */
	bool ending;      /* it is being removed */
	enum sandbox_state state;

	char image[STORE_NAME_MAX + 1];
	struct shape shape;
	struct limits limits;
	struct rights rights; /* the file `guest` */
	struct question asking;
	unsigned copies_made; /* the last number of those that its guest made */
	unsigned copy;        /* while it is made: which of those it is; 0: none */
	struct buf env;       /* lines K=V */
	struct buf requires;  /* of a fork: what its origin needs of a host (requirements.h) */
	struct layer *disk;   /* its own overlay, kept from one start to the next; NULL before the first */

	struct vm *vm;       /* NULL: no machine */
	struct agent *agent; /* with vm */
	uint32_t generation; /* of the agent channel, and of the identity */
	bool quiesced;       /* while paused: the channel is empty */
	bool stalled;        /* paused, since its disk had no room for what the guest wrote... */
	bool at_limit;       /* ...within its limit */
	struct room room;
	struct gauge memory; /* for stats */
	uint64_t epoch;      /* counts machines: what belongs to an earlier one is stale */
	struct task task;
	struct console console;
	struct network network;
	struct counted counted;
	struct life life;

	unsigned njobs;
	size_t texts;                /* bytes of their commands, environments and other settings */
	struct list jobs;            /* struct job, exec/ and `run`... */
	struct index job_names;      /* ...those in exec/, by name... */
	struct index job_numbers;    /* ...and those that the guest knows, by number */
	size_t streams;              /* bytes that their streams hold or have asked for */
	struct list outputs;         /* struct output: what is kept of it, the longest unread first... */
	size_t outputs_kept;         /* ...and how many bytes that is (job_io.c) */
	uint32_t next_job;           /* job numbers are unique in the machine's whole history */
	struct list snapshots;       /* struct snapshot, unnamed ones, oldest first... */
	struct index snapshot_names; /* ...by number */
	unsigned next_snapshot;
	struct guest_mount files; /* fs/ */
	struct list ports;        /* struct object, by siblings: names in tcp/ that somebody knows */
	struct index port_names;  /* them, by number */
	struct object *last_port; /* a reference: the one found last */
	uint64_t ports_ino;       /* their inode numbers begin here; 0: not yet */

	struct object *origin;                 /* what it was forked of; NULL: nothing, or that is gone */
	struct list fork_link;                 /* origin->forks */
	char parent[2 * STORE_NAME_MAX + 32];  /* the same as a path in the tree, kept for info */
	char parent_named[STORE_NAME_MAX + 1]; /* the named snapshot its memory goes back to, or "" */
	uint64_t boot_ns, fork_ns;             /* how long that took; 0: was not */
	bool warm;                             /* it was started from a boot snapshot */
	uint64_t began_ns;                     /* when it began, CLOCK_MONOTONIC */
};

struct sandbox *sandbox_of(const struct object *obj);
/* By name, unborn ones too; NULL: none. */
struct sandbox *sandbox_find(struct fs *fs, const char *name);
/* -EINVAL or -EEXIST, with the reason. */
int sandbox_name_check(struct fs *fs, const char *name, struct err *err);
/* A new one with default settings, in fs->sandboxes, not born. */
int sandbox_new(struct fs *fs, const char *name, const struct owner *owner, struct sandbox **ret,
		struct err *err);
/* Kill its machine, forget its jobs and unnamed snapshots, take it out of the tree. Nothing happens where that
 * is under way: the end of its task may ask for it too. */
void sandbox_remove(struct sandbox *sb);

/* For admission.h: its machine came, went or changed its memory, or it has more jobs or fewer. */
void sandbox_count(struct sandbox *sb);
/* dir_ops.chown of its directory. */
int sandbox_chown(struct object *obj, const struct owner *owner, struct err *err);

/* -ENOENT, -EINVAL, or -EBUSY once it has a disk. */
int sandbox_set_image(struct sandbox *sb, const char *name, struct err *err);
void sandbox_set_state(struct sandbox *sb, enum sandbox_state state);
/* Why it is `stalled`, and what to do about it. */
const char *sandbox_stall_reason(const struct sandbox *sb);
const char *sandbox_state_name(enum sandbox_state state);

/* Of all that are born. */
struct sandbox_counts {
	uint64_t states[SANDBOX_STATES];
	uint64_t stalled;
	uint64_t memory; /* bytes that their machines were given */
};
void sandbox_counts(const struct fs *fs, struct sandbox_counts *ret);

/*
 * May commands and files of the guest be used? 0, -EAGAIN (paused), -EHOSTDOWN or -ENODEV (gone). One that is suspended
 * is brought back for whoever asks: what is asked of its agent waits for that.
 */
int sandbox_usable(struct sandbox *sb, struct err *err);

/* Begin a verb: -EBUSY with the reason where one is under way. */
int task_begin(struct sandbox *sb, const char *verb, done_fn done, void *arg, struct err *err);
/*
 * The caller is told of a failure, but the task goes on: the engine has not answered yet, and nothing else can be
 * asked of it before. What it was to do is undone when it does.
 */
void task_answer(struct sandbox *sb, const struct err *err);
/* End it: calls done. Harmless when none is under way. */
void task_end(struct sandbox *sb, const struct err *err);

extern const struct entry sandbox_entry; /* /sbx/VM */

#endif
