/* SPDX-License-Identifier: MIT */
/* touched.c - which pages of its RAM a process has */
#include "vm/vmm/touched.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "snap/template.h"
#include "util/io.h"
#include "util/pagemap.h"

enum {
	RUNS = 256,    /* that one call may find */
	WINDOW = 4096, /* pages whose entries are read at once */
};

static int scan(int pagemap_fd, const uint8_t *host, uint64_t size, bool own, uint8_t *map)
{
	const uint64_t start = (uintptr_t)host, end = start + size;
	struct pagemap_run runs[RUNS];
	struct pagemap_scan arg = { .size = sizeof(arg),
				    .start = start,
				    .end = end,
				    .vec = (uintptr_t)runs,
				    .vec_len = RUNS,
				    .category_inverted = own ? PM_IS_FILE : 0,
				    .category_mask = own ? PM_IS_FILE : 0,
				    .category_anyof_mask = PM_IS_PRESENT | PM_IS_SWAPPED };
	uint64_t at;
	int n, i;

	for (; arg.start < end; arg.start = arg.walk_end) {
		n = ioctl(pagemap_fd, PM_SCAN, &arg);
		if (n < 0)
			return -errno;
		for (i = 0; i < n; i++)
			for (at = runs[i].start; at < runs[i].end; at += RAM_PAGE)
				template_map_add(map, at - start);
		if (arg.walk_end <= arg.start)
			return -EPROTO;
	}
	return 0;
}

static int read_entries(int pagemap_fd, const uint8_t *host, uint64_t size, bool own, uint8_t *map)
{
	const uint64_t any = PM_PRESENT | PM_SWAPPED, unwanted = own ? PM_FILE : 0;
	uint64_t entries[WINDOW], at, i, n;
	int rc = 0;

	for (at = 0; !rc && at < size; at += n * RAM_PAGE) {
		n = (size - at) / RAM_PAGE < WINDOW ? (size - at) / RAM_PAGE : WINDOW;
		rc = pread_all(pagemap_fd, entries, n * sizeof(entries[0]),
			       (uintptr_t)(host + at) / RAM_PAGE * sizeof(entries[0]));
		for (i = 0; !rc && i < n; i++)
			if ((entries[i] & any) && !(entries[i] & unwanted))
				template_map_add(map, at + i * RAM_PAGE);
	}
	return rc;
}

int touched_add(enum touched_how how, const uint8_t *host, uint64_t size, bool own, uint8_t *map)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), rc;

	if (fd < 0)
		return -errno;
	rc = (how == TOUCHED_SCAN ? scan : read_entries)(fd, host, size, own, map);
	close(fd);
	return rc;
}
