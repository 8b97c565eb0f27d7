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

enum { DENIED_STATUS = 159 }; /* exit status: what a shell says of a process killed by SIGSYS */

/* Called before the filter is entered. 0 or a negative errno. */
int denied_report(void);
/*
 * That, and a filter that allows these system calls and refuses all others: the caller adds to it, loads it and
 * releases it. NULL with a negative errno in *rc, which is 0 otherwise.
 */
scmp_filter_ctx denied_filter(const int *allowed, size_t n, int *rc);

#endif
