/* SPDX-License-Identifier: MIT */
/*
 * import.c - from what people have to a filesystem: who reads it, in which jail
 *
 * The child shares one page with us, where it counts and leaves its result. It asks for the files of a layout
 * over a socket, by names that are checked here (blob.h).
 */
#include "snap/image/import.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snap/image/blob.h"
#include "snap/image/ext4.h"
#include "snap/image/unpack.h"
#include "snap/image_config.h"
#include "util/denied.h"
#include "util/io.h"

enum { TICK_MS = 200, NOBODY = 65534 };

/* What a child may have of memory: names, bitmaps, and a decompressor's window. */
#define MEMORY_MAX ((rlim_t)2 << 30)

/* What the child says; it may say anything. */
struct report {
	atomic_uint_fast64_t done, total;
	struct err err;
	uint32_t config_len;
	uint8_t config[IMAGE_CONFIG_MAX];
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

static int fill_disk(const struct image_import *import, const struct import_input *input,
		     struct buf *ret_config, struct err *err)
{
	struct ext4 *fs;
	int rc, closed;

	/* Names in archives are UTF-8 or just bytes; libarchive converts to what this says. */
	(void)setlocale(LC_CTYPE, "C.UTF-8");
	rc = ext4_open(import->disk, &fs, err);
	if (rc)
		return rc;
	rc = drop_privileges();
	if (!rc)
		rc = confine();
	if (rc)
		return err_sys(err, rc, "cannot confine the process that reads the image");
	rc = import_fill(fs, input, ret_config, err);
	closed = ext4_close(fs, !rc, rc ? NULL : err);
	return rc ? rc : closed;
}

static _Noreturn void child(const struct image_import *import, const struct import_input *input,
			    struct report *report)
{
	struct buf config = { 0 };

