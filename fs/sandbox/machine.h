/* SPDX-License-Identifier: MIT */
/*
 * machine.h - a sandbox's machine: started, paused, resumed, ended
 *
 * Each of the slow ones is a step of the sandbox's task (sandbox.h): done is called once from the loop,
 * unless the machine ends first; then the task is ended instead, and done is not called. A NULL done is for a
 * task's last step: the task ends with it.
 */
#ifndef SBX_FS_SANDBOX_MACHINE_H
#define SBX_FS_SANDBOX_MACHINE_H

#include "fs/sandbox/sandbox.h"

/* Boot from the sandbox's disk, which is made of its image if there is none; running when done. */
int machine_boot(struct sandbox *sb, done_fn done, void *arg, struct err *err);
/*
 * Make the sandbox a fork of the template: its machine is `vm` on sb->disk, prepared (`loaded`: and the
 * engine is done with that), or NULL to prepare one. Running, and its jobs known, when done.
 */
int machine_fork(struct sandbox *sb, struct template *template, struct vm *vm, bool loaded, done_fn done,
		 void *arg, struct err *err);

/*
 * The engine was asked for something, and answers within ms, or the task's caller is told -ETIMEDOUT
 * (task_answer); 0: it has answered.
 */
void machine_expect(struct sandbox *sb, unsigned ms);
/* Empty the agent channel and stop the vCPUs; sets sb->quiesced, not the state. A guest that is silent is
 * paused all the same. */
void machine_pause(struct sandbox *sb, done_fn done, void *arg);
/*
 * Go on. After a `long_pause` the guest's clock is set anew; then done waits for the guest, and ends with
 * -ETIMEDOUT when it is silent. Sets the state to running.
 */
void machine_resume(struct sandbox *sb, bool long_pause, done_fn done, void *arg);
/* Give the running guest this memory and these CPUs. The settings change when it has them. */
void machine_resize(struct sandbox *sb, const struct shape *want, done_fn done, void *arg);
/* Ask the guest to power off; kill it after the time the options give. */
void machine_stop(struct sandbox *sb, done_fn done, void *arg);
/*
 * Stop the machine, which runs, where it is: its disk may grow no further. It counts as stalled, as one does that
 * found no room at all, and why is in `error`. -EBUSY: something else is under way.
 */
int machine_stall(struct sandbox *sb, const struct err *why);
/* The same where it cannot be stopped: it is killed, and the sandbox has crashed. */
void machine_end(struct sandbox *sb, const struct err *why);
/* Kill it at once, if there is one. The task, if any, is left for the caller to end; its callbacks will not
 * come. */
void machine_drop(struct sandbox *sb);

#endif
