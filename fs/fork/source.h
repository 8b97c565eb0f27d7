/* SPDX-License-Identifier: MIT */
/*
 * source.h - what forks are made of: a template, and what goes with it
 *
 * Its origin is a snapshot, whose template is loaded if need be, or a sandbox, which is captured. It is found
 * once and used for one fork or many.
 */
#ifndef SBX_FS_FORK_SOURCE_H
#define SBX_FS_FORK_SOURCE_H

#include "fs/sandbox/sandbox.h"

struct source;
/* source: the callee's, who frees it; NULL: err says why. */
typedef void (*source_fn)(void *arg, const struct err *err, struct source *source);

/*
 * What `origin` (a sandbox's or snapshot's object) has. It is returned, the caller's, where it is there already.
 * NULL: err says why, or, with err->code 0, it is captured or loaded first, and done is called once, maybe from
 * inside the call.
 */
struct source *source_get(struct object *origin, source_fn done, void *arg, struct err *err);
void source_free(struct source *source); /* NULL is allowed */
/* The shape of what was captured, and its network's policy (network_load). */
const struct shape *source_shape(const struct source *source);
const struct buf *source_network(const struct source *source);

/*
 * Give sb, which has no machine and no disk, a machine forked from the source, a step of its task, and what that
 * machine has: its shape and what it requires of a host. done as in machine.h.
 */
int source_machine(struct source *source, struct sandbox *sb, done_fn done, void *arg, struct err *err);
/* The same for a sandbox that becomes a copy: settings, environment (`env`, if not NULL, is added) and lineage are
 * the source's, too. */
int source_copy(struct source *source, struct sandbox *sb, const struct buf *env, done_fn done, void *arg,
		struct err *err);

#endif
