/* SPDX-License-Identifier: MIT */
/*
 * freeze.h - a stopped machine into a template: its state, and its RAM as it is now, while it may go on
 *
 * The RAM is frozen by fork(2): the kernel gives a child process all our memory, copied on write, and the
 * child writes what is not zero to a memfd in its own time. The machine stands still for the fork(2) only
 * (docs/kvm.md has the numbers). Of a machine that is itself a fork only what it wrote is copied, over the template
 * that it has the rest from.
 */
#ifndef SBX_VM_VMM_FREEZE_H
#define SBX_VM_VMM_FREEZE_H

#include "snap/template.h"
#include "util/err.h"

struct vmm;
struct freeze;

/*
 * err->code == 0: sealed memfds, to be sent or duplicated: they are closed after the call. files->map is -1 for a capture
 * that has all of the RAM; otherwise pages without a bit in it are those of memory.template_fd.
 */
typedef void (*freeze_fn)(void *arg, const struct err *err, const struct template_files *files);

/*
 * The machine is stopped. When this returns 0 it is frozen: it may run again, on the empty overlay next_fd, which is
 * called next_disk and the machine's from now on (NULL and -1: it has no disk). done is called from the loop,
 * once the RAM is complete, and the capture is nobody's after that: it goes by itself when the child has ended.
 * On failure the machine is as before.
 */
int freeze_start(struct vmm *vmm, const char *next_disk, int next_fd, freeze_fn done, void *arg,
		 struct freeze **ret, struct err *err);
/* Give up; done is not called. NULL is allowed. */
void freeze_cancel(struct freeze *capture);
/* For vmm_free: those that are done, and whose children are still ending. */
void freeze_forget(struct vmm *vmm);

#endif
