/* SPDX-License-Identifier: MIT */
/*
 * child.h - a child that does the work, and a parent that tidies up after it
 *
 * Between child_guard and child_release signals that would end this process are held back. A terminal sends
 * them to the child, too; others are passed on while child_wait waits.
 */
#ifndef SBX_CLI_CHILD_H
#define SBX_CLI_CHILD_H

#include <signal.h>
#include <sys/types.h>

struct child_guard {
	sigset_t before;
	int caught; /* the last signal that was to end us; 0: none */
};

void child_guard(struct child_guard *guard);
/* A signal that came and is held back, or 0. */
int child_pending(struct child_guard *guard);
/* fork(2); in the child signals are as they were, and it dies with us. */
pid_t child_fork(struct child_guard *guard);
/* Until it has ended: its exit status, or 128 + N. */
int child_wait(pid_t pid);
/* Signals are as they were; one that was held back ends us now. */
void child_release(struct child_guard *guard);

/* Run a program, its stdout (or our stderr) from out_fd; -1 after a message if it cannot be run. Found in PATH.
 * package: of Debian's, that has it. */
pid_t child_spawn(const char *const argv[], int out_fd, const char *package);
/* 0, or -1: it failed. */
int child_reap(pid_t pid);

#endif
