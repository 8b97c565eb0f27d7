/* SPDX-License-Identifier: MIT */
/* test_ext4.c - filesystems made by snap/image/, judged by e2fsprogs */
#include "snap/image/ext4.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "cli/images.h"
#include "snap/image/import.h"
#include "tests/unit/unit.h"

enum { MIB = 1 << 20 };

static const struct ext4_attr file_attr = { S_IFREG | 04751, 1000, 100000, { 5000000000, 123456789 } };
static const struct ext4_attr dir_attr = { S_IFDIR | 01777, 0, 0, { 1000000000, 0 } };

static char dir[] = "/tmp/test_ext4.XXXXXX", image[64];

static struct ext4 *new_image(uint64_t size)
{
	struct err err = { 0 };
	struct ext4 *fs = NULL;
	int fd = open(image, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && !ftruncate(fd, (off_t)size) && !close(fd));
	if (ext4_new(image, size, &fs, &err))
		fprintf(stderr, "%s\n", err.text);
	CHECK(fs);
	return fs;
}

/* Run a shell line; its output is put into ret, and its status returned. */
__attribute__((format(printf, 3, 4))) static int run(char *ret, size_t size, const char *fmt, ...)
{
	char line[512];
	FILE *out;
	size_t n;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	out = popen(line, "re");
	CHECK(out);
	n = fread(ret, 1, size - 1, out);
	ret[n] = '\0';
	return pclose(out);
}

static void finish(struct ext4 *fs)
{
	static char report[4096];
	struct err err = { 0 };

	CHECK(!ext4_close(fs, true, &err));
	if (run(report, sizeof(report), "PATH=$PATH:/usr/sbin:/sbin e2fsck -fn %s 2>&1", image)) {
		fprintf(stderr, "%s", report);
		CHECK(!"sound");
	}
}

static void check_stat(const char *path, const char *expected)
{
	static char report[4096];

	CHECK(!run(report, sizeof(report), "PATH=$PATH:/usr/sbin:/sbin debugfs -R 'stat %s' %s 2>/dev/null",
		   path, image));
	if (!strstr(report, expected))
		fprintf(stderr, "%s\n", report);
	CHECK(strstr(report, expected));
}

static void add_file(struct ext4 *fs, const char *path, const char *text)
{
	CHECK(!ext4_file(fs, path, &file_attr, NULL));
	CHECK(!ext4_write(fs, 0, text, strlen(text), NULL));
	CHECK(!ext4_end(fs, strlen(text), NULL));
}

static void check_content(const char *path, const char *expected)
{
	char text[256];

	CHECK(!run(text, sizeof(text), "PATH=$PATH:/usr/sbin:/sbin debugfs -R 'cat %s' %s 2>/dev/null", path,
		   image));
	CHECK(!strcmp(text, expected));
}

static void every_kind_of_entry(void)
{
	const struct ext4_attr link = { S_IFLNK | 0777, 5, 6, { 0 } };
	const struct ext4_attr chr = { S_IFCHR | 0620, 0, 5, { 0 } }, blk = { S_IFBLK | 0660, 0, 6, { 0 } };
	const struct ext4_attr fifo = { S_IFIFO | 0600, 0, 0, { 0 } };
	struct ext4 *fs = new_image(32 * MIB);
	char target[301];

	memset(target, 'x', 300);
	target[300] = '\0';
	add_file(fs, "/deep/er/file", "text\n"); /* with its directories */
	CHECK(!ext4_xattr(fs, "user.note", "hello", 5, NULL));
	CHECK(!ext4_dir(fs, "./tmp/", &dir_attr, NULL));
	CHECK(!ext4_symlink(fs, "short", "deep/er/file", &link, NULL));
	CHECK(!ext4_symlink(fs, "long", target, &link, NULL));
	CHECK(!ext4_node(fs, "tty", makedev(5, 0), &chr, NULL));
	CHECK(!ext4_node(fs, "nvme", makedev(259, 70000), &blk, NULL));
	CHECK(!ext4_node(fs, "fifo", 0, &fifo, NULL));
	CHECK(!ext4_link(fs, "tmp/hard", "deep/er/file", NULL));
	CHECK(!ext4_dir(fs, "/", &dir_attr, NULL));
	finish(fs);
	check_content("/deep/er/file", "text\n");
	check_stat("/deep/er/file", "Mode:  04751");
	check_stat("/deep/er/file", "User:  1000   Group: 100000");
	check_stat("/deep/er/file", "Links: 2");
	check_stat("/deep/er/file", "user.note (5) = \"hello\"");
	check_stat("/deep/er/file", "mtime: 0x2a05f200:1d6f3455");
	check_stat("/deep/er", "Mode:  0755");
	check_stat("/tmp", "Mode:  01777");
	check_stat("/", "Mode:  01777");
	check_stat("/tmp/hard", "Links: 2");
	check_stat("/short", "Fast link dest: \"deep/er/file\"");
	check_stat("/long", "Size: 300");
	check_stat("/tty", "Device major/minor number: 05:00");
	check_stat("/nvme", "259:70000");
	check_stat("/fifo", "Type: FIFO");
}

