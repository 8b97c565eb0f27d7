/* SPDX-License-Identifier: MIT */
/*
 * process.h - child processes of the daemon
 *
 * A child gets exactly the descriptors it is given, at the numbers they have here, dies when the daemon does
 * (PR_SET_PDEATHSIG), and is watched through a pidfd. Single-threaded, on the loop.
 */
#ifndef SBX_VM_PROCESS_H
#define SBX_VM_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "util/err.h"
#include "util/loop.h"

struct process;

/* status as waitpid(2) gives it. The process struct is already free when this is called. */
typedef void (*process_exit_fn)(void *arg, int status);

struct process_spec {
	const char *const *argv; /* argv[0] is looked up in PATH */
	const int *keep;         /* descriptors the child inherits; they are close-on-exec here */
	unsigned nkeep;
	int stdin_fd, stdout_fd,
		stderr_fd; /* -1: /dev/null for stdin and stdout, the daemon's own for stderr */
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
/* It does nothing from now on, is killed soon, and nobody is told: the process is reaped in the
 * background. */
void process_abandon(struct process *process);
/* Wait until no abandoned child is left. */
void process_reap_abandoned(void);
/* Children not yet reaped, abandoned ones too. */
unsigned process_count(void);

#endif
