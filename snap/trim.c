/* SPDX-License-Identifier: MIT */
/*
 * trim.c - shrink an object without a name to the RAM blocks that others refer to
 *
 * Blocks keep their places, since others name them by offset; what lies between them is punched out. Header
 * and index go the same way: nobody reads the image as a whole any more.
 */
#include "snap/trim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/ramimage.h"

struct range {
	uint64_t start, end;
};

struct ranges {
	struct range *list;
	size_t n, size;
};

static int add_range(struct ranges *ranges, uint64_t start, uint64_t end)
{
	struct range *last = ranges->n ? &ranges->list[ranges->n - 1] : NULL;
	struct range *more;

	if (last && last->end == start) { /* neighbours in RAM are mostly neighbours in the file */
		last->end = end;
		return 0;
	}
	if (ranges->n == ranges->size) {
		ranges->size = ranges->size ? 2 * ranges->size : 64;
		more = realloc(ranges->list, ranges->size * sizeof(*more));
		if (!more)
			return -ENOMEM;
		ranges->list = more;
	}
	ranges->list[ranges->n++] = (struct range){ start, end };
	return 0;
}

/* The blocks of object id that one user refers to. */
static int add_user(int objects_fd, const char *user, const char *id, struct ranges *ranges, struct err *err)
{
	char path[ID_SIZE + sizeof("/ram")];
	struct ramimage image = { 0 };
	uint32_t source = 0;
	int fd, rc;

	snprintf(path, sizeof(path), "%s/ram", user);
	fd = openat(objects_fd, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, -errno, "cannot open %s", path);
	rc = ramimage_open(fd, path, &image, err);
	close(fd);
	if (rc)
		return rc;
	for (unsigned i = 0; i < image.nsources; i++)
		if (!strcmp(image.sources[i], id))
			source = i + 1;
	for (size_t i = 0; !rc && source && i < image.nblocks; i++) {
		const struct ramimage_block *block = &image.blocks[i];

		if (block->source == source)
			rc = add_range(ranges, block->offset, block->offset + block->len);
	}
	ramimage_release(&image);
	return rc ? err_set(err, rc, "out of memory") : 0;
}

static int by_start(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

/* Punch what is between the ranges, and cut off what is behind the last. */
static int punch(int fd, const struct ranges *ranges)
{
	uint64_t kept = 0; /* everything before here is done */

	for (size_t i = 0; i < ranges->n; i++) {
		const struct range *range = &ranges->list[i];

		if (range->start > kept && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
						     (off_t)kept, (off_t)(range->start - kept)))
			return -errno;
		if (range->end > kept)
			kept = range->end;
	}
	return ftruncate(fd, (off_t)kept) ? -errno : 0;
}

int trim_object(int objects_fd, const char *id, unsigned nusers, char (*users)[ID_SIZE], struct err *err)
{
	static const char *const unneeded[] = { "manifest", "state", "owner", "sandbox" };
	struct ranges ranges = { 0 };
	char path[ID_SIZE + 16];
	int fd, rc = 0;

	for (unsigned i = 0; !rc && i < nusers; i++)
		rc = add_user(objects_fd, users[i], id, &ranges, err);
	if (rc)
		goto out;
	for (size_t i = 0; i < sizeof(unneeded) / sizeof(unneeded[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", id, unneeded[i]);
		if (unlinkat(objects_fd, path, 0) && errno != ENOENT)
			rc = err_sys(err, -errno, "cannot remove %s", path);
	}
	if (rc)
		goto out;
	if (ranges.n)
		qsort(ranges.list, ranges.n, sizeof(*ranges.list), by_start);
	snprintf(path, sizeof(path), "%s/ram", id);
	fd = openat(objects_fd, path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0) {
		rc = err_sys(err, -errno, "cannot open %s", path);
		goto out;
	}
	rc = punch(fd, &ranges);
	/* Some filesystems cannot punch: the data then stays until its last user goes. */
	rc = rc == -EOPNOTSUPP || !rc ? 0 : err_sys(err, rc, "cannot shrink %s", path);
	close(fd);
out:
	free(ranges.list);
	return rc;
}
