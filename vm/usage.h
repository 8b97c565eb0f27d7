/* SPDX-License-Identifier: MIT */
/* usage.h - what a VMM process costs its host, as /proc says */
#ifndef SBX_VM_USAGE_H
#define SBX_VM_USAGE_H

#include <sys/types.h>

#include "vm/engine.h"

/* Fills cpu_ns, resident, private and shared, and zeroes the rest; a negative errno if the process is
 * gone. */
int process_usage(pid_t pid, struct vm_usage *ret);

#endif
