/* SPDX-License-Identifier: MIT */
/*
 * pause.h - a machine that stands, and goes on
 *
 * Those with a done are steps, as in machine.h.
 */
#ifndef SBX_FS_SANDBOX_PAUSE_H
#define SBX_FS_SANDBOX_PAUSE_H

#include "fs/sandbox/sandbox.h"

/*
 * The engine was asked for something, and answers within ms, or the task's caller is told -ETIMEDOUT
 * (task_answer); 0: it has answered.
 */
void machine_expect(struct sandbox *sb, unsigned ms);
/* Have the engine prepare a capture of the running machine (engine.h), which it ends within ms. What could not be done is
 * in done's err, and no reason not to capture it. */
void machine_ahead(struct sandbox *sb, unsigned ms, done_fn done, void *arg);
/* Empty the agent channel and stop the vCPUs; sets sb->quiesced, not the state. A guest that is silent is
 * paused all the same; before a capture its hooks may refuse, and -EBUSY is why. */
void machine_pause(struct sandbox *sb, enum quiesce_why why, done_fn done, void *arg);
/*
 * Go on. After a `long_pause` the guest's clock is set anew; then done waits for the guest, and ends with
 * -ETIMEDOUT when it is silent. Sets the state to running.
 */
void machine_resume(struct sandbox *sb, bool long_pause, done_fn done, void *arg);
/* Tell the running guest the sandbox's name. -ETIMEDOUT, soon, when it is silent: it learns it when it goes on. */
void machine_rename(struct sandbox *sb, done_fn done, void *arg);
/*
 * Stop the machine, which runs, where it is: its disk may grow no further. It counts as stalled, as one does that
 * found no room at all, and why is in `error`. -EBUSY: something else is under way.
 */
int machine_stall(struct sandbox *sb, const struct err *why);
/* The engine stopped it so by itself. */
void machine_stands(struct sandbox *sb, const struct err *err);

#endif
