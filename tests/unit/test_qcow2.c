/* SPDX-License-Identifier: MIT */
/*
 * test_qcow2.c - our qcow2 against a model in memory, and against qemu-img
 *
 * Random requests, several at a time, with captures in between; the model knows what must be read, and
 * `qemu-img check` what a file may look like.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "snap/qcow2/disk.h"
#include "snap/qcow2/format.h"
#include "tests/unit/unit.h"
#include "util/loop.h"

static char dir[] = "/tmp/sbx-qcow2-XXXXXX";
static struct loop *loop;
static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t rnd(uint64_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % n;
}

static int sh(const char *fmt, ...)
{
	va_list ap;
	int status;

	va_start(ap, fmt);
	status = shell_status(dir, fmt, ap);
	va_end(ap);
	return status;
}

static const char *path(const char *name)
{
	static char buf[2][256];
	static int i;

	i = !i;
	snprintf(buf[i], sizeof(buf[i]), "%s/%s", dir, name);
	return buf[i];
}

/* As sbx-vmm gets it: descriptors that somebody else opened by name. */
static int open_as(const char *name, bool writable, struct qcow2 **ret, struct err *err)
{
	struct chain *named = NULL, *chain = NULL;
	int fds[QCOW2_CHAIN_MAX], rc = chain_open_path(path(name), writable, &named, err);
	unsigned i;

	if (rc)
		return rc;
	for (i = 0; i < chain_length(named); i++)
		fds[i] = dup(chain_fd(named, i));
	rc = chain_adopt(name, fds, chain_length(named), writable, &chain, err);
	chain_free(named);
	CHECK(!rc && chain_writable(chain) == writable);
	rc = qcow2_open(loop, chain, ret, err);
	if (rc)
		chain_free(chain);
	return rc;
}

static struct qcow2 *open_disk(const char *name)
{
	struct qcow2 *disk = NULL;
	struct err err = { 0 };

	if (open_as(name, true, &disk, &err))
		fprintf(stderr, "%s\n", err.text);
	CHECK(disk);
	return disk;
}

/* Go on in another file. */
static int switch_to(struct qcow2 *disk, const char *name, struct err *err)
{
	const int fd = qcow2_open_file(AT_FDCWD, path(name), true, err);
	int rc;

	if (fd < 0)
		return fd;
	rc = qcow2_switch(disk, name, fd, err);
	if (rc)
		close(fd);
	return rc;
}

/* ---- one request, waited for */

struct waiting {
	bool done;
	int result;
};

static void wake(void *arg, int result)
{
	struct waiting *w = arg;

	CHECK(!w->done);
	w->done = true;
	w->result = result;
}

static int request(struct qcow2 *disk, enum qcow2_op op, uint64_t offset, void *buf, uint64_t len)
{
	const struct iovec iov = { buf, len };
	struct waiting w = { 0 };
	int rc;

	rc = qcow2_submit(disk, op, offset, len, &iov, 1, wake, &w);
	while (!rc && !w.done)
		CHECK(!loop_once(loop, -1));
	return rc ? rc : w.result;
}

static void expect_bytes(struct qcow2 *disk, uint64_t offset, uint64_t len, int byte)
{
	uint8_t *buf = malloc(len);
	uint64_t i;

	CHECK(!request(disk, QCOW2_READ, offset, buf, len));
	for (i = 0; i < len; i++)
		CHECK(buf[i] == byte);
	free(buf);
}

static void fill(struct qcow2 *disk, uint64_t offset, uint64_t len, int byte)
{
	uint8_t *buf = malloc(len);

	memset(buf, byte, len);
	CHECK(!request(disk, QCOW2_WRITE, offset, buf, len));
	free(buf);
}

static void test_reads_what_it_wrote(void)
{
	struct qcow2 *disk;

	CHECK(!sh("qemu-img create -q -f qcow2 a.qcow2 10M"));
	disk = open_disk("a.qcow2");
	CHECK(qcow2_size(disk) == 10 << 20);
	expect_bytes(disk, 0, 1 << 20, 0);
	fill(disk, 512, 512, 7);
	fill(disk, 60000 & ~511, 200 * 1024, 9);
	expect_bytes(disk, 0, 512, 0);
	expect_bytes(disk, 512, 512, 7);
	expect_bytes(disk, 60000 & ~511, 200 * 1024, 9);
	expect_bytes(disk, 10 * 1024 * 1024 - 512, 512, 0);
	CHECK(!request(disk, QCOW2_FLUSH, 0, NULL, 0));
	qcow2_close(disk);
	CHECK(!sh("qemu-img check -q a.qcow2"));
}

