/* SPDX-License-Identifier: MIT */
/* test_failing_cli.c - making a filesystem when memory is refused */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/image/ext4.h"
#include "tests/unit/failing.h"
#include "tests/unit/unit.h"

enum { MIB = 1 << 20, SIZE = 16 * MIB };

static char dir[] = "/tmp/sbx-failing-cli-XXXXXX", image[64], empty[64];

/* A filesystem that mke2fs has just made: a copy, since making one takes much longer. */
static void copy_empty(void)
{
	static char bytes[SIZE];
	int from = open(empty, O_RDONLY | O_CLOEXEC);
	int to = open(image, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(from >= 0 && to >= 0);
	CHECK(read(from, bytes, SIZE) == SIZE && write(to, bytes, SIZE) == SIZE);
	close(from);
	close(to);
}

static void check(int rc, const struct err *err)
{
	if (rc)
		CHECK(failing_did());
	if (rc && rc != -ENOMEM)
		fprintf(stderr, "%d %s\n", rc, err->text);
	CHECK(failing_excuses(rc) && rc == err->code && !rc == !err->text[0]);
}

static int fill(struct ext4 *fs, struct err *err)
{
	static const struct ext4_attr file = { S_IFREG | 0644, 1000, 1000, { 1, 0 } },
				      link = { S_IFLNK | 0777, 0, 0, { 1, 0 } },
				      fifo = { S_IFIFO | 0600, 0, 0, { 1, 0 } };
	int rc = ext4_file(fs, "a/b/file", &file, err);

	if (!rc)
		rc = ext4_write(fs, 8192, "content", 7, err);
	if (!rc)
		rc = ext4_end(fs, 16384, err);
	if (!rc)
		rc = ext4_xattr(fs, "user.key", "value", 5, err);
	if (!rc)
		rc = ext4_symlink(fs, "link", "a/b/file", &link, err);
	if (!rc)
		rc = ext4_link(fs, "a/second", "a/b/file", err);
	if (!rc)
		rc = ext4_node(fs, "fifo", 0, &fifo, err);
	if (!rc)
		rc = ext4_file(fs, "a/b/file", &file, err); /* in the place of the first */
	return rc ? rc : ext4_end(fs, 0, err);
}

static void judge(void)
{
	sh_in("/", "PATH=$PATH:/usr/sbin:/sbin e2fsck -fn %s >/dev/null 2>&1", image);
}

static void a_filesystem_is_made_or_not(void)
{
	struct err err = { 0 };
	struct ext4 *fs = NULL;
	int rc;

	copy_empty();
	rc = MAY_FAIL(ext4_open(image, &fs, &err));
	check(rc, &err);
	if (rc)
		return;
	rc = MAY_FAIL(fill(fs, &err));
	check(rc, &err);
	if (rc) {
		CHECK(!ext4_close(fs, false, NULL));
		return;
	}
	err = (struct err){ 0 };
	rc = MAY_FAIL(ext4_close(fs, true, &err));
	check(rc, &err);
	if (!rc)
		judge();
}

int main(void)
{
	struct err err = { 0 };
	struct ext4 *fs = NULL;
	int fd;

	scratch_dir(dir);
	snprintf(image, sizeof(image), "%s/image", dir);
	snprintf(empty, sizeof(empty), "%s/empty", dir);
	fd = open(empty, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && !ftruncate(fd, SIZE) && !close(fd));
	CHECK(!ext4_new(empty, SIZE, &fs, &err) && !ext4_close(fs, true, &err));
	FAILING_OURS(a_filesystem_is_made_or_not);
	return 0;
}
