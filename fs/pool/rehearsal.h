/* SPDX-License-Identifier: MIT */
/*
 * rehearsal.h - let a prepared machine go through what a fork does first, and stop it again
 *
 * A machine that was only loaded runs its first instructions slowly: each page it touches is fetched or
 * copied, and TCG has translated nothing yet. A rehearsal runs it, gives it fresh entropy and the time, asks
 * for its jobs, runs an empty command, does the first part once more and stops it. What remains of that is
 * memory that is there, and code that is translated; the machine's processes have run for that moment, as
 * those of any fork have by the time it is handed out.
 */
#ifndef SBX_FS_POOL_REHEARSAL_H
#define SBX_FS_POOL_REHEARSAL_H

#include "fs/fs.h"

struct rehearsal;

/*
 * vm was prepared from the template; events and owner as in engine.h. done is called once, not from inside:
 * err->code == 0: the machine is paused, its channel empty, ready to be started for a fork. Otherwise it is
 * of no use. rehearsal is free then.
 */
int rehearse(struct fs *fs, struct vm *vm, const struct template *template, const struct vm_events *events,
	     void *owner, done_fn done, void *arg, struct rehearsal **ret, struct err *err);
/*
 * The same with a machine that was booted and runs, and whose agent, which nobody else speaks to, waits for its first
 * word: the machine is to be captured, and the next generation is `generation`. It gets a name and a machine id, since
 * the files of those, made and not just written, are what its forks would otherwise spend most of their start on.
 */
int rehearse_booted(struct fs *fs, struct vm *vm, uint32_t generation, done_fn done, void *arg,
		    struct rehearsal **ret, struct err *err);
/* The machine has ended or is about to be destroyed: done is not called. NULL is allowed. */
void rehearsal_cancel(struct rehearsal *rehearsal);

#endif
