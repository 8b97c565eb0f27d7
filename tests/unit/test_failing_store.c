/* SPDX-License-Identifier: MIT */
/* test_failing_store.c - the store when the system refuses what it asks for */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/archive_transfer.h"
#include "snap/compact.h"
#include "snap/image.h"
#include "snap/qcow2/chain.h"
#include "snap/qcow2/disk.h"
#include "snap/ramimage.h"
#include "snap/store_priv.h"
#include "tests/unit/failing.h"
#include "tests/unit/unit.h"
#include "util/io.h"
#include "util/log.h"

enum { MIB = 1 << 20, RAM_BYTES = 4 * RAMIMAGE_BLOCK, DISK = 1 * MIB };

static char root[] = "/tmp/sbx-failing-XXXXXX", dir[64], raw[64], stream[64];

/* A result and its sentence. */
static void check(int rc, const struct err *err)
{
	if (rc && rc == -EIO)
		fprintf(stderr, "%s\n", err->text);
	CHECK(failing_excuses(rc));
	CHECK(rc == err->code && !rc == !err->text[0]);
}

static unsigned files(void)
{
	char command[256];
	unsigned n;
	FILE *pipe;

	snprintf(command, sizeof(command), "find %s | wc -l", dir);
	pipe = popen(command, "r"); /* NOLINT(cert-env33-c): a test's own words */
	CHECK(pipe && fscanf(pipe, "%u", &n) == 1);
	pclose(pipe);
	return n;
}

static int memfd(unsigned seed, size_t size, size_t changed)
{
	uint8_t page[RAM_PAGE];
	int fd = memfd_new("test", size);

	CHECK(fd >= 0);
	for (size_t at = 0; at < size; at += sizeof(page)) {
		memset(page, (int)(at < changed ? seed + 1 : seed), sizeof(page));
		page[at / RAM_PAGE % RAM_PAGE] = 77;
		if (at / RAMIMAGE_BLOCK != 2) /* zeroes */
			CHECK(!pwrite_all(fd, page, sizeof(page), at));
	}
	return fd;
}

static struct template *machine(struct layer *disk, unsigned seed, size_t changed)
{
	struct template *template = template_new();

	CHECK(template);
	snprintf(template->engine, sizeof(template->engine), "test");
	template->shape = (struct shape){ RAM_BYTES, RAM_BYTES, 1, 1, "" };
	template->ram_fd = memfd(seed, RAM_BYTES, changed);
	template->ram_size = RAM_BYTES;
	template->state_fd = memfd(3, RAM_PAGE, 0);
	template->disk = layer_ref(disk);
	return template;
}

static struct store *store;

static void open_store(void)
{
	struct err err = { 0 };

	CHECK(!store_open(dir, &store, &err));
}

static void close_store(void)
{
	store_close(store);
	store = NULL;
}

static struct layer *new_layer(struct layer *base)
{
	struct err err = { 0 };
	struct layer *layer;

	CHECK(!layer_overlay(store, base, &layer, &err));
	layer_freeze(layer);
	return layer;
}

static int save(const char *name, const char *parent, struct template *template, struct err *err)
{
	struct snapshot_meta meta = { .created = 1 };
	struct save *work;
	int rc;

	snprintf(meta.name, sizeof(meta.name), "%s", name);
	snprintf(meta.parent, sizeof(meta.parent), "%s", parent);
	meta.env = (struct buf){ .data = (uint8_t *)(uintptr_t) "A=1\n", .len = 4 };
	meta.requires = (struct buf){ .data = (uint8_t *)(uintptr_t) "cpu avx2\n", .len = 9 };
	rc = snapshot_save_begin(store, &meta, template, NULL, &work, err);
	return rc ? rc : snapshot_save_end(work, snapshot_save_run(work), err);
}

static int load(const char *name, struct template **ret, struct err *err)
{
	struct visit *work;
	int rc = snapshot_load_begin(store, name, NULL, &work, err);

	return rc ? rc : snapshot_load_end(work, snapshot_visit_run(work), ret, err);
}

static int verify(const char *name, struct err *err)
{
	struct visit *work;
	int rc = snapshot_verify_begin(store, name, NULL, &work, err);

	return rc ? rc : snapshot_verify_end(work, snapshot_visit_run(work), err);
}

static int export_to(int fd, const char *name, const char *since, struct err *err)
{
	struct export *work;
	int rc = archive_export_begin(store, name, since, NULL, &work, err);

	return rc ? rc : archive_export_end(work, archive_export_run(work, fd), err);
}

static int import_from(int fd, const char *name, struct err *err)
{
	struct import *work;
	int rc = archive_import_begin(store, name, NULL, NULL, &work, err);

	return rc ? rc : archive_import_end(work, archive_import_run(work, fd), err);
}

