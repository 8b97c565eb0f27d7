/* SPDX-License-Identifier: MIT */
/* power.c - the ports a guest ends its machine at */
#include "vm/vmm/power.h"

#include "vm/vmm/layout.h"

enum {
	SLEEP_ENABLE = 1 << 5,
	SLEEP_TYPE_SHIFT = 2,
	SLEEP_TYPE_MASK = 7,

	KBD_PORT = 0x60,
	KBD_COMMAND = 4,        /* offset: port 0x64 */
	KBD_PULSE_RESET = 0xfe, /* "pulse output port" with the reset line, bit 0, low */
};

static uint64_t power_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return 0;
}

static void power_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct power *power = opaque;

	(void)size;
	if (offset == POWER_RESET && value == POWER_RESET_VALUE)
		power->event(power->arg, POWER_RESET_REQUEST);
	if (offset == POWER_SLEEP_CONTROL && value & SLEEP_ENABLE &&
	    (value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK) == POWER_S5)
		power->event(power->arg, POWER_OFF);
}

static void kbd_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct power *power = opaque;

	(void)size;
	if (offset == KBD_COMMAND && value == KBD_PULSE_RESET)
		power->event(power->arg, POWER_RESET_REQUEST);
}

int power_add(struct power *power, struct mmio_bus *pio, struct err *err)
{
	const struct mmio_region ports = { .name = "power ports",
					   .base = POWER_PORT,
					   .len = POWER_PORTS,
					   .read = power_read,
					   .write = power_write,
					   .opaque = power };
	/* The rest of the keyboard controller reads as zero: no keyboard, ready for a command. */
	const struct mmio_region kbd = { .name = "keyboard controller",
					 .base = KBD_PORT,
					 .len = KBD_COMMAND + 1,
					 .read = power_read,
					 .write = kbd_write,
					 .opaque = power };
	int rc = mmio_add(pio, &ports, err);

	return rc ? rc : mmio_add(pio, &kbd, err);
}
