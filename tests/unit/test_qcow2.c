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
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

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
	char cmd[1024];
	va_list ap;
	int n;

	n = snprintf(cmd, sizeof(cmd), "cd %s && ", dir);
	va_start(ap, fmt);
	vsnprintf(cmd + n, sizeof(cmd) - (size_t)n, fmt, ap);
	va_end(ap);
	n = system(cmd);
	return WIFEXITED(n) ? WEXITSTATUS(n) : -1;
}

static const char *path(const char *name)
{
	static char buf[2][256];
	static int i;

	i = !i;
	snprintf(buf[i], sizeof(buf[i]), "%s/%s", dir, name);
	return buf[i];
}

static struct qcow2 *open_disk(const char *name)
{
	struct qcow2 *disk = NULL;
	struct err err = { 0 };

	if (qcow2_open(loop, path(name), true, &disk, &err))
		fprintf(stderr, "%s\n", err.text);
	CHECK(disk);
	return disk;
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
	CHECK(!qcow2_open(loop, path("a.qcow2"), false, &ro, NULL));
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

enum { MODEL_SIZE = 12 << 20, SLOTS = 6 };

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
static void model_discard(uint64_t offset, uint64_t len, uint64_t cluster)
{
	const uint64_t start = (offset + cluster - 1) / cluster * cluster;
	uint64_t end = (offset + len) / cluster * cluster;

	if (offset + len == MODEL_SIZE)
		end = MODEL_SIZE;
	if (start < end)
		memset(model + start, 0, end - start);
}

static void start_random(struct qcow2 *disk, struct slot *slots, struct slot *s, uint64_t cluster)
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
		model_discard(s->offset, s->len, cluster);
	}
	s->busy = true;
	CHECK(!qcow2_submit(disk, s->op, s->offset, s->len, s->iov, 3, slot_done, s));
}

