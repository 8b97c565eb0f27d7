/* SPDX-License-Identifier: MIT */
/* store_fixture.h - a store below /tmp with one image, and machines to save in it, for unit tests */
#ifndef SBX_TESTS_STORE_FIXTURE_H
#define SBX_TESTS_STORE_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/image.h"
#include "snap/store.h"
#include "tests/unit/plain_template.h"
#include "tests/unit/unit.h"
#include "util/io.h"

enum { MIB = 1 << 20, RAM = 32 * MIB };

static char root[64], dir[80];

/* The first number that a shell command prints. */
__attribute__((format(printf, 1, 2))) static inline uint64_t shell_number(const char *fmt, ...)
{
	char command[160];
	uint64_t n;
	va_list ap;
	FILE *pipe;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	pipe = popen(command, "r"); /* NOLINT(cert-env33-c): a test's own words */
	CHECK(pipe && fscanf(pipe, "%" SCNu64, &n) == 1);
	pclose(pipe);
	return n;
}

/* A store with one image, "base". */
static inline struct store *fresh_store(void)
{
	struct err err = { 0 };
	struct store *store;
	char path[128];
	uint8_t block[4096];
	int fd;

	snprintf(root, sizeof(root), "/tmp/sbx-store-XXXXXX");
	CHECK(mkdtemp(root));
	snprintf(dir, sizeof(dir), "%s/state", root);
	snprintf(path, sizeof(path), "%s/raw", root);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && !ftruncate(fd, 64 * MIB));
	memset(block, 7, sizeof(block));
	CHECK(pwrite(fd, block, sizeof(block), 8 * MIB) == sizeof(block));
	close(fd);
	CHECK(!image_publish(dir, "base", path, "test", &err));
	CHECK(!store_open(dir, &store, &err));
	return store;
}

static inline void drop_store(struct store *store)
{
	store_close(store);
	shell("rm -rf %s", root);
}

static inline struct store *reopen(struct store *store)
{
	struct err err = { 0 };

	store_close(store);
	CHECK(!store_open(dir, &store, &err));
	return store;
}

static inline unsigned count_files(const char *sub)
{
	return (unsigned)shell_number("find %s/%s -type f | wc -l", dir, sub);
}

/* Pages of a machine's RAM: page i holds `seed` and its number; every fourth is zero. */
static inline void fill_page(uint8_t *page, unsigned i, unsigned seed)
{
	uint32_t state = i * 2654435761u + seed;

	for (unsigned k = 0; k < RAM_PAGE; k++) {
		if (k % 64 < 16)
			state = state * 1664525u + 1013904223u;
		page[k] = (uint8_t)(state >> 24);
	}
}

static inline int make_ram(unsigned seed, unsigned changed_from, unsigned changed_to, unsigned new_seed)
{
	int fd = memfd_new("test", RAM);
	uint8_t page[RAM_PAGE];

	CHECK(fd >= 0);
	for (unsigned i = 0; i < RAM / RAM_PAGE; i++) {
		if (i % 4 == 3)
			continue;
		fill_page(page, i, i >= changed_from && i < changed_to ? new_seed : seed);
		CHECK(!pwrite_all(fd, page, sizeof(page), (uint64_t)i * RAM_PAGE));
	}
	CHECK(!memfd_seal(fd));
	return fd;
}

static inline struct template *make_template(struct layer *disk, int ram_fd)
{
	static const char state[] = "the state of devices";
	struct template *template = plain_template(disk, ram_fd, RAM, memfd_new("state", sizeof(state)));

	CHECK(!pwrite_all(template->state_fd, state, sizeof(state), 0));
	template->generation = 3;
	template->quiesced = 1;
	template->pause_ns = 12345;
	return template;
}

static inline struct layer *frozen_overlay(struct store *store, struct layer *base)
{
	struct err err = { 0 };
	struct layer *layer;

	CHECK(!layer_overlay(store, base, &layer, &err));
	layer_freeze(layer);
	return layer;
}

static inline struct layer *image_layer(struct store *store)
{
	struct err err = { 0 };
	struct image image;

	CHECK(!image_get(store, "base", &image, &err));
	return image.disk;
}

static inline int save(struct store *store, const char *name, const char *parent, struct template *template)
{
	struct snapshot_meta meta = { .created = 1, .next_job = 5 };
	struct progress progress = { 0 };
	struct err err = { 0 };
	struct save *work;
	int rc;

	snprintf(meta.name, sizeof(meta.name), "%s", name);
	snprintf(meta.parent, sizeof(meta.parent), "%s", parent);
	snprintf(meta.source, sizeof(meta.source), "vm1");
	snprintf(meta.image, sizeof(meta.image), "base");
	buf_add(&meta.env, "A=1\nB=two words\nC=a\0\\n\0\n", 24);
	buf_printf(&meta.requires, "cpu avx2\n");
	rc = snapshot_save_begin(store, &meta, template, &progress, &work, &err);
	if (!rc)
		rc = snapshot_save_end(work, snapshot_save_run(work), &err);
	if (rc)
		fprintf(stderr, "save %s: %s\n", name, err.text);
	snapshot_meta_release(&meta);
	return rc;
}

static inline int load(struct store *store, const char *name, struct template **ret, struct err *err)
{
	struct progress progress = { 0 };
	struct visit *work;
	int rc = snapshot_load_begin(store, name, &progress, &work, err);

	return rc ? rc : snapshot_load_end(work, snapshot_visit_run(work), ret, err);
}

static inline int verify(struct store *store, const char *name, struct err *err)
{
	struct progress progress = { 0 };
	struct visit *work;
	int rc = snapshot_verify_begin(store, name, &progress, &work, err);

	return rc ? rc : snapshot_verify_end(work, snapshot_visit_run(work), err);
}

static inline void check_same(int a, int b)
{
	uint8_t pages[2][RAM_PAGE];

	for (unsigned i = 0; i < RAM / RAM_PAGE; i++) {
		CHECK(!pread_all(a, pages[0], RAM_PAGE, (uint64_t)i * RAM_PAGE));
		CHECK(!pread_all(b, pages[1], RAM_PAGE, (uint64_t)i * RAM_PAGE));
		CHECK(!memcmp(pages[0], pages[1], RAM_PAGE));
	}
}

static inline uint64_t disk_usage(const char *sub)
{
	return shell_number("du -sk %s/%s", dir, sub) << 10;
}

#endif
