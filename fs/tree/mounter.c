/* SPDX-License-Identifier: MIT */
/* mounter.c - a process that mounts and unmounts the tree, so that the daemon need not be able to */
#include "fs/tree/mounter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/tree/fuse.h"
#include "util/io.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/message.h"

static struct {
	pid_t pid; /* 0: not started */
	int fd, pidfd;
	bool silent; /* it did not answer */
} mounter = { .fd = -1, .pidfd = -1 };

/* Longer than any unmounting takes. One that was stopped must not keep a daemon from its end. */
enum { ANSWER_MS = 5000 };

/* ---- the process */

/* libfuse wants one; nobody calls it here. */
static const struct fuse_lowlevel_ops no_ops;

static int mount_tree(const char *mountpoint, const char *options, struct fuse_session **ret)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	int rc = -ENOMEM;

	if (!fuse_opt_add_arg(&args, "sbxfs") && !fuse_opt_add_arg(&args, "-o") &&
	    !fuse_opt_add_arg(&args, options)) {
		*ret = fuse_session_new(&args, &no_ops, sizeof(no_ops), NULL);
		rc = !*ret || fuse_session_mount(*ret, mountpoint) ? -EIO : 0;
	}
	fuse_opt_free_args(&args);
	return rc;
}

/*
 * While anybody has the device open, the kernel takes the filesystem for served. So it is let go of once the daemon
 * has it; libfuse keeps the number, and closes it when it unmounts.
 */
static void let_go(int device)
{
	const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (null < 0 || dup2(null, device) < 0)
		_exit(1);
	close(null);
}

/* As the daemon that went to the background: who started it may wait for the end of what it says. */
static int be_quiet(void)
{
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	const int rc = null < 0 ? -errno : standard_to(null);

	if (null >= 0)
		close(null);
	return rc;
}

/* Only what it talks through, and standard error, which libfuse writes to. */
static int detach(int fd, pid_t parent)
{
	const struct sigaction ignore = { .sa_handler = SIG_IGN };
	sigset_t none;

	(void)prctl(PR_SET_NAME, "sbxfs-mounter");
	/* Stopped, it would not see the end of its socket. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(1);
	if (dup2(fd, 3) < 0 || fcntl(3, F_SETFD, FD_CLOEXEC) < 0 || close_range(4, ~0u, 0) < 0)
		_exit(1);
	sigaction(SIGPIPE, &ignore, NULL);
	sigaction(SIGINT, &ignore, NULL);
	sigaction(SIGTERM, &ignore, NULL);
	sigaction(SIGHUP, &ignore, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	return 3;
}

__attribute__((noreturn)) static void serve(int fd, pid_t parent, const char *mountpoint, const char *options)
{
	struct fuse_session *se = NULL;
	int answer, device;
	char what;

	fd = detach(fd, parent);
	while (message_recv(fd, &what, sizeof(what), NULL, &device, 0, 0) >= 0) {
		answer = -EPROTO;
		device = -1;
		if (what == 'm' && !se) {
			answer = mount_tree(mountpoint, options, &se);
			device = answer ? -1 : fuse_session_fd(se);
		} else if (what == 'u' && se) {
			fuse_session_unmount(se);
			answer = 0;
		} else if (what == 'q') {
			answer = be_quiet();
		}
		(void)message_send(fd, &answer, sizeof(answer), &device, device >= 0);
		if (device >= 0)
			let_go(device);
	}
	_exit(0);
}

/* ---- the daemon's side */

int mounter_start(const char *mountpoint, const char *options, struct err *err)
{
	const pid_t parent = getpid();
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(err, -errno, "cannot start the mounter");
	mounter.pid = fork();
	if (!mounter.pid)
		serve(ends[1], parent, mountpoint, options);
	close(ends[1]);
	if (mounter.pid < 0) {
		mounter.pid = 0;
		close(ends[0]);
		return err_sys(err, -errno, "cannot start the mounter");
	}
	mounter.fd = ends[0];
	/* Now: a daemon that is confined may not. */
	mounter.pidfd = (int)syscall(SYS_pidfd_open, mounter.pid, 0);
	return 0;
}

static int ask(char what, int *ret_fd)
{
	int answer = 0;
	int rc = mounter.silent ? -ETIMEDOUT : message_send(mounter.fd, &what, sizeof(what), NULL, 0);

	*ret_fd = -1;
	if (!rc && !fd_ready(mounter.fd, POLLIN, ANSWER_MS)) {
		/* Its answer would be taken for the next question's. */
		mounter.silent = true;
		log_error("the mounter has not answered for %d s, and is not asked any more",
			  ANSWER_MS / 1000);
		rc = -ETIMEDOUT;
	}
	if (!rc)
		rc = message_recv(mounter.fd, &answer, sizeof(answer), NULL, ret_fd, 1, 0);
	return rc < 0 ? rc : answer;
}

int mounter_mount(int *ret_fd, struct err *err)
{
	const int rc = ask('m', ret_fd);

	if (rc == -ETIMEDOUT)
		return err_set(err, rc, "cannot mount: the mounter stands still");
	return rc ? err_set(err, rc, "cannot mount; libfuse says why on standard error") : 0;
}

void mounter_be_quiet(void)
{
	int fd;

	(void)ask('q', &fd);
}

int mounter_fd(void)
{
	return mounter.fd;
}

int mounter_unmount(void)
{
	int fd;

	return ask('u', &fd);
}

void mounter_stop(void)
{
	if (!mounter.pid)
		return;
	close(mounter.fd);
	/* A daemon that has given up its privileges may not kill. */
	if (mounter.silent || (mounter.pidfd >= 0 && !fd_ready(mounter.pidfd, POLLIN, ANSWER_MS)))
		log_warn("the mounter stands still, and is not waited for");
	else
		while (waitpid(mounter.pid, NULL, 0) < 0 && errno == EINTR)
			;
	if (mounter.pidfd >= 0)
		close(mounter.pidfd);
	mounter.pid = 0;
	mounter.fd = mounter.pidfd = -1;
}