	if (!fill_disk(import, input, &config, &report->err) && config.len <= sizeof(report->config)) {
		if (config.len)
			memcpy(report->config, buf_bytes(&config), config.len);
		report->config_len = (uint32_t)config.len;
	}
	_exit(0);
}

/* ---- beside it */

static void tell(const struct image_import *import, struct report *report)
{
	if (import->progress)
		import->progress(import->arg, report->done, report->total);
}

/* Until the child has ended: its status. */
static int attend(const struct image_import *import, pid_t pid, int broker, int layout, struct report *report)
{
	struct pollfd fds[2] = { { .fd = -1, .events = POLLIN }, { .fd = broker, .events = POLLIN } };
	int status = -1;

	fds[0].fd = (int)syscall(SYS_pidfd_open, pid, 0);
	for (;;) {
		if (poll(fds, 2, TICK_MS) < 0 && errno != EINTR)
			break;
		tell(import, report);
		if (fds[0].revents)
			break;
		if (fds[1].revents && !broker_answer(broker, layout))
			fds[1].fd = -1;
	}
	if (fds[0].fd >= 0)
		close(fds[0].fd);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

static int judge(struct image_import *import, int status, struct report *report, struct err *err)
{
	char text[ERR_TEXT_MAX];

	if (WIFSIGNALED(status))
		return err_set(err, -EIO, "the process that reads the image was ended by signal %d",
			       WTERMSIG(status));
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return err_set(err, -EIO, "the process that reads the image failed");
	if (report->err.code) {
		memcpy(text, report->err.text, sizeof(text));
		text[sizeof(text) - 1] = '\0';
		/* It may quote names of the archive; a terminal is to read it. */
		for (char *c = text; *c; c++)
			if ((unsigned char)*c < ' ' || *c == 0x7f)
				*c = '?';
		return err_set(err,
			       report->err.code < 0 && report->err.code > -4096 ? report->err.code : -EIO,
			       "%s", text);
	}
	if (report->config_len > sizeof(report->config))
		return err_set(err, -EIO, "the process that reads the image makes no sense");
	buf_add(&import->config, report->config, report->config_len);
	return image_config_check(&import->config, err);
}

/* A file without a name, for what has to be read twice. */
static int open_spool(struct err *err)
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

static int import_in_jail(struct image_import *import, struct import_input *input, int layout,
			  struct err *err)
{
	struct report *report;
	int sockets[2] = { -1, -1 }, rc = 0, status = 0;
	pid_t pid;

	report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (report == MAP_FAILED)
		return err_set(err, -ENOMEM, "out of memory");
	input->done = &report->done;
	input->total = &report->total;
	input->spool_fd = open_spool(err);
	if (input->spool_fd < 0)
		rc = input->spool_fd;
	else if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
		rc = err_sys(err, -errno, "cannot make a socket");
	if (rc)
		goto out;
	input->broker_fd = sockets[1];
	fflush(NULL);
	pid = fork();
	if (!pid) {
		close(sockets[0]);
		child(import, input, report);
	}
	close(sockets[1]);
	sockets[1] = -1;
	if (pid < 0)
		rc = err_sys(err, -errno, "cannot make a process");
	else
		status = attend(import, pid, sockets[0], layout, report);
	if (!rc)
		rc = judge(import, status, report, err);
out:
	if (sockets[0] >= 0)
		close(sockets[0]);
	if (sockets[1] >= 0)
		close(sockets[1]);
	if (input->spool_fd >= 0)
		close(input->spool_fd);
	munmap(report, sizeof(*report));
	return rc;
}

/* ---- the source */

/* What is before the last colon is the source where there is nothing of the whole name; *ret_tag is what is
 * behind it. A pipe is opened once only, so it is not opened here. */
static int find_source(const char *source, char path[PATH_MAX], const char **ret_tag, struct stat *ret,
		       struct err *err)
{
	const char *colon = strrchr(source, ':');

	*ret_tag = "";
	snprintf(path, PATH_MAX, "%s", strcmp(source, "-") != 0 ? source : "/proc/self/fd/0");
	if (!stat(path, ret))
		return 0;
	if (errno != ENOENT || !colon || colon - source >= PATH_MAX)
		return err_sys(err, -errno, "%.200s", source);
	snprintf(path, PATH_MAX, "%.*s", (int)(colon - source), source);
	*ret_tag = colon + 1;
	return stat(path, ret) < 0 ? err_sys(err, -errno, "%.200s", source) : 0;
}

static int open_source(const char *source, const char **ret_tag, struct stat *ret, struct err *err)
{
	char path[PATH_MAX];
	int fd, rc = find_source(source, path, ret_tag, ret, err);

	if (rc)
		return rc;
	fd = strcmp(source, "-") != 0 ? open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY)
				      : fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? err_sys(err, -errno, "%.200s", source) : fd;
}

static bool is_layout(int dir_fd)
{
	return !faccessat(dir_fd, "index.json", F_OK, 0) && !faccessat(dir_fd, "oci-layout", F_OK, 0);
}

static int import_dir(struct image_import *import, struct err *err)
{
	struct ext4 *fs;
	int closed, rc = ext4_open(import->disk, &fs, err);

	if (rc)
		return rc;
	rc = unpack_dir(fs, import->source, err);
	closed = ext4_close(fs, !rc, rc ? NULL : err);
	return rc ? rc : closed;
}

int image_import(struct image_import *import, struct err *err)
{
	struct import_input input = { .budget = import->size * 4 + (64u << 20) };
	struct stat st;
	int rc, fd = open_source(import->source, &input.tag, &st, err);

	if (fd < 0)
		return fd;
	rc = ext4_make(import->disk, import->size, err);
	if (rc)
		goto out;
	input.fd = S_ISDIR(st.st_mode) ? -1 : fd;
	if (S_ISDIR(st.st_mode) && !is_layout(fd))
		rc = *input.tag ? err_set(err, -EINVAL, "%.200s is no OCI layout, and has no tags",
					  import->source)
				: import_dir(import, err);
	else
		rc = import_in_jail(import, &input, fd, err);
out:
	close(fd);
	return rc;
}

/* ---- its size */

static uint64_t found; /* bytes, for nftw(3), which passes nothing on */

static int add_size(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)path;
	(void)at;
	if (type == FTW_F)
		found += (uint64_t)st->st_blocks * 512;
	return 0;
}

int image_import_size(const char *source, uint64_t *ret, struct err *err)
{
	const uint64_t gib = 1ull << 30;
	char path[PATH_MAX], index[PATH_MAX + 16];
	const char *tag;
	struct stat st;
	int rc = find_source(source, path, &tag, &st, err);

	if (rc)
		return rc;
	found = 0;
	/* Packed files get larger, by no more than this as a rule; what does not fit is said to need --size. */
	if (S_ISREG(st.st_mode)) {
		found = (uint64_t)st.st_size * 5;
	} else if (S_ISDIR(st.st_mode)) {
		nftw(path, add_size, 32, FTW_PHYS | FTW_MOUNT);
		snprintf(index, sizeof(index), "%s/oci-layout", path);
		found *= access(index, F_OK) ? 2 : 5;
	} else {
		found = 7 * gib;
	}
	*ret = (found + gib + gib - 1) / gib * gib;
	if (*ret < 2 * gib)
		*ret = 2 * gib;
	return 0;
}
