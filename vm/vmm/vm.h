/* SPDX-License-Identifier: MIT */
/*
 * vm.h - the virtual machine as KVM sees it, without CPUs and devices
 *
 * The order of the calls in kvm_vm_create is the point of it: memory slots come before the interrupt
 * controller, since a change of memory slots after that waits for a grace period of the kernel's (6 ms
 * instead of 0.2 ms, docs/kvm.md).
 */
#ifndef SBX_VM_VMM_VM_H
#define SBX_VM_VMM_VM_H

#include <stdbool.h>
#include <stddef.h>

#include "util/err.h"
#include "vm/vmm/memory.h"

struct kvm_vm {
	int kvm_fd, vm_fd;
	size_t run_size;   /* bytes of a vCPU's struct kvm_run mapping */
	size_t xsave_size; /* bytes of KVM_GET_XSAVE2, or of KVM_GET_XSAVE where there is no other */
	bool xsave2, tsc_control, tsc_deadline;
	struct kvm_cpuid2 *cpuid;  /* what this host offers a guest, but for what differs between vCPUs */
	struct kvm_msr_list *msrs; /* all that make up a vCPU's state */
};

/* The memory's range is registered; it may be mapped later. */
int kvm_vm_create(struct kvm_vm *vm, const struct guest_memory *memory, struct err *err);
/* Created, or failed to be. All vCPUs must be closed. */
void kvm_vm_release(struct kvm_vm *vm);

#endif
