/* SPDX-License-Identifier: MIT */
/*
 * process.h - child processes of the daemon, started by the launcher in jails (jail/jail.h)
 *
 * A child gets exactly the descriptors it is given, dies when the daemon does, and is watched through a
 * pidfd. What it writes to its standard error is kept, at most PROCESS_LOG_BYTES of it, and told when it has
 * ended. Single-threaded, on the loop.
 */
#ifndef SBX_VM_PROCESS_H
#define SBX_VM_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "util/err.h"
#include "util/loop.h"
#include "vm/jail/jail.h"

struct process;

enum { PROCESS_LOG_BYTES = 64 << 10, PROCESS_FD = LAUNCH_FD };

/*
 * The end: status as waitpid(2) gives it, and why in words that follow the program's name, such as "was
 * killed by signal 9 (Killed)" or "exited with status 1: its last line". The process struct is already free
 * when this is called.
 */
typedef void (*process_exit_fn)(void *arg, int status, const char *why);

struct process_spec {
	enum jail_kind kind;
	const char *const *args; /* NULL-terminated; the first one follows the program's name */
	const int *keep;         /* these are PROCESS_FD, PROCESS_FD + 1, ... in the child */
	unsigned nkeep;
	int stdin_fd; /* -1: /dev/null */
};

int process_spawn(struct loop *loop, const struct process_spec *spec, process_exit_fn fn, void *arg,
		  struct process **ret, struct err *err);
pid_t process_pid(const struct process *process);
void process_kill(struct process *process, int signal);
/*
 * Nobody waits for what it does: others go first. Nothing happens where the daemon may not take that back
 * (CAP_SYS_NICE).
 */
void process_background(struct process *process, bool background);
/*
 * A descriptor that stays open until the process has ended, however it is let go of; -1 at first, and the caller's to
 * set and to exchange. For one whose closing would wait for the process.
 */
int *process_keeps(struct process *process);
/* It does nothing from now on, is killed soon, and nobody is told: the process is reaped in the
 * background. */
void process_abandon(struct process *process);
/* Wait until no abandoned child is left. */
void process_reap_abandoned(void);
/* Children not yet reaped, abandoned ones too. */
unsigned process_count(void);

#endif
