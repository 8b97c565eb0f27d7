/* SPDX-License-Identifier: MIT */
#include "snap/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "util/io.h"

static char top[] = "/tmp/test_image.XXXXXX";
static char dir[64], disk[64];

static unsigned counted;

static void count(void *arg, const struct image *image)
{
	CHECK(arg == &counted);
	CHECK(!strcmp(image->name, "base"));
	CHECK(image->size == 8 << 20 && image->stored < 1 << 20 && image->created);
	CHECK(!strcmp(image->source, "import x.tar"));
	counted++;
}

static void count_name(void *arg, const char *name)
{
	CHECK(arg == &counted && !strcmp(name, "base"));
	counted++;
}

/* 8 MiB with "hello" at 5 MiB and a written zero block. */
static void make_disk(void)
{
	static const char zeros[128 * 1024];
	int fd = open(disk, O_RDWR | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0);
	CHECK(!pwrite_all(fd, "hello", 5, 5 << 20));
	CHECK(!pwrite_all(fd, zeros, sizeof(zeros), 1 << 20));
	CHECK(!ftruncate(fd, 8 << 20));
	close(fd);
}

static void what_is_published_is_found(void)
{
	struct err err = { 0 };
	struct image image;
	struct store *store;
	char got[5];
	int fd;

	make_disk();
	CHECK(!image_publish(dir, "base", disk, "import x.tar", &err));
	counted = 0;
	CHECK(!image_each(dir, count, &counted, &err));
	CHECK(counted == 1);
	CHECK(!store_open(dir, &store, &err));
	CHECK(!image_list(store, count_name, &counted));
	CHECK(counted == 2);
	CHECK(!image_get(store, "base", &image, &err));
	CHECK(image.size == 8 << 20 && layer_frozen(image.disk) && layer_depth(image.disk) == 0);
	fd = open(layer_path(image.disk), O_RDONLY);
	CHECK(fd >= 0);
	CHECK(!pread_all(fd, got, 5, 5 << 20) && !memcmp(got, "hello", 5));
	close(fd);
	image_release(&image);
	CHECK(image_get(store, "none", &image, &err) == -ENOENT);
	CHECK(image_get(store, "../x", &image, &err) == -EINVAL);
	store_close(store);
}

static void a_name_is_taken_once(void)
{
	struct err err = { 0 };

	CHECK(image_publish(dir, "base", disk, "again", &err) == -EEXIST);
	CHECK(strstr(err.text, "base"));
	CHECK(image_publish(dir, "a/b", disk, "", &err) == -EINVAL);
	CHECK(image_publish(dir, "other", "/nonexistent", "", &err) == -ENOENT);
	CHECK(image_publish(dir, "other", top, "", &err) == -EINVAL);
	CHECK(!truncate(disk, 1000));
	CHECK(image_publish(dir, "other", disk, "", &err) == -EINVAL);
	make_disk();
}

static unsigned files_in(const char *below)
{
	char command[160];
	unsigned n = 0;
	FILE *out;

	snprintf(command, sizeof(command), "ls %s/%s | wc -l", dir, below);
	out = popen(command, "r");
	CHECK(out && fscanf(out, "%u", &n) == 1);
	pclose(out);
	return n;
}

static void a_disk_in_use_outlives_its_name(void)
{
	struct err err = { 0 };
	struct image image;
	struct store *store;
	uint64_t freed;

	CHECK(!store_open(dir, &store, &err));
	CHECK(!image_get(store, "base", &image, &err));
	CHECK(!image_remove(dir, "base", &err));
	CHECK(image_remove(dir, "base", &err) == -ENOENT);
	CHECK(!store_gc(store, &freed, &err));
	CHECK(!access(layer_path(image.disk), F_OK));
	image_release(&image);
	CHECK(!store_gc(store, &freed, &err) && freed >= 4096);
	CHECK(files_in("layers") == 0);
	store_close(store);
}

static void without_a_daemon_removal_frees_at_once(void)
{
	struct err err = { 0 };

	CHECK(!image_publish(dir, "base", disk, "import x.tar", &err));
	CHECK(files_in("layers") == 1);
	CHECK(!image_remove(dir, "base", &err));
	CHECK(files_in("layers") == 0 && files_in("images") == 0 && files_in("tmp") == 0);
}

static void a_damaged_record_is_refused_and_stops_collection(void)
{
	struct err err = { 0 };
	struct image image;
	struct store *store;
	uint64_t freed;
	char path[96], c;
	int fd;

	CHECK(!image_publish(dir, "base", disk, "import x.tar", &err));
	snprintf(path, sizeof(path), "%s/images/base", dir);
	fd = open(path, O_RDWR);
	CHECK(fd >= 0 && !pread_all(fd, &c, 1, 30));
	c ^= 1;
	CHECK(!pwrite_all(fd, &c, 1, 30));
	CHECK(!store_open(dir, &store, &err));
	CHECK(image_get(store, "base", &image, &err) == -EIO && strstr(err.text, "base"));
	CHECK(store_gc(store, &freed, &err) == -EIO);
	CHECK(files_in("layers") == 1);
	c ^= 1;
	CHECK(!pwrite_all(fd, &c, 1, 30));
	close(fd);
	CHECK(!image_get(store, "base", &image, &err));
	image_release(&image);
	store_close(store);
}

int main(void)
{
	scratch_dir(top);
	snprintf(dir, sizeof(dir), "%s/a/store", top);
	snprintf(disk, sizeof(disk), "%s/disk", top);
	TEST(what_is_published_is_found);
	TEST(a_name_is_taken_once);
	TEST(a_disk_in_use_outlives_its_name);
	TEST(without_a_daemon_removal_frees_at_once);
	TEST(a_damaged_record_is_refused_and_stops_collection);
	return 0;
}
