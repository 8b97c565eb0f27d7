/* SPDX-License-Identifier: MIT */
/*
 * fork.h - new sandboxes from snapshots and from sandboxes
 *
 * The origin of a fork is a snapshot, or a sandbox, which is captured for it. The new sandbox is in the tree
 * when it answers commands, and not before; a fork that fails or is cancelled leaves nothing.
 */
#ifndef SBX_FS_FORK_FORK_H
#define SBX_FS_FORK_FORK_H

#include "fs/sandbox/sandbox.h"
#include "fs/sandbox/settings.h"

/* What forks are made of: found once, used for one or many. */
struct source;
typedef void (*source_fn)(void *arg, const struct err *err, struct source *source);
/*
 * Capture or load what `origin` (a sandbox's or snapshot's object) has. done gets one reference, and is
 * called once, maybe from inside the call.
 */
void source_get(struct object *origin, source_fn done, void *arg);
void source_unref(struct source *source);
/*
 * Give sb, which has no machine and no disk, a machine forked from the source, a step of its task; settings,
 * environment
 * (`env`, if not NULL, is added) and lineage become the source's. done as in machine.h.
 */
int source_machine(struct source *source, struct sandbox *sb, const struct buf *env, done_fn done, void *arg,
		   struct err *err);

struct fork;
/* err->code == 0: the sandbox lives. fork is already free. */
typedef void (*fork_fn)(void *arg, const struct err *err, struct sandbox *sb);

/* Reserve the name for a child of origin; the overrides' env is copied. */
int fork_new(struct object *origin, const char *name, const struct owner *owner,
	     const struct overrides *overrides, fork_fn done, void *arg, struct fork **ret, struct err *err);
/* Make it. The source is borrowed. */
void fork_run(struct fork *fork, struct source *source);
/* It cannot be made. */
void fork_fail(struct fork *fork, const struct err *err);
/* Nobody waits for it any more: leave nothing; done is not called. */
void fork_cancel(void *fork);

/* mkdir .../forks/NAME */
void fork_mkdir(struct object *origin, const char *name, const struct owner *owner, struct request *request);
/* The verb: fork W [k=v ...] and fork N PREFIX [k=v ...]. */
void fork_verb(struct object *origin, const struct words *words, struct command *command);

/* ---- in batch.c */

enum { BATCH_MAX = 1000 };
/* n children PREFIX1... of origin; one that fails leaves the others alone, and has a line in `error`. */
void fork_batch(struct object *origin, unsigned n, const char *prefix, const struct overrides *overrides,
		struct command *command);

#endif