static void whole(const char *name)
{
	struct err err = { 0 };

	if (verify(name, &err))
		fprintf(stderr, "%s: %s\n", name, err.text);
	CHECK(!err.code);
}

/* An image, "one" and its child "two" on a chain of two layers: all that is there before a body runs. */
static void make_store(void)
{
	struct err err = { 0 };
	struct template *template;
	struct layer *lower, *upper;
	struct image image;
	uint8_t block[4096];
	int fd = open(raw, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && !ftruncate(fd, DISK));
	memset(block, 7, sizeof(block));
	CHECK(!pwrite_all(fd, block, sizeof(block), DISK / 2));
	close(fd);
	CHECK(!image_publish(dir, "base", raw, "test", &err));
	open_store();
	CHECK(!image_get(store, "base", &image, &err));
	lower = new_layer(image.disk);
	upper = new_layer(lower);
	template = machine(lower, 1, 0);
	CHECK(!save("one", "", template, &err));
	template_unref(template);
	template = machine(upper, 1, RAMIMAGE_BLOCK);
	CHECK(!save("two", "one", template, &err));
	template_unref(template);
	layer_unref(upper);
	layer_unref(lower);
	image_release(&image);
	close_store();
}

static unsigned before;

/* All that was there is there, and nothing else. */
static void nothing_changed(void)
{
	close_store();
	open_store();
	whole("one");
	whole("two");
	close_store();
	CHECK(files() == before);
}

static void a_store_opens_or_does_not(void)
{
	struct err err = { 0 };
	uint64_t freed;
	int rc = MAY_FAIL(store_open(dir, &store, &err));

	check(rc, &err);
	if (rc) {
		open_store();
	} else {
		check(MAY_FAIL(store_gc(store, &freed, &err)), &err);
	}
	nothing_changed();
}

static void a_snapshot_is_saved_or_not(void)
{
	struct err err = { 0 };
	struct layer *disk, *top;
	struct template *template;
	int rc;

	open_store();
	CHECK(!snapshot_disk(store, "two", &disk, &err));
	top = new_layer(disk);
	template = machine(top, 1, 2 * RAMIMAGE_BLOCK);
	rc = MAY_FAIL(save("three", "two", template, &err));
	check(rc, &err);
	template_unref(template);
	layer_unref(top);
	layer_unref(disk);
	if (!rc) {
		whole("three");
		close_store();
		open_store();
		whole("three");
		CHECK(!snapshot_remove(store, "three", &err));
	}
	nothing_changed();
}

static void a_snapshot_is_loaded_or_not(void)
{
	struct err err = { 0 };
	struct template *template = NULL;
	int rc, fd;
	uint8_t a[RAM_PAGE], b[RAM_PAGE];

	open_store();
	rc = MAY_FAIL(load("two", &template, &err));
	check(rc, &err);
	CHECK(!rc == !!template);
	if (!rc) {
		fd = memfd(1, RAM_BYTES, RAMIMAGE_BLOCK);
		for (size_t at = 0; at < RAM_BYTES; at += RAM_PAGE) {
			CHECK(!pread_all(fd, a, RAM_PAGE, at) &&
			      !pread_all(template->ram_fd, b, RAM_PAGE, at));
			CHECK(!memcmp(a, b, RAM_PAGE));
		}
		close(fd);
		template_unref(template);
	}
	nothing_changed();
}

static void a_snapshot_is_checked_or_not(void)
{
	struct err err = { 0 };

	open_store();
	check(MAY_FAIL(verify("two", &err)), &err);
	nothing_changed();
}

static void a_snapshot_is_described_or_not(void)
{
	struct err err = { 0 };
	struct snapshot_meta meta = { 0 };
	struct image image = { 0 };
	int rc;

	open_store();
	rc = MAY_FAIL(snapshot_get(store, "two", &meta, &err));
	check(rc, &err);
	CHECK(rc || (!strcmp(meta.parent, "one") && meta.env.len == 4 && meta.requires.len == 9));
	snapshot_meta_release(&meta);
	err = (struct err){ 0 };
	rc = MAY_FAIL(image_get(store, "base", &image, &err));
	check(rc, &err);
	CHECK(rc || image.size == DISK);
	image_release(&image);
	nothing_changed();
}

