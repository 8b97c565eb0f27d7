/* SPDX-License-Identifier: MIT */
/*
 * irq.c - the I/O APIC: from a device's interrupt line to a vCPU
 *
 * Registers as in the Intel 82093AA datasheet: an index register, a data window, and 64-bit redirection
 * entries. An entry has the same fields as an interrupt message, in other places (Intel SDM volume 3, 11.11).
 * Level-triggered entries are taken for edge-triggered ones: nothing in our tables asks for them.
 */
#include "vm/vmm/irq.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "util/log.h"

enum {
	REG_SELECT = 0x00,
	REG_WINDOW = 0x10,
	REGION_SIZE = 0x1000,

	INDEX_VERSION = 0x01,
	INDEX_ENTRIES = 0x10,

	VERSION = 0x11, /* 82093AA: no EOI register */
};

#define ENTRY_MASKED (1ull << 16)
/* Delivery status and remote IRR: read-only, and always 0 with edges. */
#define ENTRY_READ_ONLY (1ull << 12 | 1ull << 14)

#define MSI_ADDRESS 0xfee00000u

void irq_init(struct irqchip *irqchip, int vm_fd)
{
	unsigned i;

	*irqchip = (struct irqchip){ .vm_fd = vm_fd };
	for (i = 0; i < IRQ_LINES; i++)
		irqchip->entries[i] = ENTRY_MASKED;
}

static void send(const struct irqchip *irqchip, uint64_t entry)
{
	const uint32_t vector = entry & 0xff, delivery = entry >> 8 & 7;
	const uint32_t logical = entry >> 11 & 1, destination = entry >> 56;
	struct kvm_msi msi = {
		.address_lo = MSI_ADDRESS | destination << 12 | logical << 2,
		.data = vector | delivery << 8,
	};

	if (irqchip->vm_fd < 0)
		return;
	/* 0: the guest's local APIC does not want it, the guest's affair. */
	if (ioctl(irqchip->vm_fd, KVM_SIGNAL_MSI, &msi) < 0)
		log_error("cannot send interrupt message %#x: %m", msi.data);
}

void irq_pulse(struct irqchip *irqchip, unsigned gsi)
{
	const uint64_t entry = irqchip->entries[gsi];

	if (entry & ENTRY_MASKED)
		irqchip->pending |= 1u << gsi;
	else
		send(irqchip, entry);
}

static void write_entry(struct irqchip *irqchip, unsigned index, uint32_t value)
{
	const unsigned line = index / 2;
	uint64_t *entry = &irqchip->entries[line];

	if (index % 2)
		*entry = (*entry & 0xffffffffu) | (uint64_t)value << 32;
	else
		*entry = ((*entry >> 32 << 32) | value) & ~ENTRY_READ_ONLY;
	if (*entry & ENTRY_MASKED || !(irqchip->pending & 1u << line))
		return;
	irqchip->pending &= ~(1u << line);
	send(irqchip, *entry);
}

static uint32_t read_index(const struct irqchip *irqchip)
{
	const uint32_t index = irqchip->select;

	if (index == INDEX_VERSION)
		return VERSION | (IRQ_LINES - 1) << 16;
	if (index >= INDEX_ENTRIES && index < INDEX_ENTRIES + 2 * IRQ_LINES)
		return (uint32_t)(irqchip->entries[(index - INDEX_ENTRIES) / 2] >> (index % 2 ? 32 : 0));
	return 0; /* identification and arbitration: both 0 */
}

static uint64_t ioapic_read(void *opaque, uint64_t offset, unsigned size)
{
	const struct irqchip *irqchip = opaque;

	(void)size;
	if (offset == REG_SELECT)
		return irqchip->select;
	return offset == REG_WINDOW ? read_index(irqchip) : 0;
}

static void ioapic_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct irqchip *irqchip = opaque;
	const uint32_t index = irqchip->select;

	(void)size;
	if (offset == REG_SELECT)
		irqchip->select = value & 0xff;
	else if (offset == REG_WINDOW && index >= INDEX_ENTRIES && index < INDEX_ENTRIES + 2 * IRQ_LINES)
		write_entry(irqchip, index - INDEX_ENTRIES, (uint32_t)value);
}

struct mmio_region irq_region(struct irqchip *irqchip)
{
	return (struct mmio_region){
		"I/O APIC", IOAPIC_BASE, REGION_SIZE, ioapic_read, ioapic_write, irqchip
	};
}

void irq_save(const struct irqchip *irqchip, struct buf *buf)
{
	unsigned i;

	buf_put_u32(buf, irqchip->select);
	for (i = 0; i < IRQ_LINES; i++)
		buf_put_u64(buf, irqchip->entries[i]);
	buf_put_u32(buf, irqchip->pending);
}

int irq_load(struct irqchip *irqchip, struct reader *reader, struct err *err)
{
	struct irqchip loaded = { .vm_fd = irqchip->vm_fd };
	unsigned i;

	loaded.select = get_u32(reader) & 0xff;
	for (i = 0; i < IRQ_LINES; i++)
		loaded.entries[i] = get_u64(reader) & ~ENTRY_READ_ONLY;
	loaded.pending = get_u32(reader) & ((1u << IRQ_LINES) - 1);
	if (reader->bad)
		return err_set(err, -EINVAL, "the saved state of the I/O APIC is cut short");
	*irqchip = loaded;
	return 0;
}
