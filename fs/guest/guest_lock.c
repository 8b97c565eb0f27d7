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
#include <sys/syscall.h>

#include "fs/fs.h"
#include "fs/guest/guest_names.h"
#include "vm/jail/jail.h"

/* A guest that did not answer before is not waited for so long again. */
enum { AGAIN_MS = 100 };

/* When in doubt it is: the caller may be in another PID namespace, or io_uring's. */
static bool may_rename(pid_t thread)
{
	const long call = launcher_call_of(thread);

	return call < 0 || call == SYS_rename || call == SYS_renameat || call == SYS_renameat2;
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

	if (gc->op == FS_GETATTR || gc->op == FS_LOOKUP || gc->op == FS_GETXATTR)
		timer_start(gc->node->guest->obj->fs->loop, &gc->lock_timer, ms * 1000000ull, expired, gc);
}
