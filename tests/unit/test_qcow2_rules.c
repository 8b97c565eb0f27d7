/* SPDX-License-Identifier: MIT */
/*
 * test_qcow2_rules.c - one set of rules for layers, whoever opens them
 *
 * Each row of a table is a layer that the store finds on disk. The store opens it (to list it, and to read it
 * as compaction, import and sbx-browse do), and so does sbx-vmm, with an overlay on it and from descriptors:
 * all accept it, or all refuse it, for the same reason.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "snap/qcow2/chain.h"
#include "snap/qcow2/create.h"
#include "snap/qcow2/disk.h"
#include "snap/qcow2/format.h"
#include "snap/store_priv.h"
#include "tests/unit/store_fixture.h"
#include "util/loop.h"

#define SIZE (64ull << 20)
/* Names of layers; $T and $B in the commands below are the first two. */
#define TOP "00000000000000000000000000000000.qcow2"
#define BOTTOM "11111111111111111111111111111111.raw"
#define OTHER "33333333333333333333333333333333"
#define OVERLAY "22222222222222222222222222222222.qcow2"

static struct loop *loop;
static struct store *store;

__attribute__((format(printf, 1, 2))) static void in_layers(const char *fmt, ...)
{
	char words[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(words, sizeof(words), fmt, ap);
	va_end(ap);
	shell("cd %s/layers && T=" TOP " && B=" BOTTOM " && { %s; }", dir, words);
}

struct rule {
	const char *make; /* a command that makes $T, on $B, which is there */
	struct {
		size_t offset, size;
		uint64_t value;
	} poke;            /* of size != 0: a number that is then put into it */
	const char *words; /* why it is refused; NULL: it is not */
};

#define PLAIN "qemu-img create -q -f qcow2 -b $B -F raw $T"
#define WITH(option) "qemu-img create -q -f qcow2 -o " option " $T 64M"
#define NAMED(name, format) "qemu-img create -q -u -f qcow2 -b '" name "' -F " format " $T 64M"
#define FIELD(field, v)                                                                                      \
	.poke = { .offset = offsetof(struct qcow2_header, field),                                            \
		  .size = sizeof(((struct qcow2_header *)0)->field),                                         \
		  .value = (v) }

static const struct rule rules[] = {
	{ .make = PLAIN },
	{ .make = "qemu-img create -q -f qcow2 $T 64M" },
	{ .make = PLAIN " && qemu-io -c 'write -P 5 1M 3M' -c 'write -z 8M 1M' -c 'discard 2M 1M' $T >&2" },
	/* its table may be larger than the disk needs */
	{ PLAIN " && truncate -s 256K $T", FIELD(l1_size, 100) },
	/* a compatible feature changes nothing for who does not know it */
	{ .make = WITH("lazy_refcounts=on") },

	/* features */
	{ WITH("compat=0.10"), .words = "version 2" },
	{ PLAIN " && qemu-img snapshot -c s $T", .words = "internal snapshots" },
	{ WITH("extended_l2=on,cluster_size=128k"), .words = "extended L2" },
	{ WITH("data_file=x.data"), .words = "external data file" },
	{ WITH("compression_type=zstd"), .words = "zstd" },
	{ WITH("refcount_bits=1"), .words = "16 bits" },
	{ WITH("cluster_size=512"), .words = "64 KiB" },
	{ WITH("cluster_size=4k"), .words = "64 KiB" },
	{ WITH("cluster_size=2M"), .words = "64 KiB" },
	{ PLAIN, FIELD(crypt_method, 1), "encryption" },
	{ PLAIN, FIELD(incompatible, QCOW2_INCOMPAT_DIRTY), "repair" },
	{ PLAIN, FIELD(incompatible, QCOW2_INCOMPAT_CORRUPT), "corrupt" },
	{ PLAIN, FIELD(incompatible, 1ull << 40), "later versions" },
	{ PLAIN, FIELD(autoclear, 1), "later versions" },

	/* headers */
	{ ": > $T", .words = "too short" },
	{ "head -c 65536 /dev/zero > $T", .words = "not a qcow2" },
	{ "mkfifo $T", .words = "not a regular file" },
	{ PLAIN, FIELD(cluster_bits, 8), "64 KiB" },
	{ PLAIN, FIELD(cluster_bits, UINT32_MAX), "64 KiB" },
	{ PLAIN, FIELD(size, 0), "not supported" },
	{ PLAIN, FIELD(size, SIZE + 1), "not supported" },
	{ PLAIN, FIELD(size, UINT64_MAX - 511), "not supported" },
	{ PLAIN, FIELD(l1_size, 0), "L1 table" },
	{ PLAIN, FIELD(l1_offset, 0), "L1 table" },
	{ PLAIN, FIELD(l1_offset, 1000), "L1 table" },
	{ PLAIN, FIELD(l1_offset, 1ull << 40), "L1 table" },
	{ PLAIN, FIELD(l1_offset, UINT64_MAX & ~0xffffull), "L1 table" },
	{ PLAIN, FIELD(reftable_offset, 0), "refcount table" },
	{ PLAIN, FIELD(reftable_offset, 1ull << 40), "refcount table" },
	{ PLAIN, FIELD(reftable_clusters, 0), "refcount table" },
	{ PLAIN, FIELD(reftable_clusters, UINT32_MAX), "refcount table" },
	{ PLAIN, FIELD(header_length, 103), "header of 103" },
	{ PLAIN, FIELD(header_length, UINT32_MAX), "header of" },
	{ PLAIN " && truncate -s 128K $T", .words = "L1 table" },

	/* what it builds on */
	{ NAMED("/etc/passwd", "raw"), .words = "name is not that of a layer" },
	{ NAMED("../" BOTTOM, "raw"), .words = "name is not that of a layer" },
	{ NAMED("sub/" BOTTOM, "raw"), .words = "name is not that of a layer" },
	{ NAMED("json:{}.raw", "raw"), .words = "name is not that of a layer" },
	{ NAMED("nbd:unix:x.raw", "raw"), .words = "name is not that of a layer" },
	{ NAMED("." BOTTOM, "raw"), .words = "name is not that of a layer" },
	{ NAMED("1.vmdk", "vmdk"), .words = "name is not that of a layer" },
	{ NAMED(BOTTOM, "qcow2"), .words = "is raw" },
	{ NAMED(OTHER ".qcow2", "raw"), .words = "is qcow2" },
	{ NAMED(BOTTOM, "vmdk"), .words = "is raw" },
	{ PLAIN, FIELD(backing_offset, 1ull << 40), "out of place" },
	{ PLAIN, FIELD(backing_offset, 8), "out of place" },
	{ PLAIN, FIELD(backing_size, 64), "out of place" },
	{ PLAIN, FIELD(backing_size, 0), "name is not that of a layer" },
	{ PLAIN, { 112, 4, 0x12345678 }, "is raw" }, /* the type of the first extension: the format */
	{ PLAIN, { 116, 4, 0x7fffffff }, "cut off" },
	{ NAMED(OTHER ".raw", "raw"), .words = "missing" },
	{ "ln -s $B " OTHER ".raw; " NAMED(OTHER ".raw", "raw"), .words = "cannot open" },
	{ "mkfifo " OTHER ".raw; " NAMED(OTHER ".raw", "raw"), .words = "not a regular file" },
	{ NAMED(OTHER ".qcow2", "qcow2") " && qemu-img create -q -u -f qcow2 -b $T -F qcow2 " OTHER
					 ".qcow2 64M",
	  .words = "layers below it" },
	{ "truncate -s 32M $B && qemu-img create -q -f qcow2 -b $B -F raw $T 64M", .words = "the size of" },
	{ "truncate -s 128M $B && qemu-img create -q -f qcow2 -b $B -F raw $T 64M", .words = "the size of" },
};

static void make(const struct rule *rule)
{
	uint8_t be[8];
	size_t i;
	int fd;

	in_layers("rm -rf * && truncate -s 64M $B && { %s; } 2>/dev/null", rule->make);
	if (!rule->poke.size)
		return;
	for (i = 0; i < rule->poke.size; i++)
		be[i] = (uint8_t)(rule->poke.value >> 8 * (rule->poke.size - 1 - i));
	fd = openat(store->layers_fd, TOP, O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0 && !pwrite_all(fd, be, rule->poke.size, rule->poke.offset));
	close(fd);
}

/* ---- who opens layers; each returns 0 or an error with the reason */

static int store_lists_it(const char *file, struct err *err)
{
	struct layer *layer = NULL;
	int rc = layer_open(store, file, &layer, err);

	/* As long as the store is being closed files stay. */
	store->keep_files = true;
	layer_unref(layer);
	store->keep_files = false;
	return rc;
}

static int store_reads_it(const char *file, struct err *err)
{
	struct chain *chain = NULL;
	char block[512];
	int rc = chain_open(store->layers_fd, file, false, &chain, err);

	if (!rc)
		rc = chain_read(chain, block, sizeof(block), 0, err);
	chain_free(chain);
	return rc;
}

/* The daemon opens by name, the process gets descriptors; the names in the files say which is which. */
static int vmm_opens_it(const char *file, struct err *err)
{
	struct chain *named = NULL, *chain = NULL;
	int fds[QCOW2_CHAIN_MAX], rc = chain_open(store->layers_fd, file, true, &named, err);
	struct qcow2 *disk = NULL;
	unsigned i, n;

	if (rc)
		return rc;
	n = chain_length(named);
	for (i = 0; i < n; i++)
		fds[i] = dup(chain_fd(named, i));
	chain_free(named);
	rc = chain_adopt(file, fds, n, true, &chain, err);
	if (!rc)
		rc = qcow2_open(loop, chain, &disk, err);
	if (!disk)
		chain_free(chain);
	for (i = 0; !chain && i < n; i++)
		close(fds[i]);
	qcow2_close(disk);
	return rc;
}

/* sbx-vmm never writes a layer but the overlay on it. */
static void put_overlay(const char *on)
{
	int fd = openat(store->layers_fd, OVERLAY, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && !qcow2_create_overlay(fd, SIZE, on, NULL) && !close(fd));
}

static const struct {
	const char *who;
	int (*open)(const char *file, struct err *err);
	const char *file;
} openers[] = {
	{ "the store's list", store_lists_it, TOP },
	{ "the store's reader", store_reads_it, TOP },
	{ "the store's reader, with an overlay", store_reads_it, OVERLAY },
	{ "sbx-vmm", vmm_opens_it, OVERLAY },
};

static void what_one_accepts_all_accept(void)
{
	unsigned i, k;

	for (i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
		const struct rule *rule = &rules[i];

		make(rule);
		put_overlay(TOP);
		for (k = 0; k < sizeof(openers) / sizeof(openers[0]); k++) {
			struct err err = { 0 };
			int rc = openers[k].open(openers[k].file, &err);

			if (rule->words ? !rc || !strstr(err.text, rule->words) : rc) {
				fprintf(stderr, "%s (offset %zu): %s says \"%s\"\n", rule->make,
					rule->poke.offset, openers[k].who, rc ? err.text : "fine");
				CHECK(false);
			}
		}
	}
}

/* A chain of n files, on BOTTOM; the name of its top. */
static const char *deep_chain(unsigned n)
{
	static char file[LAYER_FILE_MAX], below[LAYER_FILE_MAX];
	unsigned i;
	int fd;

	in_layers("rm -rf * && truncate -s 64M $B");
	snprintf(below, sizeof(below), "%s", BOTTOM);
	for (i = 1; i < n; i++) {
		snprintf(file, sizeof(file), "%032x.qcow2", i);
		fd = openat(store->layers_fd, file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		CHECK(fd >= 0 && !qcow2_create_overlay(fd, SIZE, below, NULL) && !close(fd));
		snprintf(below, sizeof(below), "%s", file);
	}
	return file;
}

static void a_chain_has_one_limit(void)
{
	const char *top = deep_chain(QCOW2_CHAIN_MAX);
	struct layer *layer, *overlay;
	struct err err = { 0 };

	CHECK(!store_lists_it(top, &err) && !store_reads_it(top, &err) && !vmm_opens_it(top, &err));
	/* The store makes none that cannot be opened. */
	CHECK(!layer_open(store, top, &layer, &err));
	CHECK(layer_overlay(store, layer, &overlay, &err) == -EBUSY && strstr(err.text, "merged"));
	/* One more, made by somebody else: also when the store knows those below. */
	put_overlay(top);
	CHECK(store_lists_it(OVERLAY, &err) == -EINVAL && strstr(err.text, "layers below it"));
	store->keep_files = true;
	layer_unref(layer);
	store->keep_files = false;
	CHECK(store_lists_it(OVERLAY, &err) == -EINVAL && strstr(err.text, "layers below it"));
	CHECK(store_reads_it(OVERLAY, &err) == -EINVAL && strstr(err.text, "layers below it"));
	CHECK(vmm_opens_it(OVERLAY, &err) == -EINVAL && strstr(err.text, "layers below it"));
}

/* Descriptors that are not the chain they are said to be. */
static void descriptors_are_checked(void)
{
	struct chain *named = NULL, *chain = NULL;
	struct err err = { 0 };
	int fds[4];
	unsigned i;

	CHECK(!chain_open(store->layers_fd, deep_chain(4), true, &named, &err) && chain_length(named) == 4);
	for (i = 0; i < 4; i++)
		fds[i] = chain_fd(named, i);
	CHECK(chain_adopt(chain_file(named, 0), fds, 3, true, &chain, &err) == -EINVAL);
	CHECK(strstr(err.text, BOTTOM) && strstr(err.text, "not handed over"));
	CHECK(chain_adopt(chain_file(named, 0), fds, 0, true, &chain, &err) == -EINVAL);
	fds[2] = fds[3]; /* a raw file where a layer belongs */
	CHECK(chain_adopt(chain_file(named, 0), fds, 4, true, &chain, &err) == -EINVAL);
	CHECK(strstr(err.text, "not a qcow2 file"));
	CHECK(chain_adopt("../x", fds, 4, true, &chain, &err) == -EINVAL);
	CHECK(chain_adopt(BOTTOM, fds + 3, 1, true, &chain, &err) == -EINVAL &&
	      strstr(err.text, "only be read"));
	/* Refused ones stay the caller's: they can still be read. */
	for (i = 0; i < 4; i++)
		CHECK(fcntl(chain_fd(named, i), F_GETFD) >= 0);
	chain_free(named);
}

int main(void)
{
	store = fresh_store();
	loop = loop_new();
	CHECK(loop);
	TEST(what_one_accepts_all_accept);
	TEST(a_chain_has_one_limit);
	TEST(descriptors_are_checked);
	loop_free(loop);
	drop_store(store);
	return 0;
}
