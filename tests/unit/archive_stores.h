/* SPDX-License-Identifier: MIT */
/*
 * archive_stores.h - stores below a directory of the test's, two snapshots to send from one to another, and a look
 * at what arrived
 */
#ifndef SBX_TESTS_ARCHIVE_STORES_H
#define SBX_TESTS_ARCHIVE_STORES_H

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

static inline const char *path_of(const char *name)
{
	static char path[4][96];
	static unsigned turn;

	turn = (turn + 1) % 4;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", root, name);
	return path[turn];
}

static inline struct store *open_store(const char *name)
{
	struct err err = { 0 };
	struct store *store;

	CHECK(!store_open(path_of(name), &store, &err));
	return store;
}

/* Files of any kind in a store; what fails must not change their number. */
static inline unsigned count_files(struct store *store)
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

static inline int make_memfd(size_t size, size_t from, size_t to, unsigned seed)
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

static inline bool same_content(int a, int b, size_t size)
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
static inline int ram_of(unsigned number)
{
	int fd = make_memfd(RAM, MIB, 3 * MIB, 1);
	uint8_t page[RAM_PAGE];

	memset(page, 0xa5, sizeof(page));
	for (size_t at = 2 * MIB; number == 2 && at < 2 * MIB + MIB / 2; at += sizeof(page))
		CHECK(!pwrite_all(fd, page, sizeof(page), at));
	return fd;
}

static inline void save(struct store *store, const char *name, const char *parent, int ram_fd,
			struct layer *disk)
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

static inline struct layer *overlay(struct store *store, struct layer *base, const char *qemu_io)
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
static inline struct store *first_store(void)
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

static inline int export_to(struct store *store, const char *name, const char *since, const char *file)
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

static inline int import_fd(struct store *store, const char *name, int fd, struct err *err)
{
	struct import *work;
	int rc = archive_import_begin(store, name, NULL, NULL, &work, err);

	return rc ? rc : archive_import_end(work, archive_import_run(work, fd), err);
}

static inline int import_from(struct store *store, const char *name, const char *file, struct err *err)
{
	int fd = open(path_of(file), O_RDONLY | O_CLOEXEC);
	int rc;

	CHECK(fd >= 0);
	rc = import_fd(store, name, fd, err);
	close(fd);
	return rc;
}

/* Loads it and compares RAM and disk with what snapshot `number` was made of. */
static inline void check_snapshot(struct store *store, const char *name, unsigned number)
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

#endif
