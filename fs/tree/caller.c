/* SPDX-License-Identifier: MIT */
/* caller.c - who asks, where the kernel cannot decide what they may */
#include "fs/tree/caller.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
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

/* A mask of signals in `text`, which has all of a status file; true: it is there. */
static bool mask_of(const struct buf *text, const char *key, uint64_t *ret)
{
	const char *at = strstr((const char *)buf_bytes(text), key);

	*ret = at ? strtoull(at + strlen(key), NULL, 16) : 0;
	return at;
}

static uint64_t bit(int signal)
{
	return (uint64_t)1 << (signal - 1);
}

enum caller_signal caller_signal(const struct caller *caller)
{
	/* signal(7): what is dropped unless there is a handler, and what only stops. */
	const uint64_t dropped = bit(SIGCHLD) | bit(SIGCONT) | bit(SIGURG) | bit(SIGWINCH);
	const uint64_t stops = bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU);
	const uint64_t counted = dropped | bit(SIGPROF) | bit(SIGVTALRM);
	uint64_t own, shared, blocked, ignored, caught, pending;
	struct buf text = { 0 };
	enum caller_signal ret = CALLER_UNKNOWN;

	if (status_value(caller, "\n", &text) && mask_of(&text, "\nSigPnd:", &own) &&
	    mask_of(&text, "\nShdPnd:", &shared) && mask_of(&text, "\nSigBlk:", &blocked) &&
	    mask_of(&text, "\nSigIgn:", &ignored) && mask_of(&text, "\nSigCgt:", &caught)) {
		pending = (own | shared) & ~blocked;
		/* A signal that kills is SIGKILL to all threads at once, but for those that leave a core. */
		if ((own | shared) & bit(SIGKILL) || pending & ~(dropped | stops | ignored | caught))
			ret = CALLER_DYING;
		else
			ret = pending & ~counted & ~ignored ? CALLER_SIGNALED : CALLER_GOES_ON;
	}
	buf_release(&text);
	return ret;
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
