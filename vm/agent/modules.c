/* SPDX-License-Identifier: MIT */
/* modules.c - the file of the kernel's modules that guests read */
#include "vm/agent/modules.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/agent/proto.h"

static const char magic[] = "sbx-modules 1 ";
enum { FIRST_MAX = 256 }; /* bytes of its first line, at most */

struct modules {
	int fd;
	uint64_t which;
};

/* The first line has a digest of the rest: it stands for all of it. */
static int look(struct modules *modules, const char *path, struct err *err)
{
	char line[FIRST_MAX];
	const ssize_t n = pread(modules->fd, line, sizeof(line), 0);
	const char *end = n > 0 ? memchr(line, '\n', (size_t)n) : NULL;

	if (n < 0)
		return err_sys(err, -errno, "%s", path);
	if (!end || strncmp(line, magic, sizeof(magic) - 1) != 0)
		return err_set(err, -EINVAL, "%s has no modules of a kernel in it", path);
	modules->which = fs_hash((const uint8_t *)line, (size_t)(end - line));
	return 0;
}

int modules_open(const char *path, struct modules **ret, struct err *err)
{
	struct modules *modules = calloc(1, sizeof(*modules));
	int rc;

	if (!modules)
		return err_sys(err, -ENOMEM, "%s", path);
	modules->fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	rc = modules->fd < 0 ? err_sys(err, -errno, "%s", path) : look(modules, path, err);
	if (rc) {
		modules_close(modules);
		return rc;
	}
	*ret = modules;
	return 0;
}

void modules_close(struct modules *modules)
{
	if (modules && modules->fd >= 0)
		close(modules->fd);
	free(modules);
}

uint64_t modules_which(const struct modules *modules)
{
	return modules->which;
}

ssize_t modules_read(const struct modules *modules, uint64_t offset, void *p, size_t n)
{
	ssize_t got;

	if (offset > INT64_MAX - n)
		return -EINVAL;
	do
		got = pread(modules->fd, p, n, (off_t)offset);
	while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : got;
}
