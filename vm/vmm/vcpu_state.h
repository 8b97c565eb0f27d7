/* SPDX-License-Identifier: MIT */
/* vcpu_state.h - everything KVM knows of one vCPU, as bytes: u32 lengths and KVM's own structs */
#ifndef SBX_VM_VMM_VCPU_STATE_H
#define SBX_VM_VMM_VCPU_STATE_H

#include "util/buf.h"
#include "util/err.h"

struct vcpu;

/* The vCPU is stopped. */
int vcpu_save(struct vcpu *vcpu, struct buf *buf, struct err *err);
/* Into a vCPU that has its CPUID and has never run. */
int vcpu_load(struct vcpu *vcpu, struct reader *reader, struct err *err);
/* After all vCPUs are loaded, of one that is not the first: give it the first one's offset to the host's
 * TSC. */
int vcpu_copy_tsc_offset(const struct vcpu *first, struct vcpu *vcpu, struct err *err);

#endif