static void a_snapshot_is_renamed_and_removed_or_not(void)
{
	struct err err = { 0 };
	struct snapshot_meta meta = { 0 };
	struct template *template;
	struct layer *disk, *top;
	const char *name = "three";
	int rc;

	open_store();
	CHECK(!snapshot_disk(store, "one", &disk, &err));
	top = new_layer(disk);
	template = machine(top, 1, 2 * RAMIMAGE_BLOCK);
	CHECK(!save(name, "one", template, &err));
	template_unref(template);
	layer_unref(top);
	layer_unref(disk);
	rc = MAY_FAIL(snapshot_rename(store, name, "four", &err));
	check(rc, &err);
	if (!rc)
		name = "four";
	err = (struct err){ 0 };
	rc = MAY_FAIL(snapshot_remove(store, name, &err));
	check(rc, &err);
	err = (struct err){ 0 };
	CHECK(snapshot_get(store, name, &meta, &err) == (rc ? 0 : -ENOENT));
	snapshot_meta_release(&meta);
	if (rc)
		CHECK(!snapshot_remove(store, name, &err));
	nothing_changed();
}

static void an_archive_is_written_or_not(void)
{
	struct err err = { 0 };
	int fd = open(stream, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), rc;

	CHECK(fd >= 0);
	open_store();
	rc = MAY_FAIL(export_to(fd, "two", NULL, &err));
	check(rc, &err);
	err = (struct err){ 0 };
	CHECK(!ftruncate(fd, 0) && !lseek(fd, 0, SEEK_SET));
	rc = MAY_FAIL(export_to(fd, "two", "one", &err)); /* which is read next */
	check(rc, &err);
	close(fd);
	nothing_changed();
}

static void an_archive_is_read_or_not(void)
{
	struct err err = { 0 };
	int fd = open(stream, O_RDONLY | O_CLOEXEC), rc;

	CHECK(fd >= 0);
	open_store();
	rc = MAY_FAIL(import_from(fd, "three", &err));
	check(rc, &err);
	close(fd);
	if (!rc) {
		whole("three");
		CHECK(!snapshot_remove(store, "three", &err));
	}
	nothing_changed();
}

static int compact(struct err *err)
{
	struct compact *work = NULL;
	int rc = compact_begin(store, 1, NULL, &work, err);

	return rc || !work ? rc : compact_end(work, compact_run(work), err);
}

static void a_chain_is_made_shorter_or_not(void)
{
	struct err err = { 0 };
	struct layer *disk, *top, *topmost;
	struct template *template;
	int rc;

	open_store();
	CHECK(!snapshot_disk(store, "two", &disk, &err));
	top = new_layer(disk);
	topmost = new_layer(top);
	template = machine(topmost, 1, 2 * RAMIMAGE_BLOCK);
	CHECK(!save("three", "two", template, &err));
	rc = MAY_FAIL(compact(&err));
	check(rc, &err);
	compact_settle(store);
	whole("three");
	template_unref(template);
	layer_unref(topmost);
	layer_unref(top);
	layer_unref(disk);
	close_store();
	open_store();
	whole("one");
	whole("two");
	whole("three");
	CHECK(!snapshot_remove(store, "three", &err));
	close_store();
	open_store();
	close_store();
	/* The chain of "one" and "two" may have been made shorter, by no file. */
	CHECK(files() == before);
}

static void an_image_is_published_or_not(void)
{
	struct err err = { 0 };
	int rc = MAY_FAIL(image_publish(dir, "other", raw, "test", &err));

	check(rc, &err);
	if (!rc)
		CHECK(!image_remove(dir, "other", &err));
	open_store();
	nothing_changed();
}

static unsigned seen;

static void see(void *arg, const struct image *image)
{
	(void)arg;
	CHECK(!strcmp(image->name, "base"));
	seen++;
}

static void images_are_listed_or_not(void)
{
	struct err err = { 0 };
	int rc;

	seen = 0;
	rc = MAY_FAIL(image_each(dir, see, NULL, &err));
	check(rc, &err);
	CHECK(rc || seen == 1);
	open_store();
	nothing_changed();
}

static void an_image_is_removed_or_not(void)
{
	struct err err = { 0 };
	int rc;

	CHECK(!image_publish(dir, "other", raw, "test", &err));
	rc = MAY_FAIL(image_remove(dir, "other", &err));
	check(rc, &err);
	if (rc)
		CHECK(!image_remove(dir, "other", &err));
	open_store();
	nothing_changed();
}

static void a_chain_is_read_or_not(void)
{
	struct err err = { 0 };
	struct chain *chain = NULL;
	struct layer *disk;
	uint8_t block[4096] = { 0 };
	int rc;

	open_store();
	CHECK(!snapshot_disk(store, "two", &disk, &err));
	rc = MAY_FAIL(chain_open(store->layers_fd, disk->file, false, &chain, &err));
	check(rc, &err);
	if (!rc) {
		rc = MAY_FAIL(chain_read(chain, block, sizeof(block), DISK / 2, &err));
		check(rc, &err);
		CHECK(rc || (block[0] == 7 && block[4095] == 7));
		chain_free(chain);
	}
	layer_unref(disk);
	nothing_changed();
}