static void entries_replace_those_before(void)
{
	const struct ext4_attr link = { S_IFLNK | 0777, 0, 0, { 0 } };
	struct ext4 *fs = new_image(32 * MIB);

	add_file(fs, "a", "first, and longer\n");
	CHECK(!ext4_link(fs, "b", "a", NULL));
	add_file(fs, "a", "second\n");
	CHECK(!ext4_link(fs, "a", "a", NULL));
	CHECK(!ext4_symlink(fs, "c", "a", &link, NULL));
	add_file(fs, "c", "no link\n");
	CHECK(!ext4_link(fs, "c", "b", NULL));
	CHECK(!ext4_dir(fs, "d", &dir_attr, NULL));
	add_file(fs, "d/inside", "kept\n");
	CHECK(!ext4_dir(fs, "d", &dir_attr, NULL));
	finish(fs);
	check_content("/a", "second\n");
	check_content("/b", "first, and longer\n");
	check_content("/c", "first, and longer\n");
	check_content("/d/inside", "kept\n");
	check_stat("/b", "Links: 2");
	check_stat("/a", "Links: 1");
}

static void holes_and_many_names(void)
{
	struct ext4 *fs = new_image(64 * MIB);
	char name[64];
	unsigned i;

	CHECK(!ext4_file(fs, "sparse", &file_attr, NULL));
	CHECK(!ext4_write(fs, 20 * MIB, "end", 3, NULL));
	CHECK(!ext4_end(fs, 100ull * MIB, NULL));
	for (i = 0; i < 2000; i++) {
		snprintf(name, sizeof(name), "many/a-name-that-takes-some-room-%u", i);
		add_file(fs, name, "");
	}
	finish(fs);
	check_stat("/sparse", "Size: 104857600");
	check_stat("/sparse", "Blockcount: 8");
	check_stat("/many/a-name-that-takes-some-room-1999", "Type: regular");
}

static void paths_stay_inside(void)
{
	const struct ext4_attr link = { S_IFLNK | 0777, 0, 0, { 0 } };
	struct ext4 *fs = new_image(32 * MIB);
	char name[300];

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	CHECK(ext4_file(fs, "../x", &file_attr, NULL) == -EINVAL);
	CHECK(ext4_file(fs, "a/../../x", &file_attr, NULL) == -EINVAL);
	CHECK(ext4_file(fs, "a/..", &file_attr, NULL) == -EINVAL);
	CHECK(ext4_file(fs, name, &file_attr, NULL) == -ENAMETOOLONG);
	CHECK(ext4_file(fs, "/", &file_attr, NULL) == -EISDIR);
	CHECK(!ext4_symlink(fs, "out", "/tmp", &link, NULL));
	CHECK(!ext4_symlink(fs, "up", "../../../tmp/./deep/..", &link, NULL));
	CHECK(!ext4_symlink(fs, "loop", "loop/x", &link, NULL));
	add_file(fs, "out/x", "inside\n");
	add_file(fs, "up/y", "inside, too\n");
	CHECK(ext4_file(fs, "loop/x", &file_attr, NULL) == -ELOOP);
	CHECK(ext4_file(fs, "out/x/below", &file_attr, NULL) == -ENOTDIR);
	CHECK(!ext4_dir(fs, "d", &dir_attr, NULL));
	CHECK(ext4_link(fs, "l", "nothing", NULL) == -ENOENT);
	CHECK(ext4_link(fs, "l", "d", NULL) == -ENOENT);
	CHECK(ext4_symlink(fs, "empty", "", &link, NULL) == -EINVAL);
	finish(fs);
	check_content("/tmp/x", "inside\n");
	check_content("/tmp/y", "inside, too\n");
}

