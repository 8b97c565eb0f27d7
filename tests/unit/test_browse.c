/* SPDX-License-Identifier: MIT */
/* test_browse.c - the files of a disk, read through layers; e2fsprogs makes and judges the disks */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "snap/qcow2/create.h"
#include "tests/unit/unit.h"
#include "util/io.h"
#include "vm/agent/browse/serve.h"
#include "vm/agent/proto.h"

enum { MIB = 1 << 20, BIG = 3 * MIB + 17 };

static char root[] = "/tmp/sbx-browse-XXXXXX";
static int root_fd;
static struct browse_server server;
static struct chain *chain;

/* ---- asking as fs/ does */

static int ask(uint8_t op, struct buf *args, struct buf *reply)
{
	struct reader reader = reader_init(buf_bytes(args), args->len);
	int rc;

	buf_clear(reply);
	rc = serve(&server, op, &reader, reply);
	buf_clear(args);
	return rc;
}

static int get_attr(const char *path, struct fs_attr *ret)
{
	struct buf args = { 0 }, reply = { 0 };
	struct reader results;
	int rc;

	fs_file_put(&args, 0, path, NULL);
	rc = ask(FS_GETATTR, &args, &reply);
	if (!rc) {
		results = reader_init(buf_bytes(&reply), reply.len);
		fs_attr_get(&results, ret);
		CHECK(!results.bad && !reader_left(&results));
	}
	buf_release(&args);
	buf_release(&reply);
	return rc;
}

/* The whole of a file, to be freed with buf_release. */
static int read_file(const char *path, struct buf *ret)
{
	struct buf args = { 0 }, reply = { 0 };
	struct reader results;
	uint32_t handle;
	int rc;

	fs_file_put(&args, 0, path, NULL);
	buf_put_u32(&args, O_RDONLY);
	rc = ask(FS_OPEN, &args, &reply);
	if (rc)
		goto out;
	results = reader_init(buf_bytes(&reply), reply.len);
	handle = get_u32(&results);
	do {
		buf_put_u32(&args, handle);
		buf_put_u64(&args, ret->len);
		buf_put_u32(&args, PROTO_DATA_MAX);
		rc = ask(FS_READ, &args, &reply);
		if (!rc && reply.len)
			buf_add(ret, buf_bytes(&reply), reply.len);
	} while (!rc && reply.len);
	buf_put_u32(&args, handle);
	CHECK(!ask(FS_CLOSE, &args, &reply));
	buf_put_u32(&args, handle);
	CHECK(ask(FS_CLOSE, &args, &reply) == -EBADF);
out:
	buf_release(&args);
	buf_release(&reply);
	return rc;
}

static bool file_is(const char *path, const void *data, size_t n)
{
	struct buf got = { 0 };
	bool same;

	CHECK(!read_file(path, &got));
	same = got.len == n && (!n || !memcmp(buf_bytes(&got), data, n));
	buf_release(&got);
	return same;
}

/* ---- disks */

static void open_disk(const char *file)
{
	struct err err = { 0 };

	CHECK(!chain_open(root_fd, file, false, &chain, &err));
	if (server_open(&server, chain, &err)) {
		fprintf(stderr, "%s\n", err.text);
		CHECK(0);
	}
}

static void close_disk(void)
{
	server_close(&server);
	chain_free(chain);
}

#define RAW "00000000000000000000000000000000.raw"
#define OVERLAY "11111111111111111111111111111111.qcow2"

/* A tree of everything, in an ext4 of 1 KiB blocks to make structures deep. */
static void make_disk(void)
{
	shell("set -e; cd %s; mkdir -p t/dir/sub t/many; printf hello >t/dir/file; ln -s dir/file t/short;"
	      "ln -s \"$(printf 'x%%.0s' $(seq 1 200))\" t/long; mkfifo t/fifo; : >t/empty;"
	      "head -c %d /dev/urandom >t/big; truncate -s 40M t/sparse; printf end >>t/sparse;"
	      "for i in $(seq 1 900); do : >t/many/an-entry-with-a-rather-long-name-$i; done;"
	      "chmod 4751 t/dir/file;"
	      "truncate -s 128M " RAW "; mke2fs -q -t ext4 -b 1024 -I 256 -d t " RAW,
	      root, BIG);
	/* 2040, beyond 31 bits of seconds, and nanoseconds. */
	shell("cd %s; printf 'sif /dir/file mtime 0x83d63972\nsif /dir/file mtime_extra 0x1d6f3455\n' "
	      ">script;"
	      "debugfs -w -f script " RAW " >/dev/null 2>&1",
	      root);
}

