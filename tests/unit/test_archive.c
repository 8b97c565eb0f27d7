/* SPDX-License-Identifier: MIT */
/* test_archive.c - snapshots that travel between stores */
#include "snap/archive_transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "snap/background.h"
#include "snap/digest.h"
#include "snap/image.h"
#include "snap/manifest.h"
#include "snap/member.h"
#include "snap/qcow2/chain.h"
#include "snap/store_priv.h"
#include "tests/unit/plain_template.h"
#include "tests/unit/unit.h"
#include "util/io.h"

enum { MIB = 1 << 20, RAM = 4 * MIB, DISK = 16 * MIB };

static char root[] = "/tmp/sbx-archive-XXXXXX";

static const char *path_of(const char *name)
{
	static char path[4][96];
	static unsigned turn;

	turn = (turn + 1) % 4;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", root, name);
	return path[turn];
}

static struct store *open_store(const char *name)
{
	struct err err = { 0 };
	struct store *store;

	CHECK(!store_open(path_of(name), &store, &err));
	return store;
}

/* Files of any kind in a store; what fails must not change their number. */
static unsigned count_files(struct store *store)
{
	char command[160];
	unsigned n;
	FILE *pipe;

	background_flush(store->background);
	snprintf(command, sizeof(command), "find %s | wc -l", store_dir(store));
	pipe = popen(command, "r"); /* NOLINT(cert-env33-c): a test's own words */
	CHECK(pipe && fscanf(pipe, "%u", &n) == 1);
	pclose(pipe);
	return n;
}

static int make_memfd(size_t size, size_t from, size_t to, unsigned seed)
{
	int fd = memfd_new("test", size);
	uint8_t page[RAM_PAGE];
	uint32_t state = seed;

	CHECK(fd >= 0);
	for (size_t at = from; at < to; at += sizeof(page)) {
		for (size_t i = 0; i < sizeof(page); i++) {
			state = state * 1664525u + 1013904223u;
			page[i] = (uint8_t)(i % 3 ? state >> 24 : 0);
		}
		CHECK(!pwrite_all(fd, page, sizeof(page), at));
	}
	return fd;
}

static bool same_content(int a, int b, size_t size)
{
	uint8_t x[RAM_PAGE], y[RAM_PAGE];

	for (size_t at = 0; at < size; at += sizeof(x)) {
		CHECK(!pread_all(a, x, sizeof(x), at) && !pread_all(b, y, sizeof(y), at));
		if (memcmp(x, y, sizeof(x)) != 0)
			return false;
	}
	return true;
}

/* RAM of the snapshots "one" and "two": the second differs in half a MiB. */
static int ram_of(unsigned number)
{
	int fd = make_memfd(RAM, MIB, 3 * MIB, 1);
	uint8_t page[RAM_PAGE];

	memset(page, 0xa5, sizeof(page));
	for (size_t at = 2 * MIB; number == 2 && at < 2 * MIB + MIB / 2; at += sizeof(page))
		CHECK(!pwrite_all(fd, page, sizeof(page), at));
	return fd;
}

static void save(struct store *store, const char *name, const char *parent, int ram_fd, struct layer *disk)
{
	struct template *template = plain_template(disk, ram_fd, RAM, make_memfd(RAM_PAGE, 0, RAM_PAGE, 99));
	struct snapshot_meta meta = { 0 };
	struct err err = { 0 };
	struct save *work;

	snprintf(meta.name, sizeof(meta.name), "%s", name);
	snprintf(meta.parent, sizeof(meta.parent), "%s", parent);
	snprintf(meta.source, sizeof(meta.source), "vm1");
	snprintf(meta.image, sizeof(meta.image), "base");
	buf_printf(&meta.env, "A=1\n");
	CHECK(!snapshot_save_begin(store, &meta, template, NULL, &work, &err));
	CHECK(!snapshot_save_end(work, snapshot_save_run(work), &err));
	snapshot_meta_release(&meta);
	template_unref(template);
}