static int results[4];

static void on_result(void *arg, int result)
{
	*(int *)arg = result;
}

static int ask(struct qcow2 *disk, enum qcow2_op op, uint64_t at, void *data, size_t n, int *ret)
{
	const struct iovec iov = { data, n };
	int rc;

	*ret = 1;
	rc = qcow2_submit(disk, op, at, n, &iov, op <= QCOW2_WRITE, on_result, ret);
	if (!rc)
		qcow2_drain(disk);
	return rc ? rc : *ret;
}

static int open_disk(struct loop *loop, const struct layer *layer, struct qcow2 **ret, struct err *err)
{
	struct chain *chain;
	int rc = chain_open(store->layers_fd, layer->file, true, &chain, err);

	if (rc)
		return rc;
	rc = qcow2_open(loop, chain, ret, err);
	if (rc)
		chain_free(chain);
	return rc;
}

static int switch_disk(struct qcow2 *disk, const struct layer *layer, struct err *err)
{
	int fd = openat(store->layers_fd, layer->file, O_RDWR | O_CLOEXEC), rc;

	if (fd < 0)
		return err_sys(err, -errno, "cannot open %s", layer->file);
	rc = qcow2_switch(disk, layer->file, fd, err);
	if (rc)
		close(fd);
	return rc;
}

/* A machine's disk: opened, written, moved onto a fresh overlay, and read back. */
static void a_disk_is_written_or_not(void)
{
	static uint8_t data[65536], back[65536];
	struct loop *loop = loop_new();
	struct err err = { 0 };
	struct qcow2 *disk = NULL;
	struct layer *base, *first, *second;
	int wrote = -1, rc;

	CHECK(loop);
	memset(data, 42, sizeof(data));
	open_store();
	CHECK(!snapshot_disk(store, "two", &base, &err));
	CHECK(!layer_overlay(store, base, &first, &err));
	rc = MAY_FAIL(open_disk(loop, first, &disk, &err));
	check(rc, &err);
	if (!rc) {
		wrote = MAY_FAIL(ask(disk, QCOW2_WRITE, 4096, data, sizeof(data), &results[0]));
		CHECK(failing_excuses(wrote));
		layer_freeze(first);
		CHECK(!layer_overlay(store, first, &second, &err));
		rc = MAY_FAIL(switch_disk(disk, second, &err));
		check(rc, &err);
		rc = MAY_FAIL(ask(disk, QCOW2_READ, 4096, back, sizeof(back), &results[1]));
		CHECK(failing_excuses(rc));
		CHECK(rc || wrote || !memcmp(data, back, sizeof(data)));
		/* Now memory is there again, and so is what was written. */
		CHECK(!ask(disk, QCOW2_READ, 4096, back, sizeof(back), &results[1]));
		CHECK(wrote || !memcmp(data, back, sizeof(data)));
		CHECK(!ask(disk, QCOW2_WRITE, 4096, data, sizeof(data), &results[0]));
		CHECK(!ask(disk, QCOW2_READ, 4096, back, sizeof(back), &results[1]));
		CHECK(!memcmp(data, back, sizeof(data)));
		qcow2_close(disk);
		sh_in(dir, "qemu-img check -q layers/%s", first->file);
		layer_unref(second);
	}
	layer_unref(first);
	layer_unref(base);
	loop_free(loop);
	nothing_changed();
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	log_threshold = LOG_ERROR;
	scratch_dir(root);
	snprintf(dir, sizeof(dir), "%s/state", root);
	snprintf(raw, sizeof(raw), "%s/raw", root);
	snprintf(stream, sizeof(stream), "%s/stream", root);
	make_store();
	open_store();
	close_store();
	before = files();
	FAILING(a_store_opens_or_does_not);
	FAILING(a_snapshot_is_saved_or_not);
	FAILING(a_snapshot_is_loaded_or_not);
	FAILING(a_snapshot_is_checked_or_not);
	FAILING(a_snapshot_is_described_or_not);
	FAILING(a_snapshot_is_renamed_and_removed_or_not);
	FAILING(an_archive_is_written_or_not);
	FAILING(an_archive_is_read_or_not);
	FAILING(a_chain_is_made_shorter_or_not);
	FAILING(an_image_is_published_or_not);
	FAILING(images_are_listed_or_not);
	FAILING(an_image_is_removed_or_not);
	FAILING(a_chain_is_read_or_not);
	FAILING(a_disk_is_written_or_not);
	return 0;
}
