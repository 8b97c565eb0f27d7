/* SPDX-License-Identifier: MIT */
/* child.c - a child that does the work, and a parent that tidies up after it */
#include "cli/child.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void held(sigset_t *set)
{
	static const int signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 };
	size_t i;

	sigemptyset(set);
	for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaddset(set, signals[i]);
}

void child_guard(struct child_guard *guard)
{
	sigset_t set;

	guard->caught = 0;
	held(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, &guard->before);
}

int child_pending(struct child_guard *guard)
{
	const struct timespec none = { 0 };
	sigset_t set;
	int sig;

	held(&set);
	while ((sig = sigtimedwait(&set, NULL, &none)) > 0)
		guard->caught = sig;
	return guard->caught;
}

static void become_child(const sigset_t *mask)
{
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	sigprocmask(SIG_SETMASK, mask, NULL);
}

pid_t child_fork(struct child_guard *guard)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (!pid)
		become_child(&guard->before);
	else if (pid < 0)
		fprintf(stderr, "sbx: cannot make a process: %s\n", strerror(errno));
	return pid;
}

int child_wait(pid_t pid)
{
	siginfo_t info;
	sigset_t set;
	int status;

	held(&set);
	sigaddset(&set, SIGCHLD);
	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (sigwaitinfo(&set, &info) < 0 || info.si_signo == SIGCHLD)
			continue;
		/* What a key sent, the child has. */
		if (info.si_code != SI_KERNEL)
			kill(pid, info.si_signo);
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void child_release(struct child_guard *guard)
{
	const int sig = guard->caught;

	sigprocmask(SIG_SETMASK, &guard->before, NULL);
	if (sig)
		raise(sig);
}

pid_t child_spawn(const char *const argv[], int out_fd, const char *package)
{
	const pid_t parent = getpid();
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		fprintf(stderr, "sbx: cannot make a process: %s\n", strerror(errno));
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() == parent && dup2(out_fd, STDOUT_FILENO) >= 0)
		execvp(argv[0], (char *const *)argv);
	fprintf(stderr, "sbx: %s: %s%s%s\n", argv[0], strerror(errno),
		errno == ENOENT ? "; it is in Debian's package " : "", errno == ENOENT ? package : "");
	_exit(127);
}

int child_reap(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : -1;
}