static void test_out_of_range(void)
{
	struct qcow2 *disk = open_disk("a.qcow2"), *ro;
	char buf[1024];

	CHECK(request(disk, QCOW2_READ, (10 << 20) - 512, buf, 1024) == -EINVAL);
	CHECK(request(disk, QCOW2_WRITE, UINT64_MAX - 511, buf, 1024) == -EINVAL);
	CHECK(request(disk, QCOW2_DISCARD, 512, NULL, UINT64_MAX) == -EINVAL);
	qcow2_close(disk);
	CHECK(!open_as("a.qcow2", false, &ro, NULL));
	CHECK(request(ro, QCOW2_WRITE, 0, buf, 512) == -EROFS);
	qcow2_close(ro);
}

static void test_discard_gives_space_back(void)
{
	struct qcow2 *disk;
	struct stat before, after;

	CHECK(!sh("qemu-img create -q -f qcow2 d.qcow2 10M"));
	disk = open_disk("d.qcow2");
	fill(disk, 0, 4 << 20, 3);
	CHECK(!stat(path("d.qcow2"), &before));
	CHECK(!request(disk, QCOW2_DISCARD, 1000 * 512, NULL, 3 << 20));
	CHECK(!stat(path("d.qcow2"), &after));
	CHECK(after.st_blocks < before.st_blocks - 5000);
	/* The clusters at both ends were only partly in the range. */
	expect_bytes(disk, 0, 8 * 65536, 3);
	expect_bytes(disk, 8 * 65536, 47 * 65536, 0);
	/* What was freed is used again. */
	fill(disk, 5 << 20, 2 << 20, 4);
	CHECK(!stat(path("d.qcow2"), &after));
	CHECK(after.st_size <= before.st_size);
	qcow2_close(disk);
	CHECK(!sh("qemu-img check -q d.qcow2"));
}

/* ---- random requests against a model */

/* The disk ends inside a cluster. */
enum { MODEL_SIZE = (12 << 20) - 3 * 512, BASE_DATA = 5000 * 1024, CLUSTER = 65536, SLOTS = 6 };

static uint8_t model[MODEL_SIZE];
static bool model_holds = true; /* not after a kill: what was in flight is unknown */

struct slot {
	bool busy;
	enum qcow2_op op;
	uint64_t offset, len;
	uint8_t *buf;
	struct iovec iov[3];
};

static void slot_done(void *arg, int result)
{
	struct slot *s = arg;

	CHECK(result == 0);
	if (s->op == QCOW2_READ && model_holds)
		CHECK(!memcmp(s->buf, model + s->offset, s->len));
	free(s->buf);
	s->busy = false;
}

static bool overlaps(const struct slot *slots, uint64_t offset, uint64_t len)
{
	int i;

	for (i = 0; i < SLOTS; i++)
		if (slots[i].busy && slots[i].op != QCOW2_FLUSH && offset < slots[i].offset + slots[i].len &&
		    slots[i].offset < offset + len)
			return true;
	return false;
}

/* What a discarded range reads as is zero for whole clusters, and unchanged for the rest. */
static void model_discard(uint64_t offset, uint64_t len)
{
	const uint64_t start = (offset + CLUSTER - 1) / CLUSTER * CLUSTER;
	uint64_t end = (offset + len) / CLUSTER * CLUSTER;

	if (offset + len == MODEL_SIZE)
		end = MODEL_SIZE;
	if (start < end)
		memset(model + start, 0, end - start);
}

static void start_random(struct qcow2 *disk, struct slot *slots, struct slot *s)
{
	static const enum qcow2_op ops[] = { QCOW2_READ,  QCOW2_READ, QCOW2_READ,    QCOW2_WRITE, QCOW2_WRITE,
					     QCOW2_WRITE, QCOW2_ZERO, QCOW2_DISCARD, QCOW2_FLUSH };
	uint64_t i, a, b;

	s->op = ops[rnd(9)];
	s->len = s->op == QCOW2_FLUSH ? 0 : 512 * (1 + rnd(rnd(4) ? 40 : 1500));
	s->offset = 512 * rnd((MODEL_SIZE - s->len) / 512 + 1);
	if (s->op != QCOW2_FLUSH && overlaps(slots, s->offset, s->len))
		return;
	s->buf = malloc(s->len + 1);
	a = rnd(s->len + 1);
	b = a + rnd(s->len - a + 1);
	s->iov[0] = (struct iovec){ s->buf, a };
	s->iov[1] = (struct iovec){ s->buf + a, b - a };
	s->iov[2] = (struct iovec){ s->buf + b, s->len - b };
	if (s->op == QCOW2_WRITE) {
		for (i = 0; i < s->len; i++)
			s->buf[i] = (uint8_t)(seed + i / 512);
		memcpy(model + s->offset, s->buf, s->len);
	} else if (s->op == QCOW2_ZERO) {
		memset(model + s->offset, 0, s->len);
	} else if (s->op == QCOW2_DISCARD) {
		model_discard(s->offset, s->len);
	}
	s->busy = true;
	CHECK(!qcow2_submit(disk, s->op, s->offset, s->len, s->iov, 3, slot_done, s));
}

