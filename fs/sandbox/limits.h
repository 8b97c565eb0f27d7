/* SPDX-License-Identifier: MIT */
/*
 * limits.h - what a sandbox may use of its host, beyond what its machine is made of
 *
 * The kernel sees to it, by the cgroups that its VMM and its network's helper have been in since they were started
 * (vm/jail/cgroup.h): a fork without limits asks for nothing. Each of the two has all of them. They are the sandbox's and not the machine's: a fork does not inherit
 * them, a rollback keeps them.
 *
 * Errors: -EINVAL for what is malformed, -ERANGE for numbers outside their bounds, -EOPNOTSUPP where the host has
 * no such cgroups, -EPERM for who may not raise one.
 */
#ifndef SBX_FS_SANDBOX_LIMITS_H
#define SBX_FS_SANDBOX_LIMITS_H

#include "fs/tree/caller.h"
#include "util/buf.h"
#include "util/err.h"
#include "vm/jail/jail.h"

struct fs;
struct object;
struct request;
struct sandbox;

/* One more than cgroups have: bytes of the store, which the daemon sees to (room.h). */
enum { LIMIT_DISK = LIMITS, LIMITS_ALL };

struct limits {
	uint64_t value[LIMITS_ALL]; /* in the units of enum limit; LIMIT_NONE; 0: not given */
};

extern const struct limits limits_none;
/* Whether anything is limited. */
static inline bool limits_any(const struct limits *limits)
{
	int i;

	for (i = 0; i < LIMITS_ALL; i++)
		if (limits->value[i] && limits->value[i] != LIMIT_NONE)
			return true;
	return false;
}

/* One of them, as in "memory" and "512M", or "max". */
int limits_set(struct limits *limits, const char *key, const char *value, struct err *err);
/* KEY=VALUE,... of a command line. */
int limits_parse(const char *text, struct limits *ret, struct err *err);
/* Can this host see to them? */
int limits_check_host(const struct limits *limits, struct err *err);
/* May the caller ask for those that are given? Only root and who runs the daemon may for more than the daemon gives. */
int limits_check(const struct fs *fs, const struct caller *caller, const struct limits *want,
		 struct err *err);
/* Those that are given take the place of others. */
void limits_merge(struct limits *limits, const struct limits *want);
/* Put a process of the sandbox's, which has no limits yet, under those of the sandbox. */
int limits_apply(const struct sandbox *sb, pid_t pid, struct err *err);

/* The file: show, and command. */
int limits_show(struct object *obj, struct buf *text, struct err *err);
void limits_write(struct object *obj, const char *text, struct request *request);

#endif
