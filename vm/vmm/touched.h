/* SPDX-License-Identifier: MIT */
/*
 * touched.h - which pages of its RAM a process has
 *
 * For the child of a capture (freeze.c), which has one thread: it makes system calls and nothing else. Where the kernel
 * knows PAGEMAP_SCAN (Linux 6.7) one call passes over all that was never touched; otherwise there is an entry to be read
 * for each page.
 */
#ifndef SBX_VM_VMM_TOUCHED_H
#define SBX_VM_VMM_TOUCHED_H

#include <stdbool.h>
#include <stdint.h>

enum touched_how { TOUCHED_SCAN, TOUCHED_READ };

/*
 * Add to a map (snap/template.h) the pages of `size` bytes at `host` that are in this process' page table; `own`: those
 * only that are no page of the file that is mapped there. 0 or a negative errno: -ENOTTY where the kernel cannot do it
 * this way.
 */
int touched_add(enum touched_how how, const uint8_t *host, uint64_t size, bool own, uint8_t *map);

#endif
