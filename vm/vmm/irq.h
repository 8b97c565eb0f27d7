/* SPDX-License-Identifier: MIT */
/*
 * irq.h - the I/O APIC: from a device's interrupt line to a vCPU
 *
 * Local APICs are KVM's, the I/O APIC is ours (a split irqchip), because a KVM with the whole irqchip takes
 * 4 to 23 ms to close, and a fork's process must end as cheaply as it begins. Our DSDT describes every line
 * as edge triggered, so that nobody waits for the end of an interrupt and the I/O APIC reduces to a table
 * that turns lines into messages (KVM_SIGNAL_MSI).
 *
 * A device pulses its line at every event the guest should look at, whether or not it has looked at the last
 * one: an interrupt too many is harmless, one that is missed hangs a queue.
 *
 * Threads: with the device lock held (mmio.h).
 */
#ifndef SBX_VM_VMM_IRQ_H
#define SBX_VM_VMM_IRQ_H

#include <stdint.h>

#include "util/buf.h"
#include "util/err.h"
#include "vm/vmm/mmio.h"

enum { IRQ_LINES = 24 };

#define IOAPIC_BASE 0xfec00000u /* where PCs have it */

struct irqchip {
	int vm_fd; /* -1: messages go nowhere (tests) */
	uint32_t select;
	uint64_t entries[IRQ_LINES];
	uint32_t pending; /* lines pulsed while masked */
};

/* KVM must have the split irqchip enabled; see vm.h. */
void irq_init(struct irqchip *irqchip, int vm_fd);
/* Region of the registers, for mmio_add. */
struct mmio_region irq_region(struct irqchip *irqchip);

/* The device at line `gsi` (below IRQ_LINES) has something to say. */
void irq_pulse(struct irqchip *irqchip, unsigned gsi);

void irq_save(const struct irqchip *irqchip, struct buf *buf);
int irq_load(struct irqchip *irqchip, struct reader *reader, struct err *err);

#endif
