/* SPDX-License-Identifier: MIT */
/* usage.h - what a VMM process costs its host, as /proc says */
#ifndef SBX_VM_USAGE_H
#define SBX_VM_USAGE_H

#include <sys/types.h>

#include "vm/engine.h"

/*
 * What /proc said of a process' memory, for MEMORY_KEPT_MS: the kernel walks all of it for an answer, which on
 * the loop's thread everybody waits for. Zero-initialised is nothing yet. One for each process.
 */
enum { MEMORY_KEPT_MS = 1000 };
struct process_memory {
	uint64_t until_ns; /* CLOCK_MONOTONIC */
	uint64_t resident, private, shared;
};

/* Fills cpu_ns, resident, private and shared, and zeroes the rest; a negative errno if the process is
 * gone. cpu_ns is of now. */
int process_usage(pid_t pid, struct process_memory *memory, struct vm_usage *ret);

#endif
