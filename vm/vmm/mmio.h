/* SPDX-License-Identifier: MIT */
/*
 * mmio.h - which device answers at an address
 *
 * The guest has two address spaces for devices, memory and I/O ports; each is a struct mmio_bus. Regions are
 * added before the machine runs and stay.
 *
 * Threads: an access is made on the thread of the vCPU that wants it, with the device lock held. The I/O
 * thread holds the same lock whenever it runs a callback of the loop (loop_set_lock), so that a device is
 * never entered twice at once and code of devices needs no lock of its own. A device may therefore start
 * requests, write to its socket and raise interrupts right from a register write, without a thread switch.
 */
#ifndef SBX_VM_VMM_MMIO_H
#define SBX_VM_VMM_MMIO_H

#include <stdint.h>

#include "util/err.h"

struct mmio_region {
	const char *name;
	uint64_t base, len;
	/* size is 1, 2, 4 or 8, and offset + size <= len. Wider reads than a register are the device's to
	 * define; what it does not know reads as 0. */
	uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
	void (*write)(void *opaque, uint64_t offset, unsigned size, uint64_t value);
	void *opaque;
};

enum { MMIO_REGIONS_MAX = 16 };

struct mmio_bus {
	struct mmio_region regions[MMIO_REGIONS_MAX]; /* copies, sorted by base */
	unsigned n;
};

/* -EEXIST when it overlaps another, -ENOSPC, -EINVAL when empty or past the end of the address space. */
int mmio_add(struct mmio_bus *bus, const struct mmio_region *region, struct err *err);
/* An access outside every region reads as all ones, as on a bus where nobody answers, and writes nothing. */
uint64_t mmio_read(const struct mmio_bus *bus, uint64_t addr, unsigned size);
void mmio_write(const struct mmio_bus *bus, uint64_t addr, unsigned size, uint64_t value);

#endif
