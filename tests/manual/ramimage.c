/* SPDX-License-Identifier: MIT */
/*
 * ramimage.c - how fast a RAM image is written and read, without the filesystem
 *
 *   ramimage FILE RAW [RUNS]
 *
 * FILE is objects/ID/ram of a snapshot without a parent. The pages of its content that are not zero go to
 * RAW, one after the other, so that other programs can be timed on the same bytes: leaving out pages of
 * zeroes is no feat of compression. What is in RAW is then saved and loaded RUNS times, in memory; each run
 * prints a line "save MS load MS", in milliseconds.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/ramimage.h"
#include "snap/template.h"
#include "util/io.h"
#include "util/loop.h"

static int fail(const char *what, const struct err *err)
{
	fprintf(stderr, "ramimage: %s: %s\n", what, err->text);
	return 1;
}

static int load(int fd, const char *name, int *ret_memfd, uint64_t *ret_size, struct err *err)
{
	struct ramimage_files files = { .fd = fd, .name = name };
	struct ramimage image;
	int rc = ramimage_open(fd, name, &image, err);

	if (rc)
		return rc;
	if (image.nsources)
		rc = err_set(err, -1, "refers to other snapshots");
	else
		rc = ramimage_read(&image, &files, NULL, ret_memfd, err);
	*ret_size = image.size;
	ramimage_release(&image);
	return rc;
}

/* The pages of memfd that are not zero: to the file `path`, and in another memfd. */
static int condense(int memfd, uint64_t size, const char *path, int *ret_memfd, uint64_t *ret_size)
{
	static const uint8_t zeros[RAM_PAGE];
	int out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int dense = memfd_new("dense", 0), rc = out < 0 || dense < 0 ? -1 : 0;
	uint8_t page[RAM_PAGE];
	uint64_t n = 0;

	for (uint64_t at = 0; !rc && at < size; at += RAM_PAGE) {
		rc = pread_all(memfd, page, sizeof(page), at);
		if (rc || !memcmp(page, zeros, sizeof(page)))
			continue;
		rc = pwrite_all(out, page, sizeof(page), n);
		if (!rc)
			rc = pwrite_all(dense, page, sizeof(page), n);
		n += RAM_PAGE;
	}
	if (out >= 0)
		close(out);
	*ret_memfd = dense;
	*ret_size = n;
	return rc;
}

/* One save and load of what is in memfd. */
static int run(int memfd, uint64_t size, struct err *err)
{
	const struct ramimage_content content = { .memfd = memfd, .over_fd = -1, .size = size };
	const char *path = "saved";
	int fd = memfd_new(path, 0), again = -1;
	uint64_t start = now_mono_ns(), saved, loaded;
	struct ramimage image = { 0 };
	int rc;

	if (fd < 0)
		return err_set(err, -1, "cannot create %s", path);
	rc = ramimage_write(&content, NULL, NULL, fd, NULL, &image, err);
	saved = now_mono_ns();
	if (!rc) {
		ramimage_release(&image);
		rc = load(fd, path, &again, &size, err);
	}
	loaded = now_mono_ns();
	if (!rc) {
		printf("save %.3f load %.3f\n", (double)(saved - start) / 1e6,
		       (double)(loaded - saved) / 1e6);
		close(again);
	}
	close(fd);
	return rc;
}

int main(int argc, char **argv)
{
	struct err err = { 0 };
	int fd, memfd, dense;
	uint64_t size;

	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: ramimage FILE RAW [RUNS]\n");
		return 2;
	}
	fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		perror(argv[1]);
		return 1;
	}
	if (load(fd, argv[1], &memfd, &size, &err))
		return fail(argv[1], &err);
	if (condense(memfd, size, argv[2], &dense, &size)) {
		perror(argv[2]);
		return 1;
	}
	for (int i = argc > 3 ? atoi(argv[3]) : 1; i > 0; i--)
		if (run(dense, size, &err))
			return fail(argv[1], &err);
	return 0;
}
