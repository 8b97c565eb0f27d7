/* SPDX-License-Identifier: MIT */
/*
 * probe.h - can /dev/kvm run a Linux guest, or does it only say so?
 *
 * A nested host without VMX or SVM may offer a /dev/kvm that interprets the guest's kernel mode, about a
 * thousand times slower than hardware. No ioctl tells; only the clock does.
 */
#ifndef SBX_VM_PROBE_H
#define SBX_VM_PROBE_H

#include <stdbool.h>

#include "util/err.h"

struct kvm_probe {
	struct err err;  /* code 0: /dev/kvm runs guests at hardware speed; otherwise why not */
	double mips;     /* million guest instructions a second in ring 0; 0 if none ran */
	bool vmx, svm;   /* what the CPU offers by CPUID */
	const char *how; /* "SVM", "VMX" or "hidden hardware" */
};

/* Measured at the first call, which may take 200 ms; the hardware does not change afterwards. */
const struct kvm_probe *kvm_probe(void);

/* The measurement itself on an open /dev/kvm: 0, or a negative errno with the reason. */
int kvm_measure_mips(int kvm_fd, double *ret, struct err *err);

#endif
