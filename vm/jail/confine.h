/* SPDX-License-Identifier: MIT */
/*
 * confine.h - the daemon gives up what it does not need: it is who parses what guests say
 *
 * Where the launcher jails with user ids, and so may everything that this needs: the daemon goes into a mount
 * namespace whose root has its state directory, the guest's kernel and initramfs, and a /proc of processes alone;
 * drops all capabilities but the one for low ports; and has a filter that refuses system calls for what its
 * launcher does, for other processes, and for programs. It stays user 0, who owns the store.
 *
 * An ordinary user's daemon has nothing to give up, and has the filter. With --jail=none nothing is done.
 */
#ifndef SBX_VM_JAIL_CONFINE_H
#define SBX_VM_JAIL_CONFINE_H

#include "util/err.h"

struct confinement {
	const char *state;           /* a directory that exists; writable there */
	const char *kernel, *initrd; /* readable */
};

/* Before the process has threads, or a descriptor of a directory: that would lead out. */
int confine(const struct confinement *confinement, struct err *err);
/* The filter alone, before the process has threads. */
int confine_calls(struct err *err);

#endif
