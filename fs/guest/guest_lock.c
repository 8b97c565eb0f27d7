/* SPDX-License-Identifier: MIT */
/*
 * guest_lock.c - fs/: what the host's kernel holds a lock of the whole mount for
 *
 * A rename from one directory to another holds s_vfs_rename_mutex, and everybody else's such rename on this
 * mount waits for it, those of other sandboxes too. It is held during the RENAME, and before that while both
 * names are looked up and both directories' permissions asked for. Nothing in those requests tells that they
 * belong to a rename, but the caller's system call does. That is looked at only when a guest has not answered
 * for GUEST_LOCKED_MS; reading it waits for nothing, since a thread that waits for us is not within
 * execve(2).
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/fs.h"
#include "fs/guest/guest_names.h"

/* A guest that did not answer before is not waited for so long again. */
enum { AGAIN_MS = 100 };

/* When in doubt it is: the caller may be in another PID namespace, or io_uring's. */
static bool may_rename(pid_t thread)
{
	char path[64], text[32];
	ssize_t n;
	long call;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/syscall", (int)thread);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return true;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return true;
	text[n] = 0;
	call = strtol(text, NULL, 10);
	return call < 0 || call == SYS_rename || call == SYS_renameat || call == SYS_renameat2 ||
	       *text < '0' || *text > '9';
}

static void expired(void *arg)
{
	struct guest_call *gc = arg;

	if (gc->request && may_rename(gc->caller))
		guest_call_give_up(gc);
}

void guest_lock_watch(struct guest_call *gc)
{
	const unsigned ms = agent_silent(guest_agent(gc->node)) ? AGAIN_MS : GUEST_LOCKED_MS;

	if (gc->op == FS_GETATTR || gc->op == FS_LOOKUP)
		timer_start(gc->node->guest->obj->fs->loop, &gc->lock_timer, ms * 1000000ull, expired, gc);
}
