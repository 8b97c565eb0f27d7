/* SPDX-License-Identifier: MIT */
/*
 * power.h - the ports a guest ends its machine at
 *
 * As ACPI's reduced hardware has it: the sleep control and status registers and the reset register of the
 * FADT (ACPI 6.4, 4.8.3.7 and 4.8.3.6); and the reset line of the PC's keyboard controller, for guests that
 * know nothing better. A reset ends the machine as well: no sandbox wants to boot again by itself.
 */
#ifndef SBX_VM_VMM_POWER_H
#define SBX_VM_VMM_POWER_H

#include "vm/vmm/mmio.h"

/* Offsets from POWER_PORT (layout.h). */
enum { POWER_SLEEP_CONTROL, POWER_SLEEP_STATUS, POWER_RESET, POWER_PORTS };
/* What the FADT says to write to POWER_RESET, and dsdt.asl's \_S5. */
enum { POWER_RESET_VALUE = 1, POWER_S5 = 5 };

enum power_event { POWER_OFF, POWER_RESET_REQUEST };

struct power {
	void (*event)(void *arg, enum power_event event);
	void *arg;
};

int power_add(struct power *power, struct mmio_bus *pio, struct err *err);

#endif
