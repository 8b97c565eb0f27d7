/* SPDX-License-Identifier: MIT */
/*
 * cpuid.h - what the guest's CPUs say they are
 *
 * A guest gets what its host's KVM supports, minus what a capture could not carry to a fork, plus its own
 * topology: cpus_max cores of one thread in one package, with the vCPU's index as its APIC ID.
 */
#ifndef SBX_VM_VMM_CPUID_H
#define SBX_VM_VMM_CPUID_H

#include <linux/kvm.h>
#include <stdbool.h>

#include "util/buf.h"
#include "util/err.h"

/* The common part. *ret is free(3)d by the caller. */
int cpuid_supported(int kvm_fd, bool tsc_deadline, struct kvm_cpuid2 **ret, struct err *err);
/* Fill in what is vCPU `index`'s own, of `cpus`. */
void cpuid_set_topology(struct kvm_cpuid2 *cpuid, unsigned index, unsigned cpus);
/* A copy that the caller changes and frees; NULL when out of memory. */
struct kvm_cpuid2 *cpuid_copy(const struct kvm_cpuid2 *cpuid);

bool cpuid_equal(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b);

void cpuid_save(const struct kvm_cpuid2 *cpuid, struct buf *buf);
/*
 * Read a saved one, for vCPUs of this host: -EINVAL, and the leaf and bits, when it promises a feature that
 * `host` does not offer.
 */
int cpuid_load(struct reader *reader, const struct kvm_cpuid2 *host, struct kvm_cpuid2 **ret,
	       struct err *err);

#endif
