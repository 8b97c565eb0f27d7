/* SPDX-License-Identifier: MIT */
/*
 * state.h - a stopped machine as bytes, all but its RAM and disk
 *
 * The bytes are a header and sections in a fixed order, each with a tag and a length:
 *
 *     header   u64 magic, u32 version
 *     MACH     u64 memory, u32 CPUs
 *     CPID     CPUID (cpuid.h)
 *     CLCK     kvmclock
 *     VCPU     once a vCPU, by index (vcpu_state.h)
 *     IOAP     I/O APIC (irq.h)
 *     SERL     serial port (serial.h)
 *     VIRT     once a virtio device: u32 slot, the device's own (virtio/transport.h)
 *     DONE
 *
 * Numbers are little-endian, as is everything of KVM's on x86. Loading believes nothing: tags and lengths
 * must be those expected, KVM and the devices check the values, and a failure says what was wrong.
 */
#ifndef SBX_VM_VMM_STATE_H
#define SBX_VM_VMM_STATE_H

#include "util/buf.h"
#include "util/err.h"

struct vmm;

enum { STATE_VERSION = 3 };

/* The vCPUs are stopped and the disk is drained. RAM must be taken before the loop runs on: saving may change
 * it. */
int state_save(struct vmm *vmm, struct buf *buf, struct err *err);
/* Into a machine that has its RAM and devices, and has never run. */
int state_load(struct vmm *vmm, int fd, struct err *err);
int state_parse(struct vmm *vmm, struct reader *reader, struct err *err);

#endif
