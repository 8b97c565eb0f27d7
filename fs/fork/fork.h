/* SPDX-License-Identifier: MIT */
/*
 * fork.h - new sandboxes from snapshots and from sandboxes
 *
 * The new sandbox is in the tree when it answers commands, and not before; a fork that fails or is cancelled
 * leaves nothing.
 */
#ifndef SBX_FS_FORK_FORK_H
#define SBX_FS_FORK_FORK_H

#include "fs/fork/source.h"
#include "fs/sandbox/settings.h"
#include "fs/tree/ctl.h"

struct fork;
/* err->code == 0: the sandbox lives. fork is already free. */
typedef void (*fork_fn)(void *arg, const struct err *err, struct sandbox *sb);

/* Reserve the name for a child of origin; the overrides (NULL: none) are copied. done is called once; NULL: arg is a
 * struct command, which is ended. */
int fork_new(struct object *origin, const char *name, const struct owner *owner,
	     const struct overrides *overrides, fork_fn done, void *arg, struct fork **ret, struct err *err);
/* It is this one of the copies that a guest makes of its machine, which it is told. */
void fork_number(struct fork *fork, unsigned number);
/* Make it. The source is borrowed. */
void fork_run(struct fork *fork, struct source *source);
/* Nobody waits for it any more: it fails with -EINTR, now or when its source is there, and leaves nothing. */
void fork_cancel(void *fork);

/* A child of origin as the command asks, whose it says: a mkdir, or the verb with these overrides. */
void fork_one(struct object *origin, const char *name, const struct overrides *overrides,
	      struct command *command);

/* ---- in batch.c */

enum { BATCH_MAX = 1000 };
/* n children PREFIX1... of origin, whose the command says; one that fails leaves the others alone, and has a line in `error`. */
void fork_batch(struct object *origin, unsigned n, const char *prefix, const struct overrides *overrides,
		struct command *command);

#endif
