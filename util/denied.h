/* SPDX-License-Identifier: MIT */
/*
 * denied.h - a system call that a filter refuses ends the process, and the last line of its log says which
 *
 * For filters with SCMP_ACT_TRAP in place of a kill, which would leave nothing but a signal number. The
 * filter must not allow rt_sigaction.
 */
#ifndef SBX_UTIL_DENIED_H
#define SBX_UTIL_DENIED_H

#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>

enum { DENIED_STATUS = 159 }; /* exit status: what a shell says of a process killed by SIGSYS */

/* Called before the filter is entered. 0 or a negative errno. */
int denied_report(void);
/*
 * That, and a filter that allows these system calls and refuses all others: the caller adds to it and enters it.
 * NULL with a negative errno in *rc, which is 0 otherwise.
 */
scmp_filter_ctx denied_filter(const int *allowed, size_t n, int *rc);

/* A system call that is allowed if its argument `arg` (from 0), of which only the bits of mask count, is value. */
struct call_rule {
	int call;
	unsigned arg;
	uint64_t mask, value;
};

/* Add rules to a filter of any kind. 0 or a negative errno. */
int filter_allow(scmp_filter_ctx filter, const struct call_rule *rules, size_t n);
/* Enter the filter unless rc says that making it has failed, and release it either way (NULL is allowed). Returns
 * rc, or a negative errno. */
int filter_enter(scmp_filter_ctx filter, int rc);

#endif
