/* SPDX-License-Identifier: MIT */
/*
 * pagemap.h - what /proc/PID/pagemap says of the pages of a process
 *
 * Documentation/admin-guide/mm/pagemap.rst, and linux/fs.h of Linux 6.7, which is newer than the headers of Debian 12.
 */
#ifndef SBX_UTIL_PAGEMAP_H
#define SBX_UTIL_PAGEMAP_H

#include <linux/ioctl.h>
#include <stdint.h>

/* Of an entry, which is 64 bits. */
#define PM_PRESENT (1ull << 63)
#define PM_SWAPPED (1ull << 62)
#define PM_FILE (1ull << 61)    /* a page of what is mapped, and not the process' own copy of it */
#define PM_UFFD_WP (1ull << 57) /* write-protected by way of a userfaultfd */

/* PAGEMAP_SCAN, what it says of pages, and how it says it */
enum { PM_IS_WRITTEN = 1 << 1, PM_IS_FILE = 1 << 2, PM_IS_PRESENT = 1 << 3, PM_IS_SWAPPED = 1 << 4 };
struct pagemap_run {
	uint64_t start, end;
	uint64_t categories; /* of the above, those that were asked for */
};
struct pagemap_scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PM_SCAN _IOWR('f', 16, struct pagemap_scan)

#endif
