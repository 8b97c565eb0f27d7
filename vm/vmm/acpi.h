/* SPDX-License-Identifier: MIT */
/*
 * acpi.h - the tables that describe the machine to the guest
 *
 * Reduced-hardware ACPI: no SCI, no PM timer, no legacy interrupt controller or timer. Linux then takes local
 * and I/O APIC from the MADT and its devices from the DSDT, and looks for nothing else.
 */
#ifndef SBX_VM_VMM_ACPI_H
#define SBX_VM_VMM_ACPI_H

#include "util/err.h"
#include "vm/vmm/memory.h"

/* Write the tables to ACPI_ADDR, for `cpus` CPUs with APIC IDs from 0. */
int acpi_write(const struct guest_memory *memory, unsigned cpus, struct err *err);

#endif
