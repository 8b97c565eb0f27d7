/* SPDX-License-Identifier: MIT */
/* kernel_args.h - the part of the guest's kernel command line that follows from the machine's shape */
#ifndef SBX_VM_KERNEL_ARGS_H
#define SBX_VM_KERNEL_ARGS_H

#include <stdint.h>

#include "snap/template.h"

enum { KERNEL_ARGS_SIZE = 192 + SHAPE_INIT_MAX };

/*
 * A machine has all of memory_max and cpus_max from the start. These arguments make the kernel and the agent
 * begin with `memory` and `cpus`, and keep the kernel's own data out of what may be taken away later.
 */
void kernel_args(const struct shape *shape, char ret[KERNEL_ARGS_SIZE]);

/* How little memory, in bytes, a machine that began so can be brought to; at most memory_max. */
uint64_t memory_floor(const struct shape *shape);

#endif