static void random_requests(struct qcow2 *disk, unsigned n, uint64_t cluster)
{
	struct slot slots[SLOTS] = { 0 };
	unsigned i;

	for (i = 0; i < n; i++) {
		struct slot *s = &slots[rnd(SLOTS)];

		while (s->busy)
			CHECK(!loop_once(loop, -1));
		start_random(disk, slots, s, cluster);
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

static void model_and_base(const char *base_format)
{
	uint64_t i;
	FILE *f;

	/* The base is shorter than the disk and ends inside a cluster. */
	memset(model, 0, sizeof(model));
	for (i = 0; i < 5 * 1000 * 1024; i++)
		if (i / 65536 % 3)
			model[i] = (uint8_t)(i / 512 * 31);
	f = fopen(path("base.raw"), "w");
	CHECK(f && fwrite(model, 1, 5 * 1000 * 1024, f) == 5 * 1000 * 1024 && !fclose(f));
	CHECK(!sh("qemu-img convert -O %s base.raw base", base_format));
}

static void random_chain(const char *base_format, unsigned cluster, unsigned captures)
{
	struct qcow2 *disk;
	char name[32], was[32];
	unsigned i;

	model_and_base(base_format);
	CHECK(!sh("qemu-img create -q -f qcow2 -o cluster_size=%u -b base -F %s r0 %d", cluster, base_format,
		  MODEL_SIZE));
	disk = open_disk("r0");
	for (i = 0; i <= captures; i++) {
		snprintf(name, sizeof(name), "r%u", i);
		if (i) {
			snprintf(was, sizeof(was), "r%u", i - 1);
			CHECK(!sh("qemu-img create -q -f qcow2 -o cluster_size=%u -b %s -F qcow2 %s", cluster,
				  was, name));
			CHECK(!qcow2_switch(disk, path(name), NULL));
		}
		random_requests(disk, 1200 / (captures + 1), cluster);
		/* Nothing is written at a close, so the file is as good while it is open. */
		compare_with_model(name);
	}
	qcow2_close(disk);
	disk = open_disk(name);
	random_requests(disk, 100, cluster);
	qcow2_close(disk);
	compare_with_model(name);
}

static void test_random_on_raw(void)
{
	random_chain("raw", 65536, 0);
}

static void test_random_on_qcow2(void)
{
	random_chain("qcow2", 65536, 5);
}

static void test_random_small_clusters(void)
{
	/* 512: the refcount table is full after 8 MiB and must move. */
	random_chain("qcow2", 512, 2);
	random_chain("raw", 4096, 3);
}

static void test_random_large_clusters(void)
{
	random_chain("raw", 2 << 20, 2);
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
		start_random(disk, slots, s, 65536);
	}
}

static void test_kill_leaves_no_errors(void)
{
	const unsigned clusters[] = { 65536, 512, 4096 };
	unsigned round;
	int status, rc;
	pid_t pid;

	for (round = 0; round < 24; round++) {
		if (round % 6 == 0) {
			model_and_base("raw");
			CHECK(!sh("qemu-img create -q -f qcow2 -o cluster_size=%u -b base -F raw k %d",
				  clusters[round / 6 % 3], MODEL_SIZE));
		}
		pid = fork();
		CHECK(pid >= 0);
		if (!pid)
			write_until_killed("k");
		/* No moment is special: this only spreads the kills. */
		usleep((useconds_t)(20000 + rnd(60000)));
		CHECK(!kill(pid, SIGKILL));
		CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
		/* 3: leaks only */
		rc = sh("qemu-img check -q k >check.out 2>&1");
		if (rc != 0 && rc != 3)
			sh("cat check.out >&2");
		CHECK(rc == 0 || rc == 3);
	}
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

/* ---- files that must be refused */

static void refuse(const char *name, int code, const char *words)
{
	struct qcow2 *disk = NULL;
	struct err err = { 0 };

	CHECK(qcow2_open(loop, path(name), true, &disk, &err) == code);
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

#define POKE(field, value)                                                                                   \
	poke("x", offsetof(struct qcow2_header, field), value, sizeof(((struct qcow2_header *)0)->field))

static void fresh(void)
{
	CHECK(!sh("qemu-img create -q -f qcow2 x 64M"));
}

static void test_refuses_features(void)
{
	CHECK(!sh("qemu-img create -q -f qcow2 -o compat=0.10 x 1M"));
	refuse("x", -ENOTSUP, "version 2");
	fresh();
	CHECK(!sh("qemu-img snapshot -c s x"));
	refuse("x", -ENOTSUP, "internal snapshots");
	CHECK(!sh("qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=128k x 1M"));
	refuse("x", -ENOTSUP, "extended L2");
	CHECK(!sh("qemu-img create -q -f qcow2 -o data_file=x.data x 1M"));
	refuse("x", -ENOTSUP, "external data file");
	CHECK(!sh("qemu-img create -q -f qcow2 -o compression_type=zstd x 1M"));
	refuse("x", -ENOTSUP, "zstd");
	fresh();
	POKE(crypt_method, 1);
	refuse("x", -ENOTSUP, "encryption");
	fresh();
	POKE(incompatible, 1ull << 40);
	refuse("x", -ENOTSUP, "later versions");
	fresh();
	POKE(incompatible, QCOW2_INCOMPAT_CORRUPT);
	refuse("x", -EINVAL, "corrupt");
	CHECK(!sh("qemu-img create -q -f qcow2 -o refcount_bits=1 x 1M"));
	refuse("x", -ENOTSUP, "refcounts");
}

static void test_refuses_compressed_clusters(void)
{
	struct qcow2 *disk;
	char buf[512];

	CHECK(!sh("yes | head -c 1048576 > y.raw && qemu-img convert -c -O qcow2 y.raw x"));
	disk = open_disk("x");
	CHECK(request(disk, QCOW2_READ, 0, buf, sizeof(buf)) == -ENOTSUP);
	CHECK(request(disk, QCOW2_WRITE, 0, buf, sizeof(buf)) == -ENOTSUP);
	qcow2_close(disk);
}

static void test_refuses_damaged_headers(void)
{
	CHECK(!sh("rm -f x && : > x"));
	refuse("x", -EINVAL, "too short");
	CHECK(!sh("head -c 65536 /dev/zero > x"));
	refuse("x", -EINVAL, "not a qcow2");
	fresh();
	POKE(cluster_bits, 8);
	refuse("x", -EINVAL, "clusters of");
	fresh();
	POKE(cluster_bits, 22);
	refuse("x", -EINVAL, "clusters of");
	fresh();
	POKE(size, UINT64_MAX);
	refuse("x", -EINVAL, "too large");
	fresh();
	POKE(l1_size, 0);
	refuse("x", -EINVAL, "L1 table");
	fresh();
	POKE(l1_offset, 1ull << 40);
	refuse("x", -EINVAL, "L1 table");
	fresh();
	POKE(l1_offset, 1000);
	refuse("x", -EINVAL, "L1 table");
	fresh();
	POKE(l1_offset, 65536);
	refuse("x", -EINVAL, "overlaps");
	fresh();
	POKE(reftable_clusters, UINT32_MAX);
	refuse("x", -EINVAL, "refcount table");
	fresh();
	POKE(reftable_offset, 0);
	refuse("x", -EINVAL, "refcount table");
	fresh();
	poke("x", 65536, 65536, 8); /* the table's first block: the table itself */
	refuse("x", -EINVAL, "not counted");
	fresh();
	poke("x", 65536 + 8, 131072, 8); /* the same block twice */
	refuse("x", -EINVAL, "overlaps");
}

static void test_refuses_backing_files(void)
{
	const char *names[] = { "/etc/passwd", "../secret", "sub/file", "..", "json:{}", "nbd:unix:/x" };
	unsigned i;

	fresh();
	CHECK(!sh("qemu-img create -q -f raw r 1M && ln -sf r link && mkfifo fifo"));
	for (i = 0; i < sizeof(names) / sizeof(*names); i++) {
		CHECK(!sh("qemu-img create -q -u -f qcow2 -b '%s' -F raw x 1M", names[i]));
		refuse("x", -EINVAL, "not a name");
	}
	CHECK(!sh("qemu-img create -q -u -f qcow2 -b link -F raw x 1M"));
	refuse("x", -ELOOP, "link");
	CHECK(!sh("qemu-img create -q -u -f qcow2 -b fifo -F raw x 1M"));
	refuse("x", -EINVAL, "not a regular file");
	CHECK(!sh("qemu-img create -q -u -f qcow2 -b absent -F raw x 1M"));
	refuse("x", -ENOENT, "absent");
	CHECK(!sh("qemu-img create -q -u -f qcow2 -b r -F vmdk x 1M"));
	refuse("x", -ENOTSUP, "neither raw nor qcow2");
	CHECK(!sh("qemu-img create -q -u -f qcow2 -b r -F raw x 1M"));
	poke("x", 112, 0x12345678, 4); /* the type of the first header extension: the format */
	refuse("x", -EINVAL, "what format");
	CHECK(!sh("qemu-img create -q -u -f qcow2 -b x -F qcow2 x2 1M && mv x2 x"));
	refuse("x", -ELOOP, "more than");
	CHECK(!sh("qemu-img create -q -u -f qcow2 -b r -F raw x 1M"));
	POKE(backing_offset, 1ull << 40);
	refuse("x", -EINVAL, "misplaced");
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
		disk = open_disk("x");
		fill(disk, 0, 65536, 1);
		qcow2_close(disk);
		/* L2 table: cluster 4; its first entry */
		poke("x", 4 * 65536, bad[i] | QCOW2_COPIED, 8);
		disk = open_disk("x");
		rc = request(disk, QCOW2_READ, 0, buf, sizeof(buf));
		CHECK(rc == 0 || rc == -EIO || rc == -EINVAL);
		/* A write never lands on metadata. */
		memset(buf, 0xff, sizeof(buf));
		(void)request(disk, QCOW2_WRITE, 0, buf, sizeof(buf));
		(void)request(disk, QCOW2_DISCARD, 0, NULL, 65536);
		qcow2_close(disk);
		disk = open_disk("x");
		qcow2_close(disk);
	}
	fresh();
	poke("x", 3 * 65536, 1ull << 40 | QCOW2_COPIED, 8);
	refuse("x", -EINVAL, "L2 table");
}

static void test_switch_checks_the_overlay(void)
{
	struct err err = { 0 };
	struct qcow2 *disk;

	CHECK(!sh("qemu-img create -q -f qcow2 s0 1M && qemu-img create -q -f qcow2 other 1M && "
		  "qemu-img create -q -f qcow2 -b other -F qcow2 s1 && "
		  "qemu-img create -q -f qcow2 -b s0 -F qcow2 s2 2M && "
		  "qemu-img create -q -f qcow2 -b s0 -F qcow2 s3"));
	disk = open_disk("s0");
	fill(disk, 0, 65536, 1);
	CHECK(qcow2_switch(disk, path("absent"), &err) == -ENOENT);
	CHECK(qcow2_switch(disk, path("s1"), &err) == -EINVAL && strstr(err.text, "does not build on"));
	CHECK(qcow2_switch(disk, path("s2"), &err) == -EINVAL && strstr(err.text, "as large"));
	fill(disk, 65536, 65536, 2);
	CHECK(!qcow2_switch(disk, path("s3"), &err));
	CHECK(!sh("cp s0 s0.was"));
	fill(disk, 1000 * 512, 512, 3);
	CHECK(!request(disk, QCOW2_DISCARD, 0, NULL, 65536));
	CHECK(!request(disk, QCOW2_FLUSH, 0, NULL, 0));
	expect_bytes(disk, 0, 65536, 0);
	expect_bytes(disk, 65536, 65536, 2);
	CHECK(qcow2_written(disk) == 2 * 65536 + 512);
	qcow2_close(disk);
	CHECK(!sh("cmp s0 s0.was && qemu-img check -q s3"));
}

int main(void)
{
	CHECK(mkdtemp(dir));
	/* Before there are threads, since it forks. */
	TEST(test_kill_leaves_no_errors);
	loop = loop_new();
	CHECK(loop);
	TEST(test_reads_what_it_wrote);
	TEST(test_out_of_range);
	TEST(test_discard_gives_space_back);
	TEST(test_random_on_raw);
	TEST(test_random_on_qcow2);
	TEST(test_random_small_clusters);
	TEST(test_random_large_clusters);
	TEST(test_no_space);
	TEST(test_refuses_features);
	TEST(test_refuses_compressed_clusters);
	TEST(test_refuses_damaged_headers);
	TEST(test_refuses_backing_files);
	TEST(test_damaged_tables);
	TEST(test_switch_checks_the_overlay);
	loop_free(loop);
	CHECK(!sh("rm -r %s", dir));
	return 0;
}