static void random_requests(struct qcow2 *disk, unsigned n)
{
	struct slot slots[SLOTS] = { 0 };
	unsigned i;

	for (i = 0; i < n; i++) {
		struct slot *s = &slots[rnd(SLOTS)];

		while (s->busy)
			CHECK(!loop_once(loop, -1));
		start_random(disk, slots, s);
	}
	qcow2_drain(disk);
	for (i = 0; i < SLOTS; i++)
		CHECK(!slots[i].busy);
}

static void compare_with_model(const char *name)
{
	FILE *f = fopen(path("model.raw"), "w");

	CHECK(f && fwrite(model, 1, MODEL_SIZE, f) == MODEL_SIZE && !fclose(f));
	CHECK(!sh("qemu-img check -q %s", name));
	CHECK(!sh("qemu-img compare -q -f raw -F qcow2 model.raw %s", name));
}

/* The base is base.raw or base.qcow2. */
static void model_and_base(void)
{
	uint64_t i;
	FILE *f;

	memset(model, 0, sizeof(model));
	for (i = 0; i < BASE_DATA; i++)
		if (i / 65536 % 3)
			model[i] = (uint8_t)(i / 512 * 31);
	f = fopen(path("base.raw"), "w");
	CHECK(f && fwrite(model, 1, MODEL_SIZE, f) == MODEL_SIZE && !fclose(f));
	CHECK(!sh("qemu-img convert -f raw -O qcow2 base.raw base.qcow2"));
}

static void random_chain(const char *base_format, unsigned captures)
{
	struct qcow2 *disk;
	char name[32], was[32];
	unsigned i;

	model_and_base();
	CHECK(!sh("qemu-img create -q -f qcow2 -b base.%s -F %s r0.qcow2", base_format, base_format));
	disk = open_disk("r0.qcow2");
	for (i = 0; i <= captures; i++) {
		snprintf(name, sizeof(name), "r%u.qcow2", i);
		if (i) {
			snprintf(was, sizeof(was), "r%u.qcow2", i - 1);
			CHECK(!sh("qemu-img create -q -f qcow2 -b %s -F qcow2 %s", was, name));
			CHECK(!switch_to(disk, name, NULL));
		}
		random_requests(disk, 1200 / (captures + 1));
		/* Nothing is written at a close, so the file is as good while it is open. */
		compare_with_model(name);
	}
	qcow2_close(disk);
	disk = open_disk(name);
	random_requests(disk, 100);
	qcow2_close(disk);
	compare_with_model(name);
}

static void test_random_on_raw(void)
{
	random_chain("raw", 0);
	random_chain("raw", 3);
}

static void test_random_on_qcow2(void)
{
	random_chain("qcow2", 5);
}

/* Count every cluster of the first refcount block, at cluster 2, as used. */
static void fill_refcounts(const char *name)
{
	static uint8_t block[CLUSTER];
	const int fd = open(path(name), O_WRONLY | O_CLOEXEC);
	unsigned i;

	for (i = 1; i < sizeof(block); i += 2)
		block[i] = 1;
	CHECK(fd >= 0 && pwrite(fd, block, sizeof(block), 2 * CLUSTER) == sizeof(block) && !close(fd));
}

/* ---- killed in the middle */

static void write_until_killed(const char *name)
{
	struct qcow2 *disk;
	struct slot slots[SLOTS] = { 0 };

	loop = loop_new();
	model_holds = false;
	disk = open_disk(name);
	seed += (uint64_t)getpid();
	for (;;) {
		struct slot *s = &slots[rnd(SLOTS)];

		while (s->busy)
			CHECK(!loop_once(loop, -1));
		start_random(disk, slots, s);
	}
}

