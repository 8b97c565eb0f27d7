/* SPDX-License-Identifier: MIT */
/*
 * nice.c - which processes go first where there are too few CPUs
 *
 * A jailed process leads a session, and with autogroups (sched(7)), which most distributions' kernels have, what each
 * of its threads is counts among these only: between sessions the group's own value decides. So both are set. Only who
 * may administer the host sets a group's as often as there is need; anybody else has to wait a tenth of a second
 * between two, and a process could be left behind that somebody waits for: then groups are let be.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "vm/jail/priv.h"

enum { NICE_MAX = 19 };

static bool groups; /* they are there, and may be set */

static bool set_group(const char *pid, int value)
{
	char path[64], text[16];
	const int len = snprintf(text, sizeof(text), "%d", value < NICE_MAX ? value : NICE_MAX);
	bool set;
	int fd;

	snprintf(path, sizeof(path), "/proc/%s/autogroup", pid);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	set = write(fd, text, (size_t)len) == len;
	close(fd);
	return set;
}

/* proc(5), /proc/PID/autogroup: "/autogroup-25 nice 0" */
static bool own_group(int *ret)
{
	char text[64];
	const int fd = open("/proc/self/autogroup", O_RDONLY | O_CLOEXEC);
	ssize_t n;
	const char *value;

	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	value = strstr(text, " nice ");
	return value && sscanf(value, " nice %d", ret) == 1;
}

void jail_nice_groups(void)
{
	int own;

	/* The second is refused where one has to wait. */
	groups = own_group(&own) && set_group("self", own) && set_group("self", own);
}

void jail_nice(pid_t pid, int value)
{
	char name[16];

	/* First, so that one whose session is still to come finds it (below). */
	(void)setpriority(PRIO_PROCESS, (id_t)pid, value);
	if (getsid(pid) != pid)
		return;
	(void)setpriority(PRIO_PGRP, (id_t)pid, value); /* all of its threads */
	snprintf(name, sizeof(name), "%d", (int)pid);
	if (groups)
		(void)set_group(name, value);
}

void jail_nice_self(void)
{
	int own;

	if (!groups)
		return;
	/* Until nobody has set it meanwhile, whose group may have been overwritten. */
	do {
		own = getpriority(PRIO_PROCESS, 0);
		(void)set_group("self", own);
	} while (own != getpriority(PRIO_PROCESS, 0));
}