static void directories_and_files_replace_each_other(void)
{
	const struct ext4_attr link = { S_IFLNK | 0777, 0, 0, { 0 } };
	struct ext4 *fs = new_image(32 * MIB);

	add_file(fs, "d/deep/file", "gone\n");
	CHECK(!ext4_link(fs, "kept", "d/deep/file", NULL));
	add_file(fs, "d", "a file now\n");
	CHECK(!ext4_symlink(fs, "l", "elsewhere", &link, NULL));
	CHECK(!ext4_dir(fs, "l", &dir_attr, NULL));
	add_file(fs, "l/in", "in\n");
	CHECK(ext4_link(fs, "l", "l/in", NULL) == -EINVAL); /* it would take its own target away */
	finish(fs);
	check_content("/d", "a file now\n");
	check_content("/kept", "gone\n");
	check_stat("/kept", "Links: 1");
	check_content("/l/in", "in\n");
}

static void layers_take_away(void)
{
	struct ext4 *fs = new_image(32 * MIB);
	char text[512];

	add_file(fs, "a/one", "1\n");
	add_file(fs, "a/two", "2\n");
	add_file(fs, "a/sub/three", "3\n");
	add_file(fs, "b/four", "4\n");
	add_file(fs, "c/five", "5\n");
	CHECK(!ext4_xattr(fs, "user.note", "gone", 4, NULL));
	CHECK(!ext4_dir(fs, "x", &dir_attr, NULL) && !ext4_xattr(fs, "user.note", "gone", 4, NULL));
	ext4_layer(fs);
	/* What a layer brings stays, whether the mark comes before or after it. */
	add_file(fs, "a/new", "new\n");
	CHECK(!ext4_whiteout(fs, "a/.wh..wh..opq", NULL));
	add_file(fs, "a/newer", "newer\n");
	CHECK(!ext4_whiteout(fs, "b/.wh.four", NULL));
	CHECK(!ext4_whiteout(fs, "b/.wh.nothing", NULL));
	CHECK(!ext4_whiteout(fs, "nowhere/.wh.nothing", NULL));
	add_file(fs, "c/six", "6\n");
	CHECK(!ext4_whiteout(fs, ".wh.c", NULL));
	CHECK(!ext4_whiteout(fs, ".wh..wh.plnk", NULL));
	CHECK(ext4_whiteout(fs, "a/.wh...", NULL) == -EINVAL);
	CHECK(ext4_whiteout(fs, "a/.wh.", NULL) == -EINVAL);
	CHECK(ext4_whiteout(fs, "../.wh.x", NULL) == -EINVAL);
	CHECK(!ext4_dir(fs, "x", &dir_attr, NULL));
	finish(fs);
	CHECK(!run(text, sizeof(text),
		   "PATH=$PATH:/usr/sbin:/sbin; for d in / a b c; do debugfs -R \"ls -p $d\" %s 2>/dev/null; "
		   "done | "
		   "cut -d/ -f6 | grep . | sort | tr '\\n' ' '",
		   image));
	if (strcmp(text, ". . . . .. .. .. .. a b c lost+found new newer six x ") != 0)
		fprintf(stderr, "%s\n", text);
	CHECK(!strcmp(text, ". . . . .. .. .. .. a b c lost+found new newer six x "));
	CHECK(!run(text, sizeof(text), "PATH=$PATH:/usr/sbin:/sbin debugfs -R 'stat x' %s 2>/dev/null",
		   image));
	CHECK(!strstr(text, "user.note"));
}

static void what_does_not_fit_is_an_error(void)
{
	static char data[MIB];
	struct ext4 *fs = new_image(16 * MIB);
	struct err err = { 0 };
	uint64_t at;
	int rc = 0;

	memset(data, 'x', sizeof(data));
	CHECK(!ext4_file(fs, "big", &file_attr, NULL));
	for (at = 0; !rc && at < 32 * MIB; at += sizeof(data))
		rc = ext4_write(fs, at, data, sizeof(data), &err);
	CHECK(rc == -ENOSPC && strstr(err.text, "big does not fit"));
	CHECK(!ext4_close(fs, false, NULL));
}

