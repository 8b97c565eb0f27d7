/* SPDX-License-Identifier: MIT */
/*
 * calls.h - groups of system calls that more than one of our filters lets through
 *
 * Each is a row of numbers for an array of libseccomp's. What a group means to a process depends on what it can reach:
 * names are those of its own root, sockets those that it was given or may make.
 */
#ifndef SBX_VM_JAIL_CALLS_H
#define SBX_VM_JAIL_CALLS_H

#include <seccomp.h>

/* Open and look, by a name or a descriptor; nothing is made or changed by them but what open(2) makes. */
#define CALLS_LOOK                                                                                           \
	SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(close), SCMP_SYS(close_range), SCMP_SYS(stat),            \
		SCMP_SYS(lstat), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(statfs),   \
		SCMP_SYS(fstatfs), SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2),              \
		SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(getdents64)

/* Use a socket that is connected; setsockopt(2) is each filter's own affair. */
#define CALLS_SOCKET                                                                                         \
	SCMP_SYS(shutdown), SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(getsockopt),              \
		SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg)

/* Connect one, or wait for who connects; socket(2) is each filter's own affair. */
#define CALLS_CONNECT SCMP_SYS(bind), SCMP_SYS(listen), SCMP_SYS(connect), SCMP_SYS(accept), SCMP_SYS(accept4)

/* Copies of descriptors, and locks of open files. */
#define CALLS_DUP SCMP_SYS(flock), SCMP_SYS(dup), SCMP_SYS(dup2), SCMP_SYS(dup3)

/* Wait for any of many. */
#define CALLS_WAIT                                                                                           \
	SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait),           \
		SCMP_SYS(epoll_pwait2), SCMP_SYS(poll), SCMP_SYS(ppoll)

/* What time it is and on which CPU; sleep, or let others go first. */
#define CALLS_CLOCK                                                                                          \
	SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(getcpu), SCMP_SYS(clock_gettime),       \
		SCMP_SYS(clock_getres), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep),                      \
		SCMP_SYS(gettimeofday), SCMP_SYS(time)

#endif
