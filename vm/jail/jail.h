/* SPDX-License-Identifier: MIT */
/*
 * jail.h - the launcher: the one process that starts VMMs and helpers, each in a jail of its own
 *
 * The launcher is forked when the daemon starts, before anything untrusted is read, and starts programs on
 * request. Which programs there are, and what each of them finds in its jail, is a table (kinds.c) that
 * requests cannot change. A jail is:
 *
 *   - mount, pid, network (but for sbx-net), IPC, UTS and cgroup namespaces of its own; the program is process 1, so whatever
 *     it leaves behind dies with it
 *   - for a root directory a read-only tmpfs with the program, its libraries and what else the table names
 *   - for a daemon that is root a user id of its own; for others a user namespace with their own id only
 *   - no capabilities and none to be had, no_new_privs, no terminal, an environment of ours, limits, a
 *     system call filter; descriptors 0, 1, 2 and those it is given
 *   - where the launcher may make them (cgroup.h), a cgroup for each machine; and everywhere the first place among
 *     those that the kernel ends when the host runs out of memory
 *
 * Every step must succeed: a program whose jail cannot be made does not start, and says why.
 *
 * Calls wait for the launcher, which takes a fraction of a millisecond: what takes longer is done by the new
 * process itself. One that stands still (somebody stopped it) is waited for 5 s, and then not at all: calls
 * end with -ETIMEDOUT until it answers again. Signals are kept for it meanwhile; where there is no more room for
 * them, launcher_fd hangs up. What it started late it is told to kill. One launcher a process; called from one thread.
 */
#ifndef SBX_VM_JAIL_JAIL_H
#define SBX_VM_JAIL_JAIL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/err.h"

enum jail_kind { JAIL_VMM, JAIL_QEMU, JAIL_BROWSE, JAIL_NET, JAIL_KINDS };

/* One id a living process: far above those of distributions and of subordinate ids. */
#define JAIL_UID_FIRST 1900000000u
#define JAIL_UID_LAST 1900065535u

struct jail_config {
	bool none; /* only descriptors and a session of its own; everything else is the daemon's */
	uid_t uid_first, uid_last;   /* for root; group ids are the same numbers */
	const char *libexec;         /* directory of sbx-vmm, sbx-browse, sbx-net and sbx-track.so */
	const char *kernel, *initrd; /* the guest's: QEMU finds them as JAIL_KERNEL and JAIL_INITRD */
	const char *layers;          /* directory of disk layers, or NULL */
};

#define QEMU_PROGRAM "qemu-system-x86_64"
/* The first of that name in PATH, without links; ret has room for PATH_MAX. 0 or -ENOENT. */
int jail_find_program(const char *program, char *ret);

/* What QEMU's jail calls the guest's files. */
#define JAIL_KERNEL "/vmlinuz"
#define JAIL_INITRD "/initramfs"

/*
 * What a process and all that it starts may use of the host: bytes of memory; thousandths of a CPU; processes and threads; bytes a second that it reads, and that it writes, on the disk of the store.
 */
enum limit { LIMIT_MEMORY, LIMIT_CPU, LIMIT_PIDS, LIMIT_IO, LIMITS };
#define LIMIT_NONE UINT64_MAX

/* Fails where jails cannot be made. */
int launcher_start(const struct jail_config *config, struct err *err);
/*
 * Hangs up when the launcher has ended, unasked: its machines have, too, and no more can be started. Also when it stands
 * still and machines cannot be ended. Not to be read.
 */
int launcher_fd(void);
/*
 * Ends it, and every process that it started. One that stands still is killed after 5 s; where a confined daemon may
 * not, the kernel does it when the daemon has ended.
 */
void launcher_stop(void);
/* The kind of jail in one word: uids, userns or none; and a sentence about it. */
const char *launcher_mode(void);
const char *launcher_how(void);
bool launcher_jails(void); /* does it make any? */

/*
 * config->layers on a mount where nothing can be written, whoever owns it: a descriptor, the launcher's. -ENOENT where
 * no jails are made, or there is no such directory; another errno: it cannot be had. Asked for only when it exists.
 */
int launcher_layers(void);

struct launch {
	enum jail_kind kind;
	const char *const *args; /* NULL-terminated; the first one follows the program's name */
	int stdin_fd;            /* -1: /dev/null */
	int log_fd;              /* its stderr; stdout is /dev/null */
	const int *keep;         /* these become descriptors 3, 4, ... */
	unsigned nkeep;
};

enum { LAUNCH_FD = 3 /* number of keep[0] in the program */ };

/* *ret_pid is its number in the daemon's pid namespace; *ret_pidfd is readable once it has ended. */
int launcher_spawn(const struct launch *launch, pid_t *ret_pid, int *ret_pidfd, struct err *err);
/* For a process that was spawned and not reaped; never fails in a way that the process's end does not tell.
 */
void launcher_kill(pid_t pid, int signal);
void launcher_nice(pid_t pid, int value);
/*
 * The status, as waitpid(2) has it, of one that has ended, and whether it was for want of memory within its limit.
 * -ESRCH: nobody knows.
 */
int launcher_reap(pid_t pid, int *ret_status, bool *ret_starved);

/*
 * What the kernel tells of a process that was spawned: a file of its directory in /proc, to be read. Without a
 * launcher, of any process that this one may look at. A descriptor, the caller's, or a negative errno.
 */
enum launch_proc { LAUNCH_SMAPS, LAUNCH_MAPS, LAUNCH_MEM, LAUNCH_PAGEMAP, LAUNCH_PROC_FILES };
int launcher_open_proc(pid_t pid, enum launch_proc file);
/* The number of the system call that a thread of any process is in; -1: none, or nobody knows. */
long launcher_call_of(pid_t thread);
/* This host's resolv.conf, to be read: a descriptor, the caller's, or a negative errno. */
int launcher_open_resolvers(void);
/* May whoever asks put a process back to its own priority? */
bool launcher_may_renice(void);

/* -EOPNOTSUPP where there are no cgroups for it. LIMIT_NONE takes the limit away. */
int launcher_limit(pid_t pid, enum limit limit, uint64_t value, struct err *err);
/* May there be such a limit here? And which there may be, or why there are none, in words. */
bool launcher_may_limit(enum limit limit);
const char *launcher_limits(void);

#endif