static void base(void)
{
	struct ext4 *fs = new_image(64 * MIB);
	struct err err = { 0 };
	int rc = image_base(fs, &err);

	if (rc)
		fprintf(stderr, "%s\n", err.text);
	CHECK(!rc);
	finish(fs);
	check_stat("/bin/busybox", "Mode:  0755");
	check_stat("/bin/sh", "Fast link dest: \"/bin/busybox\"");
	check_stat("/tmp", "Mode:  01777");
	check_stat("/etc/passwd", "User:     0   Group:     0");
	check_stat("/etc/sbx/fork.d", "Type: directory");
}

static int import(const char *source, struct err *err)
{
	struct image_import import = { .source = source, .disk = image, .size = 32 * MIB };
	char report[4096];
	int rc, fd = open(image, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && !ftruncate(fd, (off_t)import.size) && !close(fd));
	rc = image_import(&import, err);
	buf_release(&import.config);
	if (!rc && run(report, sizeof(report), "PATH=$PATH:/usr/sbin:/sbin e2fsck -fn %s 2>&1", image)) {
		fprintf(stderr, "%s", report);
		CHECK(!"sound");
	}
	return rc;
}

/* An archive with one entry, and what becomes of it. */
static int import_one(const char *path, const char *link, mode_t mode, struct err *err)
{
	struct archive_entry *entry = archive_entry_new();
	struct archive *archive = archive_write_new();
	char file[64];
	int rc;

	CHECK(entry && archive);
	snprintf(file, sizeof(file), "%s/archive", dir);
	archive_write_set_format_pax_restricted(archive);
	archive_write_add_filter_gzip(archive);
	CHECK(archive_write_open_filename(archive, file) == ARCHIVE_OK);
	archive_entry_set_pathname(entry, path);
	archive_entry_set_mode(entry, mode);
	if (link)
		archive_entry_set_hardlink(entry, link);
	else if (S_ISREG(mode))
		archive_entry_set_size(entry, 4);
	CHECK(archive_write_header(archive, entry) == ARCHIVE_OK);
	if (!link && S_ISREG(mode))
		CHECK(archive_write_data(archive, "evil", 4) == 4);
	CHECK(archive_write_close(archive) == ARCHIVE_OK);
	archive_write_free(archive);
	archive_entry_free(entry);
	rc = import(file, err);
	CHECK(!unlink(file));
	return rc;
}

static void hostile_archives(void)
{
	const mode_t file = S_IFREG | 0640;
	struct err err = { 0 };

	CHECK(import_one("../../../../../../tmp/test_ext4_evil", NULL, file, &err) == -EINVAL);
	CHECK(import_one("ok", "/etc/passwd", file, &err) == -ENOENT);
	CHECK(import_one("ok", "../../etc/passwd", file, &err) == -EINVAL);
	CHECK(import_one("sda", NULL, S_IFBLK | 0666, &err) == -EPERM);
	CHECK(!import_one("./dev/null", NULL, S_IFCHR | 0666, &err));
	CHECK(!import_one("/tmp/test_ext4_evil", NULL, file, &err)); /* in the image, that is */
	check_content("/tmp/test_ext4_evil", "evil");
	CHECK(access("/tmp/test_ext4_evil", F_OK) < 0);
}

static void directories(void)
{
	char path[64], text[512];

	snprintf(path, sizeof(path), "%s/source", dir);
	CHECK(!run(text, sizeof(text),
		   "mkdir -p %s/d && cd %s && echo one > d/one && ln d/one two && ln -s two three && chmod "
		   "4711 two",
		   path, path));
	CHECK(!import(path, NULL));
	check_content("/d/one", "one\n");
	check_stat("/two", "Links: 2");
	check_stat("/two", "Mode:  04711");
	check_stat("/two", "User:     0   Group:     0"); /* whoever runs this test */
	check_stat("/three", "Fast link dest: \"two\"");
	CHECK(!run(text, sizeof(text), "rm -r %s", path));
	CHECK(import(path, NULL) == -ENOENT);
}

int main(void)
{
	scratch_dir(dir);
	snprintf(image, sizeof(image), "%s/image", dir);
	TEST(every_kind_of_entry);
	TEST(entries_replace_those_before);
	TEST(holes_and_many_names);
	TEST(paths_stay_inside);
	TEST(directories_and_files_replace_each_other);
	TEST(layers_take_away);
	TEST(what_does_not_fit_is_an_error);
	TEST(base);
	TEST(hostile_archives);
	TEST(directories);
	return 0;
}
