/* SPDX-License-Identifier: MIT */
/*
 * boot.h - a Linux kernel into memory, and the first CPU to its first instruction
 *
 * The 64-bit boot protocol of Documentation/arch/x86/boot.rst: the kernel is entered in long mode, with an
 * identity mapping of the first 4 GiB and the address of a filled "zero page" in RSI. No firmware runs.
 */
#ifndef SBX_VM_VMM_BOOT_H
#define SBX_VM_VMM_BOOT_H

#include <stdint.h>

#include "util/err.h"
#include "vm/vmm/memory.h"

/* Load a bzImage (version 2.12 or later, 64-bit), initrd (-1: none) and command line; *ret_entry is where the
 * kernel is entered. */
int boot_load(const struct guest_memory *memory, int kernel_fd, int initrd_fd, const char *cmdline,
	      uint64_t *ret_entry, struct err *err);
/* Registers of the first CPU for a kernel that boot_load loaded. */
int boot_set_registers(int vcpu_fd, uint64_t entry, struct err *err);
/* Descriptor and page tables for 64-bit mode, where boot_set_registers expects them. */
int boot_write_tables(const struct guest_memory *memory, struct err *err);

#endif
