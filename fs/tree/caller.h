/* SPDX-License-Identifier: MIT */
/*
 * caller.h - who asks, where the kernel cannot decide what they may
 *
 * The kernel checks owners and modes of whatever a path leads to (default_permissions). What is left to us is
 * what a verb does beyond the file it was written to: it makes names elsewhere, or uses another snapshot.
 *
 * A verb counts as asked for by who opened the file it came through, as with any other descriptor: a program
 * with more rights that is made to write to a descriptor it was given gives none of them away. The umask is
 * that of the process that writes.
 */
#ifndef SBX_FS_TREE_CALLER_H
#define SBX_FS_TREE_CALLER_H

#include <stdbool.h>
#include <sys/types.h>

#include "snap/store.h"

struct caller {
	uid_t uid;
	gid_t gid;
	pid_t pid; /* the thread that waits for the answer; 0: another PID namespace's, not to be seen from here */
	bool groups; /* its supplementary groups count: it is still the user that opened the file */
};

/* rwx as in one digit of a mode. */
enum { CALLER_SEARCH = 1, CALLER_MAKE = 3 };

/* Does `mode` of something of this owner's allow all of `want`? Root may everything. Reads /proc of the
 * caller if its supplementary groups decide. */
bool caller_may(const struct caller *caller, const struct owner *owner, mode_t mode, unsigned want);
/* What has come to a thread that waits for us, and will act on it when it is answered. */
enum caller_signal {
	CALLER_GOES_ON,  /* nothing, or what programs keep count by: SIGCHLD, SIGWINCH, a profiler's clock */
	CALLER_SIGNALED, /* it has a handler, or stops */
	CALLER_DYING,    /* it is killed */
	CALLER_UNKNOWN,
};
/* Reads /proc. */
enum caller_signal caller_signal(const struct caller *caller);
/* Its umask; 077 where that cannot be learnt. Reads /proc, which a process that waits for us cannot leave. */
mode_t caller_umask(const struct caller *caller);

#endif
