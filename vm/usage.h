/* SPDX-License-Identifier: MIT */
/* usage.h - what a VMM process costs its host, as /proc says */
#ifndef SBX_VM_USAGE_H
#define SBX_VM_USAGE_H

#include <sys/types.h>

#include "util/loop.h"
#include "vm/engine.h"

/* Fills cpu_ns, which is of now, and zeroes the rest; a negative errno if the process is gone. */
int process_usage(pid_t pid, struct vm_usage *ret);

/* Of a process that the launcher started: a descriptor for vm_memory_read, or a negative errno. */
int process_memory(pid_t pid);

/*
 * Asks, on a thread, for the memory of the n processes whose engine's `memory` gave these descriptors, which are
 * taken over. done, on the loop and unless memory_forget comes before, gets that of each, zeroes for one that has
 * ended. NULL: it cannot be asked now.
 */
struct memory_look;
struct memory_look *memory_look(struct loop *loop, const int *fds, size_t n,
				void (*done)(void *arg, const struct vm_memory *of, size_t n), void *arg);
void memory_forget(struct memory_look *look); /* NULL is allowed */

#endif
