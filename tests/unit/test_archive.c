/* SPDX-License-Identifier: MIT */
/* test_archive.c - snapshots that travel between stores */
#include "tests/unit/archive_stores.h"

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
	scratch_dir(root);
	TEST(an_archive_is_complete);
	TEST(an_import_shares_what_is_there);
	TEST(since_leaves_out_what_the_base_has);
	TEST(the_parent_is_known_again);
	TEST(damage_is_found_and_leaves_nothing);
	TEST(what_was_removed_comes_back_at_once);
	TEST(giving_up_is_noticed);
	return 0;
}
