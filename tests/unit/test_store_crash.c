/* SPDX-License-Identifier: MIT */
/*
 * test_store_crash.c - a store survives kill -9 and a full disk
 *
 * A child saves, imports, compacts, renames and removes as fast as it can until it is killed. Whatever the
 * moment, the next one that opens the store finds what was there before, and nothing that does not belong.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "snap/archive_transfer.h"
#include "snap/compact.h"
#include "tests/unit/store_fixture.h"
#include "tests/unit/unit.h"

enum { KILLS = 50 };

/* An archive, in memory, of a snapshot that is gone, so that an import has a layer to bring along. */
static int archive_of_another(struct store *store, struct layer *base)
{
	struct layer *disk = frozen_overlay(store, base);
	struct template *template = make_template(disk, make_ram(3, 0, 0, 0));
	struct progress progress = { 0 };
	int fd = memfd_new("archive", 0);
	struct err err = { 0 };
	struct export *work;

	CHECK(fd >= 0 && !save(store, "another", "", template));
	CHECK(!archive_export_begin(store, "another", NULL, &progress, &work, &err));
	CHECK(!archive_export_end(work, archive_export_run(work, fd), &err));
	template_unref(template);
	layer_unref(disk);
	CHECK(!snapshot_remove(store, "another", &err));
	return fd;
}

static void import_once(struct store *store, int fd)
{
	struct progress progress = { 0 };
	struct err err = { 0 };
	struct import *work;

	if (archive_import_begin(store, "imported", NULL, &progress, &work, &err))
		return; /* the last one came through */
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	CHECK(!archive_import_end(work, archive_import_run(work, fd), &err));
}

static void compact_once(struct store *store)
{
	struct progress progress = { 0 };
	struct compact *work = NULL;
	struct err err = { 0 };

	CHECK(!compact_begin(store, 2, &progress, &work, &err));
	if (work)
		CHECK(!compact_end(work, compact_run(work), &err));
	compact_settle(store);
}

/* What goes on when the kill comes: saves with a parent and without one, an import, a merge of layers; a name
 * that moves, names that go. */
static void busy(int archive)
{
	struct store *store;
	struct err err = { 0 };

	CHECK(!store_open(dir, &store, &err));
	for (;;) {
		struct template *template;
		struct layer *overlay;

		CHECK(!load(store, "kept", &template, &err));
		overlay = frozen_overlay(store, template->disk);
		layer_unref(template->disk);
		template->disk = overlay;
		if (!save(store, "next", "kept", template)) {
			snapshot_remove(store, "moved", &err);
			CHECK(!snapshot_rename(store, "next", "moved", &err));
		}
		if (!save(store, "alone", "", template))
			CHECK(!snapshot_remove(store, "alone", &err));
		compact_once(store);
		import_once(store, archive);
		snapshot_remove(store, "imported", &err);
		snapshot_remove(store, "next", &err);
		snapshot_remove(store, "alone", &err);
		template_unref(template);
	}
}

static void check_one(void *arg, const char *name)
{
	struct err err = { 0 };
	int rc = verify(arg, name, &err);

	if (rc)
		fprintf(stderr, "%s: %s\n", name, err.text);
	CHECK(!rc);
	CHECK(!strcmp(name, "kept") || !strcmp(name, "next") || !strcmp(name, "moved") ||
	      !strcmp(name, "alone") || !strcmp(name, "imported"));
}

static void remove_one(struct store *store, const char *name)
{
	struct err err = { 0 };
	int rc = snapshot_remove(store, name, &err);

	CHECK(!rc || rc == -ENOENT);
}

static void kill_9_at_any_moment(void)
{
	struct store *store = fresh_store();
	struct layer *base = image_layer(store), *disk = frozen_overlay(store, base);
	int ram = make_ram(1, 0, 0, 0);
	struct template *template = make_template(disk, dup(ram)), *loaded;
	struct err err = { 0 };
	int archive;

	CHECK(!save(store, "kept", "", template));
	archive = archive_of_another(store, base);
	template_unref(template);
	layer_unref(disk);
	layer_unref(base);
	store_close(store);
	srand(1);
	for (int i = 0; i < KILLS; i++) {
		struct timespec wait = { .tv_nsec = rand() % 500000000 };
		pid_t pid = fork();
		uint64_t freed = 0;
		int status;

		CHECK(pid >= 0);
		if (!pid)
			busy(archive);
		nanosleep(&wait, NULL); /* the moment of the kill, not a wait for something */
		kill(pid, SIGKILL);
		CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));

		CHECK(!store_open(dir, &store, &err));
		CHECK(count_files("tmp") == 0);
		snapshot_list(store, check_one, store);
		CHECK(!load(store, "kept", &loaded, &err));
		check_same(loaded->ram_fd, ram);
		template_unref(loaded);
		CHECK(!store_gc(store, &freed, &err) && !freed);
		store_close(store);
	}
	CHECK(!store_open(dir, &store, &err));
	remove_one(store, "next");
	remove_one(store, "moved");
	remove_one(store, "alone");
	remove_one(store, "imported");
	store = reopen(store);
	/* Of "kept": an object of three files, the image's layer and its own, each with sums. */
	CHECK(count_files("objects") == 4 && count_files("layers") == 2 && count_files("sums") == 2);
	close(archive);
	close(ram);
	drop_store(store);
}

/* In a mount namespace of our own, on a filesystem that is too small for a second snapshot. */
static void without_room_nothing_is_left(void)
{
	struct template *template, *loaded;
	struct layer *base, *disk, *second;
	struct err err = { 0 };
	struct store *store;
	int ram;

	store = fresh_store();
	store_close(store);
	shell("mkdir %s/copy && mount -t tmpfs -o size=12m tmpfs %s/copy && cp -a --sparse=always %s "
	      "%s/copy/",
	      root, root, dir, root);
	snprintf(dir, sizeof(dir), "%s/copy/state", root);
	CHECK(!store_open(dir, &store, &err));

	base = image_layer(store);
	disk = frozen_overlay(store, base);
	ram = make_ram(1, 0, 0, 0);
	template = make_template(disk, dup(ram));
	CHECK(!save(store, "first", "", template));
	template_unref(template);
	second = frozen_overlay(store, disk);
	template = make_template(second, make_ram(2, 0, 0, 0));
	for (int i = 0; i < 3; i++)
		CHECK(save(store, "second", "first", template) == -ENOSPC);
	CHECK(count_files("tmp") == 0 && count_files("objects") == 4);
	CHECK(!verify(store, "first", &err));
	/* A save that fits works still, and so does this one when there is room. */
	CHECK(!snapshot_remove(store, "first", &err));
	store_gc(store, &(uint64_t){ 0 }, &err);
	CHECK(!save(store, "second", "", template));
	template_unref(template);
	layer_unref(second);
	layer_unref(disk);
	layer_unref(base);
	store = reopen(store);
	CHECK(!load(store, "second", &loaded, &err));
	template_unref(loaded);
	close(ram);
	store_close(store);
	shell("umount %s/copy && rm -rf %s", root, root);
}

int main(void)
{
	TEST(kill_9_at_any_moment);
	if (!unshare(CLONE_NEWNS | (geteuid() ? CLONE_NEWUSER : 0)) &&
	    !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		TEST(without_room_nothing_is_left);
	else
		printf("skip without_room_nothing_is_left: no mount namespaces here\n");
	return 0;
}
