/* SPDX-License-Identifier: MIT */
/*
 * cgroup.h - the launcher's control groups: one for each process, which bounds what it may use of the host
 *
 * Version 2, and only where at least one of our controllers can be had: in the launcher's own group, which is
 * the root, or was delegated to it (systemd: Delegate=yes). Below that is a group of this launcher's, and below
 * that one for each process that it starts, which is there before that. Processes never move from one to another,
 * which would make the host wait for an RCU grace period.
 */
#ifndef SBX_VM_JAIL_CGROUP_H
#define SBX_VM_JAIL_CGROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"
#include "vm/jail/jail.h"

struct cgroups {
	int own_fd, base_fd; /* the launcher's group, and that of all machines; -1: there are none */
	unsigned have;       /* bits of enum limit */
	uint64_t next;       /* number of the next group */
	struct cgroup *spare;
	struct cgroup *left;    /* nobody's, but a thread of the kernel's was still in it */
	char name[32];          /* of the base */
	char how[ERR_TEXT_MAX]; /* what there is, or why there is nothing */
};

struct cgroup {
	uint64_t number;
	int fd;
	struct cgroup *left;
};

/* Never fails: how says what came of it. */
void cgroups_open(struct cgroups *groups);
/* Remove the groups; machines have none any more. */
void cgroups_close(struct cgroups *groups);

/* Have a group ready before one is wanted. */
void cgroups_spare(struct cgroups *groups);
/* *ret is NULL where there are no groups; -errno where there are, and none can be made. */
int cgroup_take(struct cgroups *groups, struct cgroup **ret, struct err *err);
/* Nobody is in it any more. NULL is allowed, as below. */
void cgroup_drop(struct cgroups *groups, struct cgroup *group);
/* value: as enum limit says, or LIMIT_NONE. store: a path on the device that LIMIT_IO is about. */
int cgroup_limit(const struct cgroups *groups, const struct cgroup *group, enum limit limit, uint64_t value,
		 const char *store, struct err *err);
/* End all that is in it. */
void cgroup_kill(const struct cgroup *group);
/* Did something in it end for want of memory? */
bool cgroup_starved(const struct cgroup *group);

#endif
