/* SPDX-License-Identifier: MIT */
/* track.c - which pages of its memory a QEMU process writes, as userfaultfd(2) tells */
#include "vm/qemu/track.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/message.h"
#include "util/pagemap.h"

/* Each has the lock of the process' memory for as long as it takes the kernel to go through so much. */
#define PIECE (UINT64_C(32) << 20)

/* linux/userfaultfd.h of Linux 6.7 */
#define WP_ASYNC (UINT64_C(1) << 15)

/* Flags of a struct pagemap_scan. */
enum { SCAN_PROTECT = 1 << 0, SCAN_CHECK_ASYNC = 1 << 1 };

/* QEMU may send anything. */
static bool is_userfaultfd(int fd)
{
	static const char name[] = "anon_inode:[userfaultfd]";
	char path[64], target[sizeof(name) + 1];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target));
	return n == (ssize_t)strlen(name) && !memcmp(target, name, (size_t)n);
}

int track_take(int socket, struct err *err)
{
	struct uffdio_api api = { .api = UFFD_API, .features = WP_ASYNC };
	char byte = 0;
	int fd, rc;

	rc = message_recv(socket, &byte, 1, NULL, &fd, 1, MSG_DONTWAIT);
	if (rc < 0)
		return err_sys(err, rc, "QEMU has sent no userfaultfd");
	/* One, and QEMU has the other end no more. */
	if (!rc || byte != TRACK_BYTE || !is_userfaultfd(fd) ||
	    message_recv(socket, &byte, 1, NULL, &(int){ -1 }, 1, MSG_DONTWAIT) != -EPIPE)
		rc = err_set(err, -EPROTO, "what QEMU has sent is no userfaultfd");
	else if (ioctl(fd, UFFDIO_API, &api) < 0)
		rc = err_sys(err, -errno, "this kernel does not follow a process' writes");
	else
		return fd;
	if (fd >= 0)
		close(fd);
	return rc;
}

int track_begin(int uffd, uint64_t start, uint64_t size)
{
	struct uffdio_register what = { .range = { start, size }, .mode = UFFDIO_REGISTER_MODE_WP };

	return ioctl(uffd, UFFDIO_REGISTER, &what) < 0 ? -errno : 0;
}

int track_end(int uffd, uint64_t start, uint64_t size)
{
	struct uffdio_range piece;
	uint64_t at;

	for (at = 0; at < size; at += piece.len) {
		piece = (struct uffdio_range){ start + at, size - at < PIECE ? size - at : PIECE };
		if (ioctl(uffd, UFFDIO_UNREGISTER, &piece) < 0)
			return -errno;
	}
	return 0;
}

int track_written(int pagemap_fd, uint64_t *at, uint64_t end, struct pagemap_run *runs, unsigned max)
{
	struct pagemap_scan scan = { .size = sizeof(scan),
				     .flags = SCAN_PROTECT | SCAN_CHECK_ASYNC,
				     .start = *at,
				     .end = end - *at < PIECE ? end : *at + PIECE,
				     .vec = (uintptr_t)runs,
				     .vec_len = max,
				     .category_inverted = PM_IS_FILE,
				     .category_mask = PM_IS_WRITTEN | PM_IS_FILE,
				     .category_anyof_mask = PM_IS_PRESENT | PM_IS_SWAPPED,
				     .return_mask = PM_IS_WRITTEN };
	const int n = ioctl(pagemap_fd, PM_SCAN, &scan);

	if (n < 0)
		return -errno;
	if (scan.walk_end <= *at || scan.walk_end > end)
		return -EPROTO;
	*at = scan.walk_end;
	return n;
}