static struct layer *overlay(struct store *store, struct layer *base, const char *qemu_io)
{
	struct err err = { 0 };
	struct layer *layer;
	char command[256];

	CHECK(!layer_overlay(store, base, &layer, &err));
	snprintf(command, sizeof(command), "qemu-io -f qcow2 -c '%s' %s >/dev/null", qemu_io,
		 layer_path(layer));
	CHECK(system(command) == 0); /* NOLINT(cert-env33-c): a test's own words */
	layer_freeze(layer);
	return layer;
}

/* The store "a": an image, snapshot "one" on an overlay, "two" on an overlay on that and on one's RAM. */
static struct store *first_store(void)
{
	int fd = open(path_of("disk"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct layer *lower, *upper;
	struct err err = { 0 };
	struct store *store;
	struct image image;

	CHECK(fd >= 0 && !pwrite_all(fd, "bottom", 6, MIB) && !ftruncate(fd, DISK));
	close(fd);
	CHECK(!image_publish(path_of("a"), "base", path_of("disk"), "test", &err));
	store = open_store("a");
	CHECK(!image_get(store, "base", &image, &err));
	lower = overlay(store, image.disk, "write -P 1 2M 128k");
	upper = overlay(store, lower, "write -P 2 5M 64k");
	image_release(&image);
	save(store, "one", "", ram_of(1), lower);
	save(store, "two", "one", ram_of(2), upper);
	layer_unref(lower);
	layer_unref(upper);
	return store;
}

static int export_to(struct store *store, const char *name, const char *since, const char *file)
{
	int fd = open(path_of(file), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct progress progress = { 0 };
	struct export *work;
	struct err err = { 0 };
	int rc;

	CHECK(fd >= 0);
	rc = archive_export_begin(store, name, since, &progress, &work, &err);
	if (!rc)
		rc = archive_export_end(work, archive_export_run(work, fd), &err);
	close(fd);
	CHECK(rc || atomic_load(&progress.permille) == 1000);
	CHECK(!rc == !err.code);
	return rc;
}

static int import_fd(struct store *store, const char *name, int fd, struct err *err)
{
	struct import *work;
	int rc = archive_import_begin(store, name, NULL, NULL, &work, err);

	return rc ? rc : archive_import_end(work, archive_import_run(work, fd), err);
}

static int import_from(struct store *store, const char *name, const char *file, struct err *err)
{
	int fd = open(path_of(file), O_RDONLY | O_CLOEXEC);
	int rc;

	CHECK(fd >= 0);
	rc = import_fd(store, name, fd, err);
	close(fd);
	return rc;
}

/* Loads it and compares RAM and disk with what snapshot `number` was made of. */
static void check_snapshot(struct store *store, const char *name, unsigned number)
{
	struct template *template;
	struct snapshot_meta meta;
	struct err err = { 0 };
	struct chain *chain;
	struct visit *work;
	uint8_t bytes[6];
	int ram = ram_of(number), state = make_memfd(RAM_PAGE, 0, RAM_PAGE, 99);

	CHECK(!snapshot_get(store, name, &meta, &err));
	CHECK(!strcmp(meta.source, "vm1") && meta.env.len == 4);
	snapshot_meta_release(&meta);
	CHECK(!snapshot_load_begin(store, name, NULL, &work, &err));
	CHECK(!snapshot_load_end(work, snapshot_visit_run(work), &template, &err));
	CHECK(same_content(template->ram_fd, ram, RAM));
	CHECK(same_content(template->state_fd, state, RAM_PAGE));
	CHECK(!chain_open(store->layers_fd, template->disk->file, false, &chain, &err));
	CHECK(chain_size(chain) == DISK && chain_length(chain) == number + 1);
	CHECK(!chain_read(chain, bytes, 6, MIB, &err) && !memcmp(bytes, "bottom", 6));
	CHECK(!chain_read(chain, bytes, 6, 2 * MIB, &err) && !memcmp(bytes, "\1\1\1\1\1\1", 6));
	CHECK(!chain_read(chain, bytes, 6, 5 * MIB, &err));
	CHECK(!memcmp(bytes, number == 2 ? "\2\2\2\2\2\2" : "\0\0\0\0\0\0", 6));
	chain_free(chain);
	template_unref(template);
	close(ram);
	close(state);
}

static void an_archive_is_complete(void)
{
	struct store *a = first_store(), *b = open_store("b");
	struct err err = { 0 };

	check_snapshot(a, "two", 2);
	CHECK(!export_to(a, "two", NULL, "two.sbx"));
	store_close(a);
	CHECK(!import_from(b, "copy", "two.sbx", &err));
	check_snapshot(b, "copy", 2);
	store_close(b);
	b = open_store("b");
	check_snapshot(b, "copy", 2);
	store_close(b);
}

static void an_import_shares_what_is_there(void)
{
	struct store *a = open_store("a");
	struct snapshot_meta meta;
	struct err err = { 0 };

	CHECK(import_from(a, "two", "two.sbx", &err) == -EEXIST);
	CHECK(!import_from(a, "again", "two.sbx", &err));
	check_snapshot(a, "again", 2);
	/* Its RAM is its own, its disk is not. */
	CHECK(!snapshot_get(a, "again", &meta, &err));
	CHECK(meta.own < meta.ram_stored + 4096 && meta.disk_stored > 0);
	snapshot_meta_release(&meta);
	CHECK(!snapshot_remove(a, "again", &err));
	check_snapshot(a, "two", 2);
	store_close(a);
}

static void since_leaves_out_what_the_base_has(void)
{
	struct store *a = open_store("a"), *c = open_store("c");
	struct err err = { 0 };
	struct stat all, some;
	unsigned before;

	CHECK(!export_to(a, "one", NULL, "one.sbx"));
	CHECK(!export_to(a, "two", "one", "two-since-one.sbx"));
	CHECK(export_to(a, "two", "none", "x.sbx") == -ENOENT);
	CHECK(!stat(path_of("two.sbx"), &all) && !stat(path_of("two-since-one.sbx"), &some));
	CHECK(some.st_size < all.st_size / 4);

	before = count_files(c);
	CHECK(import_from(c, "two", "two-since-one.sbx", &err) == -EINVAL);
	CHECK(strstr(err.text, "builds on"));
	CHECK(count_files(c) == before);
	CHECK(!import_from(c, "uno", "one.sbx", &err));
	CHECK(!import_from(c, "due", "two-since-one.sbx", &err));
	check_snapshot(c, "uno", 1);
	check_snapshot(c, "due", 2);
	/* What the base had outlives it. */
	CHECK(!snapshot_remove(c, "uno", &err));
	store_close(c);
	c = open_store("c");
	check_snapshot(c, "due", 2);
	store_close(c);
	store_close(a);
}

static void the_parent_is_known_again(void)
{
	struct store *d = open_store("d");
	struct snapshot_meta meta;
	struct err err = { 0 };

	CHECK(!import_from(d, "x", "one.sbx", &err));
	CHECK(!import_from(d, "y", "two.sbx", &err));
	CHECK(!snapshot_get(d, "y", &meta, &err) && !strcmp(meta.parent, "x"));
	snapshot_meta_release(&meta);
	store_close(d);
}

/* An import of the bytes fails with one of the two errors and leaves nothing. */
static void refuse(struct store *store, const uint8_t *bytes, size_t n, unsigned before)
{
	int fd = memfd_new("archive", n), rc;
	struct err err = { 0 };

	CHECK(fd >= 0 && !pwrite_all(fd, bytes, n, 0));
	rc = import_fd(store, "bad", fd, &err);
	CHECK((rc == -EIO || rc == -EINVAL) && err.code == rc && err.text[0]);
	CHECK(count_files(store) == before);
	close(fd);
}

static void damage_is_found_and_leaves_nothing(void)
{
	struct store *e = open_store("e");
	unsigned before = count_files(e);
	struct buf text = { 0 };
	uint8_t *bytes;

	CHECK(!read_file_at(AT_FDCWD, path_of("two.sbx"), 64 * MIB, &text));
	bytes = buf_bytes(&text);
	for (size_t at = 0; at < text.len; at += at < 600 ? 13 : text.len / 60) {
		bytes[at] ^= 0x10;
		refuse(e, bytes, text.len, before);
		bytes[at] ^= 0x10;
		refuse(e, bytes, at, before);
	}
	bytes[text.len - 1] ^= 1;
	refuse(e, bytes, text.len, before);
	bytes[text.len - 1] ^= 1;
	buf_add(&text, "x", 1);
	refuse(e, buf_bytes(&text), text.len, before);
	buf_release(&text);
	store_close(e);
}

/* ---- archives whose checksums are all right, and which lie */

struct forgery {
	const char *from, *to; /* bytes in its layers, as many of each, or NULL */
	const char *without;   /* an ending: members that are left out, or NULL */
	void (*manifest)(struct snapshot_manifest *manifest);
	const char *
		base; /* a key of what is said of the base, whose value is to be another; "": left out; NULL */
};

static void forge_manifest(struct member_reader *r, struct member_writer *w, const struct forgery *forgery)
{
	struct snapshot_manifest manifest;
	struct buf in = { 0 }, out = { 0 };
	struct err err = { 0 };
	const uint8_t *data;
	uint64_t at;
	size_t n;

	while (member_read(r, &at, &data, &n, &err) > 0)
		buf_add(&in, data, n);
	CHECK(!snapshot_manifest_parse((char *)buf_bytes(&in), in.len, "it", &manifest, &err));
	forgery->manifest(&manifest);
	snapshot_manifest_encode(&manifest, &out);
	CHECK(!member_begin(w, "manifest", out.len, &err));
	CHECK(!member_chunk(w, 0, buf_bytes(&out), out.len, false, &err) && !member_end(w, out.len, &err));
	snapshot_manifest_release(&manifest);
	buf_release(&in);
	buf_release(&out);
}

/* Change a line of what the archive says of its base. */
static void forge_base(struct member_reader *r, struct member_writer *w, const struct forgery *forgery)
{
	struct buf in = { 0 }, out = { 0 };
	struct manifest manifest;
	struct err err = { 0 };
	const uint8_t *data;
	char *key, *value;
	uint64_t at;
	size_t n;

	while (member_read(r, &at, &data, &n, &err) > 0)
		buf_add(&in, data, n);
	CHECK(!manifest_open(&manifest, (char *)buf_bytes(&in), in.len, "sbxfs-base", 1, "it", &err));
	manifest_begin(&out, "sbxfs-base", 1);
	while (manifest_next(&manifest, &key, &value)) {
		const bool chosen = !strncmp(forgery->base + (*forgery->base == '-'), key, strlen(key));

		if (chosen && *forgery->base == '-')
			continue;
		if (chosen)
			value[7] = value[7] == '0' ? '1' : '0';
		manifest_add(&out, key, value);
	}
	manifest_end(&out);
	CHECK(!member_begin(w, "base", out.len, &err));
	CHECK(!member_chunk(w, 0, buf_bytes(&out), out.len, false, &err) && !member_end(w, out.len, &err));
	buf_release(&in);
	buf_release(&out);
}

/* Copies the present member; returns how often `from` was in it. */
static unsigned forge_member(struct member_reader *r, struct member_writer *w, const char *name, bool drop,
			     const struct forgery *forgery)
{
	const bool layer = strstr(name, ".raw") || strstr(name, ".qcow2");
	uint8_t copy[MEMBER_CHUNK], *found;
	struct err err = { 0 };
	const uint8_t *data;
	unsigned times = 0;
	uint64_t at;
	size_t n;
	int rc;

	if (!drop)
		CHECK(!member_begin(w, name, r->size, &err));
	while ((rc = member_read(r, &at, &data, &n, &err)) > 0) {
		memcpy(copy, data, n);
		found = layer && forgery->from ? memmem(copy, n, forgery->from, strlen(forgery->from)) : NULL;
		if (found) {
			memcpy(found, forgery->to, strlen(forgery->to));
			times++;
		}
		if (!drop)
			CHECK(!member_chunk(w, at, copy, n, true, &err));
	}
	CHECK(!rc);
	if (!drop)
		CHECK(!member_end(w, r->size, &err));
	return times;
}

static void forge(const char *from, const char *to, const struct forgery *forgery)
{
	int in = open(path_of(from), O_RDONLY | O_CLOEXEC);
	int out = open(path_of(to), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	char name[MEMBER_NAME_MAX + 1];
	struct member_reader r;
	struct member_writer w;
	struct err err = { 0 };
	unsigned times = 0;
	uint64_t size;

	CHECK(!member_reader_begin(&r, in, &err) && !member_writer_begin(&w, out, &err));
	while (member_next(&r, name, &size, &err) > 0) {
		if (!strcmp(name, "manifest") && forgery->manifest)
			forge_manifest(&r, &w, forgery);
		else if (!strcmp(name, "base") && forgery->base)
			forge_base(&r, &w, forgery);
		else
			times += forge_member(&r, &w, name,
					      forgery->without && strstr(name, forgery->without), forgery);
	}
	CHECK(!err.code && !times == !forgery->from);
	CHECK(!member_writer_end(&w, &err));
	member_reader_release(&r);
	member_writer_release(&w);
	close(in);
	close(out);
}

static void verify(struct store *store, const char *name)
{
	struct err err = { 0 };
	struct visit *work;

	CHECK(!snapshot_verify_begin(store, name, NULL, &work, &err));
	CHECK(!snapshot_verify_end(work, snapshot_visit_run(work), &err));
}

/* Bytes of its disk. */
static bool disk_has(struct store *store, const char *name, uint64_t at, const char *bytes)
{
	struct err err = { 0 };
	struct layer *disk;
	struct chain *chain;
	char found[16];
	bool has;

	CHECK(!snapshot_disk(store, name, &disk, &err));
	CHECK(!chain_open(store->layers_fd, disk->file, false, &chain, &err));
	CHECK(!chain_read(chain, found, strlen(bytes), at, &err));
	has = !memcmp(found, bytes, strlen(bytes));
	chain_free(chain);
	layer_unref(disk);
	return has;
}

/* Whichever comes first has the names, and each has its own disk. */
static void a_layer_is_no_other_of_its_name(void)
{
	const struct forgery bottom = { .from = "bottom", .to = "bOTTOM" };
	const struct forgery middle = { .from = "\1\1\1\1", .to = "evil" };
	struct store *first = open_store("first"), *second = open_store("second");
	struct err err = { 0 };
	unsigned before;

	forge("two.sbx", "bottom.sbx", &bottom);
	forge("one.sbx", "middle.sbx", &middle);
	for (unsigned turn = 0; turn < 2; turn++) {
		struct store *store = turn ? second : first;

		before = count_files(store);
		if (turn)
			CHECK(!import_from(store, "true", "two.sbx", &err));
		CHECK(!import_from(store, "bottom", "bottom.sbx", &err));
		CHECK(!import_from(store, "middle", "middle.sbx", &err));
		if (!turn)
			CHECK(!import_from(store, "true", "two.sbx", &err));
		store_close(store);
		store = open_store(turn ? "second" : "first");
		check_snapshot(store, "true", 2);
		verify(store, "true");
		verify(store, "bottom");
		verify(store, "middle");
		CHECK(disk_has(store, "bottom", MIB, "bOTTOM") && disk_has(store, "bottom", 2 * MIB, "\1\1"));
		CHECK(disk_has(store, "middle", MIB, "bottom") && disk_has(store, "middle", 2 * MIB, "evil"));
		CHECK(!snapshot_remove(store, "bottom", &err) && !snapshot_remove(store, "middle", &err));
		check_snapshot(store, "true", 2);
		CHECK(!snapshot_remove(store, "true", &err));
		CHECK(!store_gc(store, &(uint64_t){ 0 }, &err) && count_files(store) == before);
		store_close(store);
	}
}

static void refuse_file(struct store *store, const char *file, int expected, const char *words)
{
	unsigned before = count_files(store);
	struct err err = { 0 };

	CHECK(import_from(store, "bad", file, &err) == expected && strstr(err.text, words));
	CHECK(count_files(store) == before);
}

/* The store's own layers are not for the archive to stand on. */
static void what_does_not_come_is_not_taken_from_others(void)
{
	struct store *a = open_store("a");

	forge("two.sbx", "forged.sbx", &(struct forgery){ .without = ".raw" });
	refuse_file(a, "forged.sbx", -EINVAL, "may use");
	forge("two.sbx", "forged.sbx", &(struct forgery){ .without = ".qcow2" });
	refuse_file(a, "forged.sbx", -EINVAL, "may use");
	check_snapshot(a, "two", 2);
	store_close(a);
}

/*
 * Who gives a store another snapshot with the origin of a genuine one does not get it under those that build on
 * that.
 */
static void a_base_is_what_the_archive_was_made_with(void)
{
	const struct forgery evil = { .from = "\1\1\1\1", .to = "evil" };
	struct store *store = open_store("base");
	struct err err = { 0 };

	forge("one.sbx", "evil.sbx", &evil);
	CHECK(!import_from(store, "evil", "evil.sbx", &err));
	refuse_file(store, "two-since-one.sbx", -EIO, "content is another");
	CHECK(!snapshot_remove(store, "evil", &err));
	CHECK(!import_from(store, "one", "one.sbx", &err));
	forge("two-since-one.sbx", "forged.sbx", &(struct forgery){ .base = "ram" });
	refuse_file(store, "forged.sbx", -EIO, "memory is another");
	forge("two-since-one.sbx", "forged.sbx", &(struct forgery){ .base = "-ram" });
	refuse_file(store, "forged.sbx", -EIO, "memory is another");
	forge("two-since-one.sbx", "forged.sbx", &(struct forgery){ .base = "disk" });
	refuse_file(store, "forged.sbx", -EIO, "content is another");
	forge("two-since-one.sbx", "forged.sbx", &(struct forgery){ .base = "-disk" });
	refuse_file(store, "forged.sbx", -EINVAL, "does not say");
	forge("two-since-one.sbx", "forged.sbx", &(struct forgery){ .base = "origin" });
	refuse_file(store, "forged.sbx", -EINVAL, "does not have");
	CHECK(!import_from(store, "two", "two-since-one.sbx", &err));
	check_snapshot(store, "two", 2);
	store_close(store);
}

/* Merging layers changes the file that others stand on, and not what is in it. */
static void a_merged_base_is_the_same(void)
{
	char one[DIGEST_TEXT], two[DIGEST_TEXT];
	struct store *a = open_store("a");
	struct err err = { 0 };
	struct layer *disk;
	char command[512];

	CHECK(!snapshot_disk(a, "two", &disk, &err));
	CHECK(!digest_disk(a->layers_fd, disk->file, one, &err));
	snprintf(command, sizeof(command), "cd %s/layers && qemu-img convert -f qcow2 -O raw %s flat.raw",
		 store_dir(a), disk->file);
	CHECK(system(command) == 0); /* NOLINT(cert-env33-c): a test's own words */
	snprintf(command, sizeof(command), "cd %s/layers && mv flat.raw 00000000000000000000000000000000.raw",
		 store_dir(a));
	CHECK(system(command) == 0); /* NOLINT(cert-env33-c): a test's own words */
	CHECK(!digest_disk(a->layers_fd, "00000000000000000000000000000000.raw", two, &err));
	CHECK(!strcmp(one, two) && strlen(one) == 64);
	CHECK(!unlinkat(a->layers_fd, "00000000000000000000000000000000.raw", 0));
	CHECK(!digest_disk(a->layers_fd, disk->base->file, two, &err) && strcmp(one, two) != 0);
	layer_unref(disk);
	store_close(a);
}

static uint64_t number_at(const uint8_t *p, size_t n)
{
	uint64_t ret = 0;

	memcpy(&ret, p, n);
	return ret; /* these tests run on little-endian hosts */
}

static void seal(uint8_t *header, size_t n)
{
	const uint64_t sum = XXH3_64bits(header, n - sizeof(sum));

	memcpy(header + n - sizeof(sum), &sum, sizeof(sum));
}

/* The archive as a program wrote it that knew version 1: without digests. */
static void as_version_1(const char *from, const char *to)
{
	struct buf text = { 0 };
	uint8_t *bytes, *end;
	size_t at = 24;
	FILE *file;

	CHECK(!read_file_at(AT_FDCWD, path_of(from), 64 * MIB, &text));
	bytes = buf_bytes(&text);
	while (strcmp((char *)bytes + at + 8, "digests") != 0) {
		at += 88;
		while (number_at(bytes + at + 8, 4))
			at += 32 + number_at(bytes + at + 12, 4);
		at += 32;
	}
	end = bytes + text.len - 88;
	memmove(bytes + at, end, 88);
	bytes[at + 72]--;
	seal(bytes + at, 88);
	bytes[8] = 1;
	seal(bytes, 24);
	file = fopen(path_of(to), "we");
	CHECK(file && fwrite(bytes, at + 88, 1, file) == 1 && !fclose(file));
	buf_release(&text);
}

static void archives_of_version_1(void)
{
	struct store *store = open_store("old");
	struct err err = { 0 };

	as_version_1("one.sbx", "old-one.sbx");
	as_version_1("two-since-one.sbx", "old-two.sbx");
	CHECK(!import_from(store, "one", "old-one.sbx", &err));
	check_snapshot(store, "one", 1);
	refuse_file(store, "old-two.sbx", -EINVAL, "export it anew");
	store_close(store);
}

/* Everything in it is as it was sent. */
static void digests_have_to_fit(void)
{
	struct store *store = open_store("digests");
	const unsigned before = count_files(store);
	struct buf text = { 0 };
	uint64_t packed, sum;
	uint8_t *bytes;
	struct err err = { 0 };
	size_t at;
	int fd;

	CHECK(!read_file_at(AT_FDCWD, path_of("two.sbx"), 64 * MIB, &text));
	bytes = buf_bytes(&text);
	for (at = 24; strcmp((char *)bytes + at + 8, "state") != 0; at += 32) {
		at += 88;
		while (number_at(bytes + at + 8, 4))
			at += 32 + number_at(bytes + at + 12, 4);
	}
	/* A byte of the state, with the other checksums made to fit. */
	at += 88;
	packed = number_at(bytes + at + 12, 4);
	CHECK(packed);
	bytes[at + 32] ^= 1;
	sum = XXH3_64bits(bytes + at + 32, packed);
	memcpy(bytes + at + 16, &sum, sizeof(sum));
	seal(bytes + at, 32);
	fd = memfd_new("archive", text.len);
	CHECK(fd >= 0 && !pwrite_all(fd, bytes, text.len, 0));
	CHECK(import_fd(store, "bad", fd, &err) == -EIO && strstr(err.text, "digests"));
	CHECK(count_files(store) == before);
	close(fd);
	buf_release(&text);
	store_close(store);
}

static void much_memory(struct snapshot_manifest *manifest)
{
	manifest->meta.shape.memory = manifest->meta.shape.memory_max = UINT64_MAX;
}

static void many_cpus(struct snapshot_manifest *manifest)
{
	manifest->meta.shape.cpus_max = SHAPE_CPUS_LIMIT + 1;
}

static void other_ram(struct snapshot_manifest *manifest)
{
	manifest->ram_size = RAM * 1024ull;
}

static void large_disk(struct snapshot_manifest *manifest)
{
	manifest->meta.disk_logical = UINT64_MAX / 512 * 512;
}

static void small_disk(struct snapshot_manifest *manifest)
{
	manifest->meta.disk_logical = DISK / 2;
}

static void larger_disk(struct snapshot_manifest *manifest)
{
	manifest->meta.disk_logical = 2 * DISK;
}

static void limits_hold(void)
{
	static const struct {
		void (*manifest)(struct snapshot_manifest *manifest);
		int rc;
		const char *words;
	} lies[] = {
		{ much_memory, -ERANGE, "limit of 64G" }, { many_cpus, -ERANGE, "65 cpus" },
		{ other_ram, -EINVAL, "RAM of" },         { large_disk, -ERANGE, "a disk of" },
		{ small_disk, -EINVAL, "allows for" },    { larger_disk, -EINVAL, "size" },
	};
	struct store *store = open_store("limits");

	for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		forge("two.sbx", "forged.sbx", &(struct forgery){ .manifest = lies[i].manifest });
		refuse_file(store, "forged.sbx", lies[i].rc, lies[i].words);
	}
	store_close(store);
}

/* A disk that is slow to sync. */
static void be_slow(void *arg)
{
	const struct timespec time = { .tv_nsec = 200000000 };

	(void)arg;
	nanosleep(&time, NULL);
}

/* Its layers, which are deleted in the background, have the names of those that come. */
static void what_was_removed_comes_back_at_once(void)
{
	struct store *store = open_store("back");
	struct err err = { 0 };

	CHECK(!import_from(store, "copy", "two.sbx", &err));
	background_run(store->background, be_slow, NULL);
	CHECK(!snapshot_remove(store, "copy", &err));
	CHECK(!import_from(store, "copy", "two.sbx", &err));
	check_snapshot(store, "copy", 2);
	store_close(store);
}

static void giving_up_is_noticed(void)
{
	struct store *a = open_store("a");
	struct progress progress = { 0 };
	struct export *work;
	struct import *import;
	unsigned before = count_files(a);
	struct err err = { 0 };
	int ends[2], fd;

	CHECK(!pipe2(ends, O_CLOEXEC));
	close(ends[0]);
	CHECK(!archive_export_begin(a, "two", NULL, NULL, &work, &err));
	CHECK(archive_export_end(work, archive_export_run(work, ends[1]), &err) == -EPIPE);
	close(ends[1]);

	atomic_store(&progress.cancel, true);
	fd = open(path_of("two.sbx"), O_RDONLY | O_CLOEXEC);
	CHECK(!archive_import_begin(a, "stopped", NULL, &progress, &import, &err));
	CHECK(store_gc(a, &(uint64_t){ 0 }, &err) == -EBUSY);
	CHECK(archive_import_end(import, archive_import_run(import, fd), &err) == -ECANCELED);
	close(fd);
	CHECK(count_files(a) == before);
	CHECK(!store_gc(a, &(uint64_t){ 0 }, &err));
	store_close(a);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	CHECK(mkdtemp(root));
	TEST(an_archive_is_complete);
	TEST(an_import_shares_what_is_there);
	TEST(since_leaves_out_what_the_base_has);
	TEST(the_parent_is_known_again);
	TEST(damage_is_found_and_leaves_nothing);
	TEST(a_layer_is_no_other_of_its_name);
	TEST(what_does_not_come_is_not_taken_from_others);
	TEST(a_base_is_what_the_archive_was_made_with);
	TEST(a_merged_base_is_the_same);
	TEST(archives_of_version_1);
	TEST(digests_have_to_fit);
	TEST(limits_hold);
	TEST(what_was_removed_comes_back_at_once);
	TEST(giving_up_is_noticed);
	CHECK(!remove_tree_at(AT_FDCWD, root));
	return 0;
}
