/* SPDX-License-Identifier: MIT */
/*
 * seccomp.h - what a guest that breaks out of its machine finds: a process that may do little
 *
 * An allow-list of system calls, for all threads. Every other call ends the process: a VMM that does
 * something unexpected must not go on.
 */
#ifndef SBX_VM_VMM_SECCOMP_H
#define SBX_VM_VMM_SECCOMP_H

#include "util/err.h"

/* For all threads of the process, and for good. */
int seccomp_enter(struct err *err);
/* For the calling thread, and those that it starts, on top of that: a vCPU's needs less. */
int seccomp_enter_vcpu(struct err *err);

#endif
