/* SPDX-License-Identifier: MIT */
/*
 * layout.h - the guest's addresses and interrupt lines
 *
 * dsdt.asl says the same to the guest; test_kvm_boot compares the two. Nothing here may change without a new
 * STATE_VERSION (state.h): saved machines live at these addresses.
 */
#ifndef SBX_VM_VMM_LAYOUT_H
#define SBX_VM_VMM_LAYOUT_H

/* Low memory: what the boot protocol and ACPI need, all below the kernel. */
#define GDT_ADDR 0x500u
#define BOOT_STACK 0x8000u
#define ZERO_PAGE_ADDR 0x7000u
#define PAGE_TABLES_ADDR 0x9000u /* six pages */
#define CMDLINE_ADDR 0x20000u
#define CMDLINE_MAX 2048u
#define EBDA_ADDR 0x9fc00u /* end of conventional memory */
#define ACPI_ADDR 0xe0000u /* firmware area, where a kernel looks for the RSDP */
#define ACPI_SIZE 0x10000u
#define RESET_ADDR 0xffff0u /* f000:fff0 */
#define HIGH_RAM_ADDR 0x100000u

/* Devices in memory; the I/O APIC is at IOAPIC_BASE (irq.h). */
#define VIRTIO_BASE 0xd0000000u /* slot n at VIRTIO_BASE + n * VIRTIO_SLOT */
#define VIRTIO_SLOT 0x1000u
#define VIRTIO_IRQ 16u /* slot n has line VIRTIO_IRQ + n: none that an ISA device ever had */
enum { VIRTIO_CONSOLE, VIRTIO_BLK, VIRTIO_RNG, VIRTIO_BALLOON, VIRTIO_NET, VIRTIO_SLOTS };

#define TSS_ADDR 0xfffbd000u          /* three pages for KVM on Intel hosts without unrestricted guests */
#define IDENTITY_MAP_ADDR 0xfffbc000u /* and one more */

/* I/O ports. */
#define SERIAL_PORT 0x3f8u
#define SERIAL_IRQ 4u
#define POWER_PORT 0x600u /* power.h */

#endif
