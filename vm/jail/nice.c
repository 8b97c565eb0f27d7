/* SPDX-License-Identifier: MIT */
/*
 * nice.c - which processes go first where there are too few CPUs
 *
 * What a thread is counts among those of its group only: that of its control group, where the launcher has any that
 * divide the CPUs (cgroup.h), or else that of its session (sched(7), autogroups), which most distributions' kernels
 * have. A jailed process is in one of its own, so it is the group's value that decides, and both are set.
 *
 * Only who may administer the host sets a session's as often as there is need; anybody else has to wait a tenth of a
 * second between two, and a process could be left behind that somebody waits for: then sessions are let be.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "vm/jail/cgroup.h"
#include "vm/jail/priv.h"

enum { NICE_MAX = 19 };

static bool sessions; /* are groups, and may be set */

static bool set_session(const char *pid, int value)
{
	char path[64], text[16];
	const int len = snprintf(text, sizeof(text), "%d", value);
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
static bool own_session(int *ret)
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

void jail_nice_sessions(void)
{
	int own;

	/* The second is refused where one has to wait. */
	sessions = own_session(&own) && set_session("self", own) && set_session("self", own);
}

void jail_nice(const struct cgroups *groups, const struct cgroup *group, pid_t pid, int value)
{
	const int clamped = value < NICE_MAX ? value : NICE_MAX;
	const bool grouped = cgroup_nice(groups, group, clamped);
	char name[16];

	/* First, so that one whose session is still to come finds it (below). */
	(void)setpriority(PRIO_PROCESS, (id_t)pid, clamped);
	if (getsid(pid) != pid)
		return;
	(void)setpriority(PRIO_PGRP, (id_t)pid, clamped); /* all of its threads */
	snprintf(name, sizeof(name), "%d", (int)pid);
	if (sessions && !grouped)
		(void)set_session(name, clamped);
}

void jail_nice_self(void)
{
	int own;

	if (!sessions)
		return;
	/* Until nobody has set it meanwhile, whose group may have been overwritten. */
	do {
		own = getpriority(PRIO_PROCESS, 0);
		(void)set_session("self", own);
	} while (own != getpriority(PRIO_PROCESS, 0));
}
