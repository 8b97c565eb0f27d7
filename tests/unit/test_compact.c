/* SPDX-License-Identifier: MIT */
/* test_compact.c - long chains of layers, merged; qemu-img says what is right */
#include "snap/compact.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "snap/image.h"
#include "snap/qcow2/chain.h"
#include "snap/store_priv.h"
#include "snap/sums.h"
#include "tests/unit/plain_template.h"
#include "tests/unit/unit.h"
#include "util/io.h"

enum { KIB = 1024, MIB = 1 << 20, LAYERS = 20 };

/* Two L2 tables, and an end within a cluster. */
#define DISK (600ll * MIB + 3 * 512)

static char root[] = "/tmp/sbx-compact-XXXXXX";
static char dir[64];
static struct layer *chain_of[LAYERS];

static void save(struct store *store, const char *name, struct layer *disk)
{
	struct template *template = plain_template(disk, memfd_new("ram", MIB), MIB, memfd_new("state", 0));
	struct snapshot_meta meta = { 0 };
	struct err err = { 0 };
	struct save *work;

	snprintf(meta.name, sizeof(meta.name), "%s", name);
	CHECK(!snapshot_save_begin(store, &meta, template, NULL, &work, &err));
	CHECK(!snapshot_save_end(work, snapshot_save_run(work), &err));
	template_unref(template);
}

static int verify(struct store *store, const char *name, struct err *err)
{
	struct visit *work;
	int rc = snapshot_verify_begin(store, name, NULL, &work, err);

	return rc ? rc : snapshot_verify_end(work, snapshot_visit_run(work), err);
}

/* LAYERS overlays on an image; every one writes, zeroes and discards somewhere. */
static struct store *store_with_chain(void)
{
	char disk[96];
	struct err err = { 0 };
	struct store *store;
	struct image image;
	struct layer *base;
	int fd;

	snprintf(disk, sizeof(disk), "%s/disk", root);
	snprintf(dir, sizeof(dir), "%s/store", root);
	fd = open(disk, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && !ftruncate(fd, DISK));
	for (unsigned i = 0; i < 64; i++)
		CHECK(!pwrite_all(fd, "image", 5, i * 256ull * KIB));
	CHECK(!pwrite_all(fd, "end", 3, DISK - 3));
	close(fd);
	CHECK(!image_publish(dir, "base", disk, "test", &err));
	CHECK(!store_open(dir, &store, &err));
	CHECK(!image_get(store, "base", &image, &err));
	base = image.disk;
	for (unsigned i = 0; i < LAYERS; i++) {
		CHECK(!layer_overlay(store, base, &chain_of[i], &err));
		shell("qemu-io -f qcow2 -c 'write -P %u %uk 100k' -c 'write -z %uk 64k' -c 'discard %uk "
		      "128k' "
		      "-c 'write -P %u %uM 4k' %s >/dev/null",
		      i + 1, i * 200, (i * 7 % 20) * 256, (i * 3 % 20) * 192, i + 100, 560 + i % 7,
		      layer_path(chain_of[i]));
		layer_freeze(chain_of[i]);
		base = chain_of[i];
	}
	CHECK(layer_depth(base) == LAYERS);
	image_release(&image);
	return store;
}

static bool compact(struct store *store, unsigned depth)
{
	struct progress progress = { 0 };
	struct compact *work;
	struct err err = { 0 };

	CHECK(!compact_begin(store, depth, &progress, &work, &err));
	if (!work)
		return false;
	CHECK(!compact_end(work, compact_run(work), &err));
	return true;
}

/* The disk through the chain as our reader has it, into a raw file. */
static void dump(struct store *store, struct layer *layer, const char *to)
{
	static uint8_t block[192 * KIB + 512];
	struct chain *chain;
	struct err err = { 0 };
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", root, to);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && !chain_open(store->layers_fd, layer->file, false, &chain, &err));
	CHECK(chain_size(chain) == DISK && !ftruncate(fd, DISK));
	for (uint64_t at = 0; at < DISK; at += sizeof(block)) {
		size_t n = DISK - at < sizeof(block) ? (size_t)(DISK - at) : sizeof(block);

		CHECK(!chain_read(chain, block, n, at, &err));
		if (block[0] || memcmp(block, block + 1, n - 1) != 0)
			CHECK(!pwrite_all(fd, block, n, at));
	}
	CHECK(chain_read(chain, block, 2, DISK - 1, &err) == -EINVAL);
	chain_free(chain);
	close(fd);
}

static void expect_content(struct layer *layer, const char *raw)
{
	shell("qemu-img compare -q -f raw -F qcow2 %s/%s %s", root, raw, layer_path(layer));
	shell("qemu-img check -q %s", layer_path(layer));
}

static struct store *store;

static void a_chain_reads_as_qemu_reads_it(void)
{
	store = store_with_chain();
	dump(store, chain_of[LAYERS - 1], "top.raw");
	dump(store, chain_of[9], "middle.raw");
	expect_content(chain_of[LAYERS - 1], "top.raw");
	expect_content(chain_of[9], "middle.raw");
}