static void test_kill_leaves_no_errors(void)
{
	unsigned round;
	int status, rc;
	pid_t pid;

	for (round = 0; round < 24; round++) {
		if (round % 8 == 0) {
			model_and_base();
			CHECK(!sh("qemu-img create -q -f qcow2 -b base.raw -F raw k.qcow2"));
		}
		/* Further on the refcount block is full, and the next write adds one. */
		if (round % 8 == 4)
			fill_refcounts("k.qcow2");
		pid = fork();
		CHECK(pid >= 0);
		if (!pid)
			write_until_killed("k.qcow2");
		/* No moment is special: this only spreads the kills. */
		usleep((useconds_t)(20000 + rnd(60000)));
		CHECK(!kill(pid, SIGKILL));
		CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
		/* 3: leaks only */
		rc = sh("qemu-img check -q k.qcow2 >check.out 2>&1");
		if (rc != 0 && rc != 3)
			sh("cat check.out >&2");
		CHECK(rc == 0 || rc == 3);
	}
}

/* One block counts 2 GiB of file; when it is used up, another one follows there. */
static void test_refcounts_grow(void)
{
	struct qcow2 *disk;
	struct stat st;

	CHECK(!sh("qemu-img create -q -f qcow2 g.qcow2 10M"));
	fill_refcounts("g.qcow2");
	disk = open_disk("g.qcow2");
	fill(disk, 512, 3 * CLUSTER, 7);
	expect_bytes(disk, 512, 3 * CLUSTER, 7);
	expect_bytes(disk, 512 + 3 * CLUSTER, 4 * CLUSTER, 0);
	qcow2_close(disk);
	CHECK(!stat(path("g.qcow2"), &st) && st.st_size > 2ll << 30 && st.st_blocks < 4096);
	CHECK(sh("qemu-img check -q g.qcow2 >check.out 2>&1") == 3);
	disk = open_disk("g.qcow2");
	expect_bytes(disk, 512, 3 * CLUSTER, 7);
	qcow2_close(disk);
}

/* A full file system: requests fail, the file stays consistent, and later ones succeed. */
static void test_no_space(void)
{
	struct rlimit old, limit;
	struct qcow2 *disk;
	char *buf = malloc(1 << 20);

	CHECK(buf && !sh("qemu-img create -q -f qcow2 f.qcow2 10M"));
	memset(buf, 5, 1 << 20);
	signal(SIGXFSZ, SIG_IGN);
	CHECK(!getrlimit(RLIMIT_FSIZE, &old));
	limit = old;
	limit.rlim_cur = 1234567;
	disk = open_disk("f.qcow2");
	CHECK(!setrlimit(RLIMIT_FSIZE, &limit));
	CHECK(request(disk, QCOW2_WRITE, 0, buf, 1 << 20) == -EFBIG);
	CHECK(!setrlimit(RLIMIT_FSIZE, &old));
	CHECK(!sh("qemu-img check -q f.qcow2"));
	fill(disk, 0, 1 << 20, 6);
	expect_bytes(disk, 0, 1 << 20, 6);
	qcow2_close(disk);
	CHECK(!sh("qemu-img check -q f.qcow2"));
	free(buf);
}

/* ---- tables that contradict each other; what a header may say is test_qcow2_rules.c's */

static void refuse(const char *name, int code, const char *words)
{
	struct qcow2 *disk = NULL;
	struct err err = { 0 };

	CHECK(open_as(name, true, &disk, &err) == code);
	CHECK(err.code == code);
	if (!strstr(err.text, words))
		fprintf(stderr, "%s: %s\n", name, err.text);
	CHECK(strstr(err.text, words));
}

static void poke(const char *name, size_t offset, uint64_t value, size_t size)
{
	uint8_t be[8];
	size_t i;
	int fd = open(path(name), O_WRONLY);

	for (i = 0; i < size; i++)
		be[i] = (uint8_t)(value >> 8 * (size - 1 - i));
	CHECK(fd >= 0 && pwrite(fd, be, size, (off_t)offset) == (ssize_t)size && !close(fd));
}

static void fresh(void)
{
	CHECK(!sh("qemu-img create -q -f qcow2 x.qcow2 64M"));
}

static void test_refuses_compressed_clusters(void)
{
	struct qcow2 *disk;
	char buf[512];

	CHECK(!sh("yes | head -c 1048576 > y.raw && qemu-img convert -f raw -c -O qcow2 y.raw x.qcow2"));
	disk = open_disk("x.qcow2");
	CHECK(request(disk, QCOW2_READ, 0, buf, sizeof(buf)) == -EIO);
	CHECK(request(disk, QCOW2_WRITE, 0, buf, sizeof(buf)) == -EIO);
	qcow2_close(disk);
}

