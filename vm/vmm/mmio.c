/* SPDX-License-Identifier: MIT */
/* mmio.c - which device answers at an address */
#include "vm/vmm/mmio.h"

#include <errno.h>
#include <string.h>

int mmio_add(struct mmio_bus *bus, const struct mmio_region *region, struct err *err)
{
	const struct mmio_region *other;
	unsigned at = 0;

	if (!region->len || region->base + region->len < region->base)
		return err_set(err, -EINVAL, "%s: no valid range of addresses", region->name);
	if (bus->n == MMIO_REGIONS_MAX)
		return err_set(err, -ENOSPC, "%s: too many devices", region->name);
	for (; at < bus->n && bus->regions[at].base < region->base + region->len; at++) {
		other = &bus->regions[at];
		if (region->base < other->base + other->len)
			return err_set(err, -EEXIST, "%s is where %s is", region->name, other->name);
	}
	memmove(&bus->regions[at + 1], &bus->regions[at], (bus->n - at) * sizeof(*region));
	bus->regions[at] = *region;
	bus->n++;
	return 0;
}

static const struct mmio_region *find(const struct mmio_bus *bus, uint64_t addr, unsigned size)
{
	const struct mmio_region *region;

	for (region = bus->regions; region < bus->regions + bus->n; region++)
		if (addr >= region->base && addr - region->base < region->len)
			return addr - region->base + size <= region->len ? region : NULL;
	return NULL;
}

uint64_t mmio_read(const struct mmio_bus *bus, uint64_t addr, unsigned size)
{
	const struct mmio_region *region = find(bus, addr, size);

	return region ? region->read(region->opaque, addr - region->base, size) : ~(uint64_t)0;
}

void mmio_write(const struct mmio_bus *bus, uint64_t addr, unsigned size, uint64_t value)
{
	const struct mmio_region *region = find(bus, addr, size);

	if (region)
		region->write(region->opaque, addr - region->base, size, value);
}