static void merged_layers_read_the_same(void)
{
	struct err err = { 0 };
	unsigned before = layer_depth(chain_of[LAYERS - 1]);

	save(store, "middle", chain_of[9]);
	save(store, "top", chain_of[LAYERS - 1]);
	CHECK(compact(store, 8));
	CHECK(layer_depth(chain_of[7]) == 1);
	CHECK(layer_depth(chain_of[LAYERS - 1]) == before - 7);
	while (compact(store, 8))
		;
	CHECK(layer_depth(chain_of[LAYERS - 1]) < 8);
	for (unsigned i = 0; i < LAYERS; i++)
		CHECK(layer_depth(chain_of[i]) < 8);
	expect_content(chain_of[LAYERS - 1], "top.raw");
	expect_content(chain_of[9], "middle.raw");
	CHECK(!verify(store, "middle", &err));
	CHECK(!verify(store, "top", &err));
}

static void open_files_stay_readable(void)
{
	struct layer *top = chain_of[LAYERS - 1], *overlay;
	char path[160], command[320];
	struct err err = { 0 };
	FILE *pipe;

	/* A machine on the old chain... */
	CHECK(!layer_overlay(store, top, &overlay, &err));
	snprintf(path, sizeof(path), "%s", layer_path(overlay));
	snprintf(command, sizeof(command), "qemu-io -f qcow2 %s >%s/io.out 2>&1", path, root);
	pipe = popen(command, "w"); /* NOLINT(cert-env33-c): a test's own words */
	CHECK(pipe);
	fprintf(pipe, "read -P 20 3800k 4k\n");
	fflush(pipe);
	/* ...has opened it once the output says so. */
	shell("until grep -q 'read 4096' %s/io.out; do sleep 0.05; done", root);
	CHECK(compact(store, 2));
	compact_settle(store);
	fprintf(pipe, "read -P 113 566M 4k\nread -P 20 3840k 4k\nwrite -P 77 1M 64k\n");
	CHECK(pclose(pipe) == 0);
	shell("! grep -qi 'fail\\|error' %s/io.out", root);
	layer_unref(overlay);
	expect_content(top, "top.raw");
}

static unsigned count_layers(void)
{
	char command[192];
	unsigned n;
	FILE *pipe;

	background_flush(store->background);
	snprintf(command, sizeof(command), "ls %s/layers %s/tmp | grep -c qcow2", dir, dir);
	pipe = popen(command, "r"); /* NOLINT(cert-env33-c): a test's own words */
	CHECK(pipe && fscanf(pipe, "%u", &n) == 1);
	pclose(pipe);
	return n;
}

static void what_is_merged_away_is_freed(void)
{
	struct err err = { 0 };

	while (compact(store, 2))
		;
	for (unsigned i = 0; i < LAYERS; i++)
		layer_unref(chain_of[i]);
	compact_settle(store);
	CHECK(count_layers() == 2);
	CHECK(!verify(store, "middle", &err) && !verify(store, "top", &err));
	store_close(store);
	CHECK(!store_open(dir, &store, &err));
	CHECK(count_layers() == 2);
	CHECK(!verify(store, "middle", &err) && !verify(store, "top", &err));
}

/* What each step leaves if the daemon dies after it. */
static void a_crash_between_the_steps_is_survived(void)
{
	struct err err = { 0 };
	struct layer *top = catalogue_find(store, "top")->disk, *overlay, *upper;
	struct compact *work;
	char file[LAYER_FILE_MAX];

	CHECK(!layer_overlay(store, top, &overlay, &err));
	layer_freeze(overlay);
	CHECK(!layer_overlay(store, overlay, &upper, &err));
	layer_freeze(upper);
	save(store, "upper", upper);
	memcpy(file, upper->file, sizeof(file));
	layer_unref(overlay);
	layer_unref(upper);

	/* Step 1 only: the worker was done. */
	CHECK(!compact_begin(store, 3, NULL, &work, &err) && work && !compact_run(work));
	shell("test -e %s/sums/%s.next", dir, file);
	CHECK(!verify(store, "upper", &err));
	shell("cp -a %s %s/crash1", dir, root);
	CHECK(!compact_end(work, 0, &err));
	background_flush(store->background);
	shell("test ! -e %s/sums/%s.next", dir, file);
	/* Step 2 but not 3: the new layer, the old checksums, and the new ones that wait. */
	shell("cp -a %s %s/crash2 && cp %s/sums/%s %s/crash2/sums/%s.next && cp %s/crash1/sums/%s "
	      "%s/crash2/sums/",
	      dir, root, dir, file, root, file, root, file, root);
	CHECK(!verify(store, "upper", &err));
	store_close(store);

	for (unsigned crash = 1; crash <= 2; crash++) {
		char copy[96];

		snprintf(copy, sizeof(copy), "%s/crash%u", root, crash);
		CHECK(!store_open(copy, &store, &err));
		shell("test ! -e %s/sums/%s.next && test -z \"$(ls %s/tmp)\"", copy, file, copy);
		CHECK(!verify(store, "upper", &err) && !verify(store, "top", &err));
		CHECK(layer_depth(catalogue_find(store, "upper")->disk) == (crash == 1 ? 3 : 1));
		store_close(store);
	}
}

int main(void)
{
	scratch_dir(root);
	TEST(a_chain_reads_as_qemu_reads_it);
	TEST(merged_layers_read_the_same);
	TEST(open_files_stay_readable);
	TEST(what_is_merged_away_is_freed);
	TEST(a_crash_between_the_steps_is_survived);
	return 0;
}
