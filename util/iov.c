/* SPDX-License-Identifier: MIT */
/* iov.c - whole transfers between a file and memory in several pieces */
#include "util/iov.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { BATCH = 64 };

/* Fill `ret` with at most BATCH pieces of what is at the cursor, at most len bytes; returns how many. */
static int cursor_peek(const struct cursor *cursor, uint64_t len, struct iovec ret[BATCH])
{
	const struct iovec *iov = cursor->iov;
	size_t offset = cursor->offset, n;
	int i = 0;

	for (; len && i < BATCH; iov++, offset = 0) {
		n = iov->iov_len - offset;
		if (!n)
			continue;
		if (n > len)
			n = len;
		ret[i++] = (struct iovec){ (char *)iov->iov_base + offset, n };
		len -= n;
	}
	return i;
}

static void cursor_advance(struct cursor *cursor, uint64_t n)
{
	while (n) {
		const size_t left = cursor->iov->iov_len - cursor->offset;

		if (n < left) {
			cursor->offset += n;
			return;
		}
		n -= left;
		cursor->iov++;
		cursor->offset = 0;
	}
}

void cursor_zero(struct cursor *to, uint64_t len)
{
	while (len) {
		const size_t left = to->iov->iov_len - to->offset;
		const size_t n = len < left ? len : left;

		if (n)
			memset((char *)to->iov->iov_base + to->offset, 0, n);
		cursor_advance(to, n);
		if (!left) {
			to->iov++;
			to->offset = 0;
		}
		len -= n;
	}
}

int preadv_padded(int fd, struct cursor *to, uint64_t len, uint64_t offset)
{
	struct iovec iov[BATCH];
	ssize_t n;
	int pieces;

	while (len) {
		pieces = cursor_peek(to, len, iov);
		/* One is what most have, and all that the filter of sbx-browse lets through. */
		n = pieces == 1 ? pread(fd, iov[0].iov_base, iov[0].iov_len, (off_t)offset)
				: preadv(fd, iov, pieces, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n) {
			cursor_zero(to, len);
			return 0;
		}
		cursor_advance(to, (uint64_t)n);
		len -= (uint64_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int pwritev_all(int fd, struct cursor *from, uint64_t len, uint64_t offset)
{
	struct iovec iov[BATCH];
	ssize_t n;

	while (len) {
		n = pwritev(fd, iov, cursor_peek(from, len, iov), (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		cursor_advance(from, (uint64_t)n);
		len -= (uint64_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}
