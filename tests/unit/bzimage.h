/* SPDX-License-Identifier: MIT */
/* bzimage.h - a kernel file of hand-made code, as far as a loader looks at it */
#ifndef SBX_TESTS_BZIMAGE_H
#define SBX_TESTS_BZIMAGE_H

#include <asm/bootparam.h>
#include <stdint.h>

/* For a 64-bit kernel behind this many sectors of setup, which wants to be at `pref` and needs `size` bytes there. */
static inline struct setup_header bzimage_header(uint8_t setup, uint64_t pref, uint32_t size)
{
	return (struct setup_header){ .setup_sects = setup,
				      .boot_flag = 0xaa55,
				      .header = 0x53726448,
				      .version = 0x20f,
				      .xloadflags = XLF_KERNEL_64,
				      .initrd_addr_max = 0x7fffffff,
				      .cmdline_size = 2047,
				      .pref_address = pref,
				      .init_size = size };
}

#endif