static void test_refuses_damaged_refcounts(void)
{
	fresh();
	poke("x.qcow2", offsetof(struct qcow2_header, l1_offset), 65536, 8);
	refuse("x.qcow2", -EINVAL, "overlaps");
	fresh();
	poke("x.qcow2", 65536, 65536, 8); /* the table's first block: the table itself */
	refuse("x.qcow2", -EINVAL, "not counted");
	fresh();
	poke("x.qcow2", 65536 + 8, 131072, 8); /* the same block twice */
	refuse("x.qcow2", -EINVAL, "overlaps");
	fresh();
	poke("x.qcow2", 65536 + 16, 131072, 8);
	refuse("x.qcow2", -EINVAL, "gaps");
	fresh();
	poke("x.qcow2", 65536, 0, 8);
	refuse("x.qcow2", -EINVAL, "does not fit");
	fresh();
	poke("x.qcow2", 65536, 1ull << 40, 8);
	refuse("x.qcow2", -EIO, "cannot read the refcounts");
}

/* Entries of L1 and L2 tables that point where they must not. */
static void test_damaged_tables(void)
{
	const uint64_t bad[] = { 1000 * 512, 0x00fffffffff00000, 0, 65536, 3 * 65536 };
	struct qcow2 *disk;
	char buf[512];
	unsigned i;
	int rc;

	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		fresh();
		disk = open_disk("x.qcow2");
		fill(disk, 0, 65536, 1);
		qcow2_close(disk);
		/* L2 table: cluster 4; its first entry */
		poke("x.qcow2", 4 * 65536, bad[i] | QCOW2_COPIED, 8);
		disk = open_disk("x.qcow2");
		rc = request(disk, QCOW2_READ, 0, buf, sizeof(buf));
		CHECK(rc == 0 || rc == -EIO || rc == -EINVAL);
		/* A write never lands on metadata. */
		memset(buf, 0xff, sizeof(buf));
		(void)request(disk, QCOW2_WRITE, 0, buf, sizeof(buf));
		(void)request(disk, QCOW2_DISCARD, 0, NULL, 65536);
		qcow2_close(disk);
		disk = open_disk("x.qcow2");
		qcow2_close(disk);
	}
	fresh();
	poke("x.qcow2", 3 * 65536, 1ull << 40 | QCOW2_COPIED, 8);
	refuse("x.qcow2", -EINVAL, "L2 table");
}

static void test_switch_checks_the_overlay(void)
{
	struct err err = { 0 };
	struct qcow2 *disk;

	CHECK(!sh("qemu-img create -q -f qcow2 s0.qcow2 1M && qemu-img create -q -f qcow2 other.qcow2 1M && "
		  "qemu-img create -q -f qcow2 -b other.qcow2 -F qcow2 s1.qcow2 && "
		  "qemu-img create -q -f qcow2 -b s0.qcow2 -F qcow2 s2.qcow2 2M && "
		  "qemu-img create -q -f qcow2 -b s0.qcow2 -F qcow2 s3.qcow2"));
	disk = open_disk("s0.qcow2");
	fill(disk, 0, 65536, 1);
	CHECK(switch_to(disk, "absent.qcow2", &err) == -EINVAL && strstr(err.text, "missing"));
	CHECK(switch_to(disk, "s1.qcow2", &err) == -EINVAL && strstr(err.text, "does not build on"));
	CHECK(switch_to(disk, "s2.qcow2", &err) == -EINVAL && strstr(err.text, "as large"));
	fill(disk, 65536, 65536, 2);
	CHECK(!switch_to(disk, "s3.qcow2", &err));
	CHECK(!sh("cp s0.qcow2 s0.was"));
	fill(disk, 1000 * 512, 512, 3);
	CHECK(!request(disk, QCOW2_DISCARD, 0, NULL, 65536));
	CHECK(!request(disk, QCOW2_FLUSH, 0, NULL, 0));
	expect_bytes(disk, 0, 65536, 0);
	expect_bytes(disk, 65536, 65536, 2);
	CHECK(qcow2_written(disk) == 2 * 65536 + 512);
	qcow2_close(disk);
	CHECK(!sh("cmp s0.qcow2 s0.was && qemu-img check -q s3.qcow2"));
}

int main(void)
{
	scratch_dir(dir);
	/* Before there are threads, since it forks. */
	TEST(test_kill_leaves_no_errors);
	loop = loop_new();
	CHECK(loop);
	TEST(test_reads_what_it_wrote);
	TEST(test_out_of_range);
	TEST(test_discard_gives_space_back);
	TEST(test_random_on_raw);
	TEST(test_random_on_qcow2);
	TEST(test_refcounts_grow);
	TEST(test_no_space);
	TEST(test_refuses_compressed_clusters);
	TEST(test_refuses_damaged_refcounts);
	TEST(test_damaged_tables);
	TEST(test_switch_checks_the_overlay);
	loop_free(loop);
	return 0;
}
