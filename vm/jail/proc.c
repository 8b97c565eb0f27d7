/* SPDX-License-Identifier: MIT */
/* proc.c - what the launcher looks up for a daemon that may not */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vm/jail/priv.h"

int jail_open_proc(pid_t pid, enum launch_proc file)
{
	static const char *const names[LAUNCH_PROC_FILES] = { [LAUNCH_SMAPS] = "smaps_rollup",
							      [LAUNCH_MAPS] = "maps",
							      [LAUNCH_MEM] = "mem",
							      [LAUNCH_PAGEMAP] = "pagemap" };
	char path[64];
	int fd;

	if ((unsigned)file >= LAUNCH_PROC_FILES)
		return -EPROTO;
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, names[file]);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int jail_open_resolvers(void)
{
	const int fd = open("/etc/resolv.conf", O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

/* Documentation/filesystems/proc.rst, /proc/PID/syscall: the number, -1, or "running". */
long jail_call_of(pid_t thread)
{
	char path[64], text[32];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/syscall", (int)thread);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	return *text >= '0' && *text <= '9' ? strtol(text, NULL, 10) : -1;
}
