/* SPDX-License-Identifier: MIT */
/*
 * init.c - an image's own PID 1, with the agent beside it
 *
 * The agent boots the machine and waits for its identity. If an init was asked for, it then forks: the child goes on
 * as the agent, in the same memory and with the same descriptors, and the parent, PID 1, executes the init once the
 * identity is in force, so that host name and machine id are there when it looks.
 *
 * Which init it is stands on the disk (an extended attribute of the root, as an image's config does), so that a
 * machine that was stopped, or began with a snapshot of this disk, boots the same way.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "vm/agent/guest/agent.h"

static const char attribute[] = "trusted.sbx.init";

static char init[128]; /* "": the agent is PID 1 */
static bool beside;    /* this process is the agent beside it */
static int go_fd = -1; /* closed when the init may begin */

void init_choose(const char *asked)
{
	ssize_t n;

	if (*asked) {
		snprintf(init, sizeof(init), "%s", asked);
		(void)setxattr("/", attribute, init, strlen(init), 0);
		return;
	}
	n = getxattr("/", attribute, init, sizeof(init) - 1);
	init[n > 0 ? n : 0] = '\0';
	if (init[0] != '/')
		init[0] = '\0';
}

/* PID 1, as the kernel would have started it. */
static _Noreturn void become_init(int wait_fd)
{
	static const char *const env[] = {
		"HOME=/", "TERM=linux", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		NULL
	};
	const struct sched_param param = { .sched_priority = 0 };
	char *argv[] = { init, NULL };
	sigset_t none;
	char byte;
	int sig, fd;

	while (read(wait_fd, &byte, 1) < 0 && errno == EINTR)
		;
	sched_setscheduler(0, SCHED_OTHER, &param);
	for (sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	umask(022);
	fd = open("/dev/console", O_RDWR | O_NOCTTY);
	if (fd >= 0) {
		dup2(fd, STDIN_FILENO);
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
		if (fd > STDERR_FILENO)
			close(fd);
	}
	execve(init, argv, (char *const *)env);
	/* It was looked at before; PID 1 must not return. */
	dprintf(STDERR_FILENO, "sbx-agent: cannot execute %s: %s\n", init, strerror(errno));
	for (;;)
		pause();
}

int init_begin(int port, struct err *err)
{
	int fds[2];
	pid_t pid;

	if (!*init || beside)
		return 0;
	if (access(init, X_OK) < 0)
		return err_sys(err, -errno, "init %s", init);
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_sys(err, -errno, "cannot start %s", init);
	pid = fork();
	if (pid < 0) {
		err_sys(err, -errno, "cannot start %s", init);
		close(fds[0]);
		close(fds[1]);
		return err->code;
	}
	if (pid) {
		close(port);
		close(fds[1]);
		become_init(fds[0]);
	}
	close(fds[0]);
	go_fd = fds[1];
	beside = true;
	setsid();
	/* What jobs leave behind is ours to reap, as ever. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	/* The driver's SIGIO is for us. */
	(void)fcntl(port, F_SETOWN, getpid());
	return 0;
}

void init_go(void)
{
	if (go_fd >= 0)
		close(go_fd);
	go_fd = -1;
}

bool init_poweroff(void)
{
	static const char *const paths[] = { "/sbin/poweroff", "/usr/sbin/poweroff", "/bin/poweroff" };
	size_t i, n = sizeof(paths) / sizeof(paths[0]);
	sigset_t none;
	pid_t pid;

	for (i = 0; i < n && access(paths[i], X_OK); i++)
		;
	if (!beside || i == n)
		return false;
	pid = fork();
	if (!pid) {
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		execl(paths[i], "poweroff", NULL);
		_exit(127);
	}
	return pid > 0;
}