static void files_read_as_they_were_written(void)
{
	struct buf content = { 0 }, expected = { 0 };
	struct fs_attr attr;
	char path[96];

	make_disk();
	open_disk(RAW);
	CHECK(file_is("/dir/file", "hello", 5) && file_is("/empty", "", 0));
	snprintf(path, sizeof(path), "%s/t/big", root);
	CHECK(!read_file_at(AT_FDCWD, path, 2 * BIG, &expected));
	CHECK(file_is("/big", buf_bytes(&expected), BIG));
	CHECK(!read_file("/sparse", &content) && content.len == 40 * MIB + 3);
	CHECK(!memcmp(buf_bytes(&content) + 40 * MIB, "end", 3) && !buf_bytes(&content)[20 * MIB]);
	CHECK(!get_attr("/dir/file", &attr));
	CHECK(attr.mode == (S_IFREG | 04751) && attr.size == 5 && attr.nlink == 1 && attr.uid == getuid());
	CHECK(attr.mtime.sec == 2211854706 && attr.mtime.nsec == 123456789);
	CHECK(!get_attr("/", &attr) && attr.mode == (S_IFDIR | 0755) && attr.id.ino == 2);
	CHECK(!get_attr("/fifo", &attr) && S_ISFIFO(attr.mode));
	buf_release(&content);
	buf_release(&expected);
	close_disk();
}

static int error_of(uint8_t op, const char *path, uint32_t flags)
{
	struct buf args = { 0 }, reply = { 0 };
	int rc;

	fs_file_put(&args, 0, path, NULL);
	buf_put_u32(&args, flags);
	rc = ask(op, &args, &reply);
	buf_release(&args);
	buf_release(&reply);
	return rc;
}

static void what_cannot_be_done_is_refused(void)
{
	struct fs_attr attr;

	open_disk(RAW);
	CHECK(get_attr("/none", &attr) == -ENOENT && get_attr("/dir/file/x", &attr) == -ENOTDIR);
	CHECK(get_attr("relative", &attr) == -EINVAL);
	CHECK(error_of(FS_OPEN, "/dir/file", O_RDWR) == -EROFS);
	CHECK(error_of(FS_OPEN, "/dir", O_RDONLY) == -EISDIR);
	CHECK(error_of(FS_OPEN, "/short", O_RDONLY) == -ELOOP);
	CHECK(error_of(FS_OPEN, "/fifo", O_RDONLY) == -EACCES);
	CHECK(error_of(FS_UNLINK, "/dir/file", 0) == -EROFS && error_of(FS_MKDIR, "/new", 0) == -EROFS);
	CHECK(error_of(FS_READLINK, "/dir/file", 0) == -EINVAL);
	CHECK(error_of(FS_READ, "", 0) == -EBADF && error_of(200, "/", 0) == -EROFS);
	close_disk();
}

static void links_lead_where_they_led(void)
{
	struct buf args = { 0 }, reply = { 0 };
	struct reader results;
	char target[512];

	open_disk(RAW);
	fs_file_put(&args, 0, "/short", NULL);
	CHECK(!ask(FS_READLINK, &args, &reply));
	results = reader_init(buf_bytes(&reply), reply.len);
	get_str(&results, target, sizeof(target));
	CHECK(!strcmp(target, "dir/file"));
	fs_file_put(&args, 0, "/long", NULL);
	CHECK(!ask(FS_READLINK, &args, &reply));
	results = reader_init(buf_bytes(&reply), reply.len);
	get_str(&results, target, sizeof(target));
	CHECK(strlen(target) == 200 && strspn(target, "x") == 200);
	buf_release(&args);
	buf_release(&reply);
	close_disk();
}

static void a_large_directory_is_listed_once(void)
{
	struct buf args = { 0 }, reply = { 0 };
	static bool seen[901];
	uint64_t cookie = 0;
	unsigned total = 0, rounds = 0;
	bool more;

	open_disk(RAW);
	do {
		struct reader results;
		uint32_t count;

		fs_file_put(&args, 0, "/many", NULL);
		buf_put_u64(&args, cookie);
		CHECK(!ask(FS_READDIR, &args, &reply) && reply.len <= PROTO_PAYLOAD_MAX);
		results = reader_init(buf_bytes(&reply), reply.len);
		more = get_u8(&results);
		count = get_u32(&results);
		for (uint32_t i = 0; i < count; i++) {
			struct fs_attr attr;
			char name[256];
			unsigned number;

			cookie = get_u64(&results);
			get_str(&results, name, sizeof(name));
			fs_attr_get(&results, &attr);
			CHECK(sscanf(name, "an-entry-with-a-rather-long-name-%u", &number) == 1);
			CHECK(number >= 1 && number <= 900 && !seen[number] && S_ISREG(attr.mode));
			seen[number] = true;
			total++;
		}
		CHECK(!results.bad && !reader_left(&results));
		rounds++;
	} while (more);
	CHECK(total == 900 && rounds > 1);
	buf_release(&args);
	buf_release(&reply);
	close_disk();
}

