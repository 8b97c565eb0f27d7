/* SPDX-License-Identifier: MIT */
/*
 * freeze.h - a stopped machine into a template: its state, and its RAM as it is now, while it may go on
 *
 * The RAM is frozen by fork(2): the kernel gives a child process all our memory, copied on write, and the
 * child writes what is not zero to a memfd in its own time. The machine stands still for the fork(2) only,
 * and it makes no difference whether it booted or is itself a fork (docs/kvm.md has the numbers).
 */
#ifndef SBX_VM_VMM_FREEZE_H
#define SBX_VM_VMM_FREEZE_H

#include "util/err.h"

struct vmm;
struct freeze;

/* err->code == 0: both are sealed memfds, the callee's. The capture is freed after the call. */
typedef void (*freeze_fn)(void *arg, const struct err *err, int ram_fd, int state_fd);

/*
 * The machine is stopped. When this returns 0 it is frozen: it may run again, on the empty overlay next_fd, which is
 * called next_disk and the machine's from now on (NULL and -1: it has no disk). done is called from the loop,
 * once the RAM is complete. On failure the machine is as before.
 */
int freeze_start(struct vmm *vmm, const char *next_disk, int next_fd, freeze_fn done, void *arg,
		 struct freeze **ret, struct err *err);
/* Give up; done is not called. NULL is allowed. */
void freeze_cancel(struct freeze *capture);

#endif
