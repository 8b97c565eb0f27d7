/* SPDX-License-Identifier: MIT */
/* confined.c - a child in which what may be hostile is read: with what it has open, and nothing else */
#include "snap/image/confined.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/denied.h"
#include "util/io.h"

enum { TICK_MS = 200, NOBODY = 65534 };

/* What a child may have of memory: names, bitmaps, and a decompressor's window. */
#define MEMORY_MAX ((rlim_t)2 << 30)

/* What the child says, in memory that both have; it may say anything. */
struct report {
	struct confined_count count;
	struct err err;
	uint32_t len;
	uint8_t bytes[CONFINED_MAX];
};

/* ---- in the child */

static int confine(void)
{
	static const int allowed[] = {
		SCMP_SYS(read),
		SCMP_SYS(write),
		SCMP_SYS(pread64),
		SCMP_SYS(pwrite64),
		SCMP_SYS(lseek),
		SCMP_SYS(fsync),
		SCMP_SYS(fdatasync),
		SCMP_SYS(ftruncate),
		SCMP_SYS(fallocate),
		SCMP_SYS(fstat),
		SCMP_SYS(newfstatat),
		SCMP_SYS(close),
		SCMP_SYS(sendmsg),
		SCMP_SYS(recvmsg),
		SCMP_SYS(brk),
		SCMP_SYS(munmap),
		SCMP_SYS(mremap),
		SCMP_SYS(madvise),
		SCMP_SYS(futex),
		SCMP_SYS(getrandom),
		SCMP_SYS(clock_gettime),
		SCMP_SYS(exit),
		SCMP_SYS(exit_group),
		SCMP_SYS(rt_sigreturn),
		SCMP_SYS(restart_syscall),
		/* what libc asks for on its way: qsort how much memory there is; an abort who it is */
		SCMP_SYS(sysinfo),
		SCMP_SYS(writev),
		/* and com_err, before it believes an environment variable */
		SCMP_SYS(getuid),
		SCMP_SYS(geteuid),
		SCMP_SYS(getgid),
		SCMP_SYS(getegid),
#ifdef __SANITIZE_ADDRESS__
		SCMP_SYS(sigaltstack), /* before what does not return */
#endif
		SCMP_SYS(rt_sigprocmask),
		SCMP_SYS(getpid),
		SCMP_SYS(gettid),
		SCMP_SYS(tgkill),
	};
	/* Nothing becomes a program. */
	static const struct call_rule rules[] = {
		{ SCMP_SYS(mmap), 2, PROT_EXEC, 0 },
		{ SCMP_SYS(mprotect), 2, PROT_EXEC, 0 },
		{ SCMP_SYS(prctl), 0, UINT64_MAX, PR_GET_DUMPABLE },
	};
	int rc;
	scmp_filter_ctx filter = denied_filter(allowed, sizeof(allowed) / sizeof(allowed[0]), &rc);

	if (!rc)
		rc = filter_allow(filter, rules, sizeof(rules) / sizeof(rules[0]));
	return filter_enter(filter, rc);
}

static int drop_privileges(void)
{
	const struct rlimit none = { 0, 0 };

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    setrlimit(RLIMIT_CORE, &none) < 0)
		return -errno;
#ifndef __SANITIZE_ADDRESS__
	const struct rlimit memory = { MEMORY_MAX, MEMORY_MAX };

	if (setrlimit(RLIMIT_AS, &memory) < 0)
		return -errno;
#endif
	if (geteuid() == 0 && (syscall(SYS_setgroups, 0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
			       setresuid(NOBODY, NOBODY, NOBODY) < 0))
		/* In a user namespace without that id there is nothing to be dropped to. */
		return errno == EINVAL || errno == EPERM ? 0 : -errno;
	/* Changing ids has cleared it. */
	return prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 ? -errno : 0;
}

int confined_enter(struct err *err)
{
	int rc = drop_privileges();

	if (!rc)
		rc = confine();
	return rc ? err_sys(err, rc, "cannot confine the process that reads the image") : 0;
}

static _Noreturn void child(const struct confined *confined, struct report *report)
{
	struct buf said = { 0 };

	/* Names in archives are UTF-8 or just bytes; libarchive converts to what this says. */
	(void)setlocale(LC_CTYPE, "C.UTF-8");
	if (!confined->work(confined->arg, &report->count, &said, &report->err) && !said.failed &&
	    said.len <= sizeof(report->bytes)) {
		if (said.len)
			memcpy(report->bytes, buf_bytes(&said), said.len);
		report->len = (uint32_t)said.len;
	}
	_exit(0);
}

/* ---- beside it */

/* Until the child has ended: its status. */
static int attend(const struct confined *confined, pid_t pid, struct report *report)
{
	struct pollfd fds[2] = { { .fd = -1, .events = POLLIN },
				 { .fd = confined->our_fd, .events = POLLIN } };
	int status = -1;

	fds[0].fd = (int)syscall(SYS_pidfd_open, pid, 0);
	for (;;) {
		if (poll(fds, 2, TICK_MS) < 0 && errno != EINTR)
			break;
		if (confined->progress)
			confined->progress(confined->progress_arg, report->count.done, report->count.total);
		if (fds[0].revents)
			break;
		if (fds[1].revents && !confined->answer(confined->arg, fds[1].fd))
			fds[1].fd = -1;
	}
	if (fds[0].fd >= 0)
		close(fds[0].fd);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

static int judge(int status, struct report *report, struct buf *ret, struct err *err)
{
	const int code = report->err.code;
	const uint32_t len = report->len;
	char text[ERR_TEXT_MAX];

	if (WIFSIGNALED(status))
		return err_set(err, -EIO, "the process that reads the image was ended by signal %d",
			       WTERMSIG(status));
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return err_set(err, -EIO, "the process that reads the image failed");
	if (code) {
		memcpy(text, report->err.text, sizeof(text));
		text[sizeof(text) - 1] = '\0';
		return err_set(err, code < 0 && code > -4096 ? code : -EIO, "%s", text);
	}
	if (len > sizeof(report->bytes))
		return err_set(err, -EIO, "the process that reads the image makes no sense");
	buf_add(ret, report->bytes, len);
	return ret->failed ? err_set(err, -ENOMEM, "out of memory") : 0;
}

int confined_run(struct confined *confined, struct buf *ret, struct err *err)
{
	struct report *report;
	int rc, status = 0;
	pid_t pid;

	report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (report == MAP_FAILED)
		return err_set(err, -ENOMEM, "out of memory");
	fflush(NULL);
	pid = fork();
	if (!pid) {
		close_fd(&confined->our_fd);
		child(confined, report);
	}
	rc = pid < 0 ? err_sys(err, -errno, "cannot make a process") : 0;
	close_fd(&confined->their_fd);
	if (!rc)
		status = attend(confined, pid, report);
	if (!rc)
		rc = judge(status, report, ret, err);
	munmap(report, sizeof(*report));
	return rc;
}

int confined_spool(struct err *err)
{
	const char *dir = getenv("TMPDIR");
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/sbx-image.XXXXXX", dir && *dir ? dir : "/var/tmp");
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, -errno, "%.200s", path);
	unlink(path);
	return fd;
}
