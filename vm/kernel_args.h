/* SPDX-License-Identifier: MIT */
/* kernel_args.h - the part of the guest's kernel command line that follows from the machine's shape */
#ifndef SBX_VM_KERNEL_ARGS_H
#define SBX_VM_KERNEL_ARGS_H

#include <stddef.h>

#include "snap/template.h"

enum { KERNEL_ARGS_SIZE = 160 };

/*
 * A machine has all of memory_max and cpus_max from the start. These arguments make the kernel and the agent
 * begin with `memory` and `cpus`, and keep the kernel's own data out of what may be taken away later.
 */
void kernel_args(const struct machine *machine, char ret[KERNEL_ARGS_SIZE]);

#endif