/* What a file's first block is on the disk, by debugfs. */
static unsigned long block_of(const char *disk, const char *path)
{
	char command[256];
	unsigned long block;
	FILE *pipe;

	snprintf(command, sizeof(command), "debugfs -R 'bmap %s 0' %s/%s 2>/dev/null", path, root, disk);
	pipe = popen(command, "r"); /* NOLINT(cert-env33-c): a test's own words */
	CHECK(pipe && fscanf(pipe, "%lu", &block) == 1);
	pclose(pipe);
	return block;
}

/*
 * debugfs writes transactions into the journal, and e2fsck plays them back: what we see without writing must
 * be what is there afterwards.
 */
static void the_journal_is_applied(const char *options)
{
	static const uint8_t magic[] = { 0xc0, 0x3b, 0x39, 0x98 };
	unsigned long one, two, three;
	struct stat before, after;
	char path[96];

	shell("set -e; cd %s; rm -rf t j.raw; mkdir t; for f in one two three; do head -c 1024 /dev/zero | "
	      "tr "
	      "'\\0' $f >t/$f; done; mke2fs -q -t ext4 -b 1024 %s -d t " RAW " 64M; truncate -s 64M " RAW,
	      root, options);
	one = block_of(RAW, "/one");
	two = block_of(RAW, "/two");
	three = block_of(RAW, "/three");
	/* First all three; then two again, beginning with the journal's magic number; then three revoked. */
	shell("set -e; cd %s; head -c 1024 /dev/zero | tr '\\0' A >A; head -c 1024 /dev/zero | tr '\\0' B >B;"
	      "(printf '\\300\\073\\071\\230'; head -c 1020 A) >M;"
	      "printf 'jo\njw -b %lu A\njw -b %lu B\njw -b %lu B\njw -b %lu M\njw -r %lu\njc\n' >script;"
	      "debugfs -w -f script " RAW " >debugfs.out 2>&1; ! grep -i 'error\\|usage' debugfs.out;"
	      "dumpe2fs -h " RAW " 2>/dev/null | grep -q needs_recovery",
	      root, one, two, three, two, three);
	snprintf(path, sizeof(path), "%s/" RAW, root);
	CHECK(!stat(path, &before));

	for (unsigned pass = 0; pass < 2; pass++) {
		char a[1024], m[1024], t[1024];

		memset(a, 'A', sizeof(a));
		memset(m, 'A', sizeof(m));
		memcpy(m, magic, sizeof(magic));
		memset(t, 't', sizeof(t));
		open_disk(RAW);
		CHECK(file_is("/one", a, sizeof(a)));
		CHECK(file_is("/two", m, sizeof(m)));
		CHECK(file_is("/three", t, sizeof(t)));
		close_disk();
		if (pass == 0) {
			CHECK(!stat(path, &after) && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
			shell("e2fsck -fy %s >/dev/null 2>&1; test $? -le 1", path);
		}
	}
}

static void a_journal_of_any_kind_is_applied(void)
{
	the_journal_is_applied("-O metadata_csum,64bit");
	the_journal_is_applied("-O ^metadata_csum,^64bit");
	the_journal_is_applied("-O metadata_csum,^64bit");
}

static void layers_are_looked_through(void)
{
	struct err err = { 0 };
	int fd = openat(root_fd, OVERLAY, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	unsigned long block = block_of(RAW, "/one");
	char z[1024];

	CHECK(fd >= 0 && !qcow2_create_overlay(fd, 64 * MIB, RAW, &err));
	close(fd);
	shell("qemu-io -f qcow2 -c 'write -P 90 %lu 1024' %s/" OVERLAY " >/dev/null", block * 1024, root);
	memset(z, 90, sizeof(z));
	open_disk(OVERLAY);
	CHECK(file_is("/one", z, sizeof(z)));
	close_disk();
}

static void what_is_no_filesystem_is_refused(void)
{
	struct err err = { 0 };

	shell("head -c 4M /dev/urandom >%s/" RAW, root);
	CHECK(!chain_open(root_fd, RAW, false, &chain, &err));
	CHECK(server_open(&server, chain, &err) == -EIO && err.text[0]);
	close_disk();
}

int main(void)
{
	scratch_dir(root);
	root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(root_fd >= 0);
	TEST(files_read_as_they_were_written);
	TEST(what_cannot_be_done_is_refused);
	TEST(links_lead_where_they_led);
	TEST(a_large_directory_is_listed_once);
	TEST(a_journal_of_any_kind_is_applied);
	TEST(layers_are_looked_through);
	TEST(what_is_no_filesystem_is_refused);
	close(root_fd);
	return 0;
}
