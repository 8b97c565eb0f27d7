/* SPDX-License-Identifier: MIT */
/* caller.c - who asks, where the kernel cannot decide what they may */
#include "fs/tree/caller.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/io.h"

/* A line of /proc/PID/status has up to 65536 groups of 11 characters (NGROUPS_MAX). */
enum { STATUS_MAX = 1 << 20, UMASK_UNKNOWN = 077 };

/* The value of "KEY:" in /proc/PID/status, in `text`, which the caller releases; NULL: not known. */
static const char *status_value(const struct caller *caller, const char *key, struct buf *text)
{
	char chunk[4096];
	const char *at;
	ssize_t n;
	int fd;

	if (caller->pid <= 0)
		return NULL;
	snprintf(chunk, sizeof(chunk), "/proc/%d/status", (int)caller->pid);
	fd = open(chunk, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	while (text->len < STATUS_MAX && (n = read_some(fd, chunk, sizeof(chunk))) > 0)
		buf_add(text, chunk, (size_t)n);
	close(fd);
	buf_add(text, "", 1);
	if (text->failed)
		return NULL;
	at = strstr((const char *)buf_bytes(text), key);
	return at ? at + strlen(key) : NULL;
}

mode_t caller_umask(const struct caller *caller)
{
	struct buf text = { 0 };
	const char *value = status_value(caller, "\nUmask:", &text);
	mode_t umask = UMASK_UNKNOWN;

	/* The name of the command comes before it, with newlines written as \n (proc_task_name). */
	if (value)
		umask = (mode_t)strtoul(value, NULL, 8) & 0777;
	buf_release(&text);
	return umask;
}

static bool in_group(const struct caller *caller, gid_t gid)
{
	struct buf text = { 0 };
	const char *value;
	char *end;
	bool found = false;

	if (caller->gid == gid)
		return true;
	if (!caller->groups)
		return false;
	value = status_value(caller, "\nGroups:", &text);
	while (value && !found) {
		const unsigned long n = strtoul(value, &end, 10);

		/* strtoul passes over blanks and newlines: stop at the end of the line. */
		if (end == value || memchr(value, '\n', (size_t)(end - value)))
			break;
		found = n == gid;
		value = end;
	}
	buf_release(&text);
	return found;
}

bool caller_may(const struct caller *caller, const struct owner *owner, mode_t mode, unsigned want)
{
	unsigned shift = 0;

	if (!caller->uid)
		return true;
	if (caller->uid == owner->uid)
		shift = 6;
	else if ((mode >> 3 & want) != (mode & want) && in_group(caller, owner->gid))
		shift = 3;
	return (mode >> shift & want) == want;
}
