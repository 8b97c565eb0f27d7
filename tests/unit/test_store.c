/* SPDX-License-Identifier: MIT */
/* test_store.c - layers, snapshots and garbage, in a store below $TMPDIR */
#include "snap/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/unit/store_fixture.h"
#include "tests/unit/unit.h"

static void names_are_checked(void)
{
	char name[STORE_NAME_MAX + 2];

	CHECK(name_valid("a") && name_valid("9") && name_valid("A.b_c-d"));
	CHECK(!name_valid("") && !name_valid(".x") && !name_valid("-x") && !name_valid("a/b") &&
	      !name_valid("a b"));
	memset(name, 'a', sizeof(name));
	name[STORE_NAME_MAX + 1] = '\0';
	CHECK(!name_valid(name));
	name[STORE_NAME_MAX] = '\0';
	CHECK(name_valid(name));
}

static void one_daemon_a_store(void)
{
	struct store *store = fresh_store(), *other;
	struct err err = { 0 };

	CHECK(store_open(dir, &other, &err) == -EBUSY);
	drop_store(store);
}

struct successor {
	pthread_t thread;
	_Atomic pid_t tid;
	_Atomic bool closed; /* the one before has the store no longer */
	_Atomic bool has_it;
};

static void *succeed(void *arg)
{
	struct successor *successor = arg;
	struct store *store;
	struct err err = { 0 };

	successor->tid = gettid();
	CHECK(!store_open(dir, &store, &err));
	successor->has_it = true;
	CHECK(successor->closed);
	drop_store(store);
	return NULL;
}

static bool is_in_flock(pid_t tid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", getpid(), tid);
	return shell_number("cut -d' ' -f1 <%s | sed s/running/0/", path) == SYS_flock;
}

static void the_next_daemon_waits_for_one_that_is_ending(void)
{
	struct successor successor = { 0 };
	struct store *store = fresh_store();

	store_retire(store);
	CHECK(!pthread_create(&successor.thread, NULL, succeed, &successor));
	while (!successor.has_it && !(successor.tid && is_in_flock(successor.tid)))
		sched_yield();
	CHECK(!successor.has_it);
	successor.closed = true;
	store_close(store);
	CHECK(!pthread_join(successor.thread, NULL));
}

static void overlays_are_what_qemu_says_they_are(void)
{
	struct store *store = fresh_store();
	struct layer *base = image_layer(store), *middle, *top;

	middle = frozen_overlay(store, base);
	top = frozen_overlay(store, middle);
	CHECK(layer_depth(top) == 2 && layer_base(top) == middle && layer_virtual_size(top) == 64 * MIB);
	shell("qemu-img check -q %s && test $(qemu-img info --backing-chain %s | grep -c '^file format') = "
	      "3 && "
	      "qemu-img compare -q %s %s",
	      layer_path(top), layer_path(top), layer_path(top), layer_path(base));
	layer_unref(base);
	layer_unref(middle);
	CHECK(count_files("layers") == 3);
	layer_unref(top);
	store = reopen(store);
	CHECK(count_files("layers") == 1);
	drop_store(store);
}

static void a_snapshot_survives_the_daemon(void)
{
	struct store *store = fresh_store();
	struct layer *base = image_layer(store), *disk = frozen_overlay(store, base);
	struct template *template = make_template(disk, make_ram(1, 0, 0, 0)), *loaded;
	struct snapshot_meta meta;
	struct err err = { 0 };
	char state[64];

	layer_unref(base);
	layer_unref(disk);
	CHECK(save(store, "one", "", template) == 0);
	CHECK(save(store, "one", "", template) == -EEXIST);
	disk = NULL;
	CHECK(!snapshot_get(store, "one", &meta, &err));
	CHECK(!strcmp(meta.source, "vm1") && !strcmp(meta.engine, "test") && meta.next_job == 5);
	CHECK(meta.env.len == 24 && !memcmp(buf_bytes(&meta.env), "A=1\nB=two words\nC=a\0\\n\0\n", 24));
	CHECK(meta.requires.len == strlen("cpu avx2\n"));
	CHECK(meta.ram_logical == RAM && meta.disk_logical == 64 * MIB && meta.ram_stored < RAM && meta.own);
	snapshot_meta_release(&meta);
	CHECK(!verify(store, "one", &err));

	template_unref(template);
	store = reopen(store);
	CHECK(count_files("tmp") == 0 && count_files("objects") == 4 && count_files("layers") == 2);
	CHECK(!load(store, "one", &loaded, &err));
	template = make_template(loaded->disk, make_ram(1, 0, 0, 0));
	check_same(template->ram_fd, loaded->ram_fd);
	CHECK(!pread_all(loaded->state_fd, state, sizeof("the state of devices"), 0));
	CHECK(!strcmp(state, "the state of devices"));
	CHECK(loaded->generation == 3 && loaded->quiesced == 1 && loaded->shape.cpus_max == 4);
	CHECK(fcntl(loaded->ram_fd, F_GET_SEALS) & F_SEAL_WRITE);
	CHECK(lseek(loaded->ram_fd, 3 * RAM_PAGE, SEEK_DATA) == 4 * RAM_PAGE);

	CHECK(!snapshot_rename(store, "one", "two", &err));
	CHECK(snapshot_get(store, "one", &meta, &err) == -ENOENT);
	CHECK(!snapshot_remove(store, "two", &err));
	CHECK(snapshot_remove(store, "two", &err) == -ENOENT);
	CHECK(!access(layer_path(loaded->disk), F_OK)); /* the template needs it */
	template_unref(template);
	template_unref(loaded);
	store = reopen(store);
	CHECK(count_files("objects") == 0 && count_files("layers") == 1 && count_files("sums") == 1);
	drop_store(store);
}

/* Ten snapshots, each of a machine forked from the one before, then every second one goes. */
static void children_need_no_parents(void)
{
	struct store *store = fresh_store();
	struct layer *base = image_layer(store), *disk = layer_ref(base);
	struct snapshot_meta meta;
	struct template *loaded;
	struct err err = { 0 };
	char name[8] = "", parent[8];
	int rams[10];

	for (unsigned i = 0; i < 10; i++) {
		struct layer *top = frozen_overlay(store, disk);
		struct template *template;

		layer_unref(disk);
		disk = top;
		rams[i] = make_ram(1, 256 * i, 256 * i + 256, 100 + i); /* a MiB is different */
		template = make_template(disk, dup(rams[i]));
		memcpy(parent, name, sizeof(parent));
		snprintf(name, sizeof(name), "s%u", i);
		CHECK(!save(store, name, parent, template));
		template_unref(template);
		CHECK(!snapshot_get(store, name, &meta, &err));
		CHECK(!strcmp(meta.parent, parent));
		CHECK(i == 0 || meta.ram_stored < 3 * MIB);
		snapshot_meta_release(&meta);
	}
	layer_unref(disk);
	layer_unref(base);
	store = reopen(store);
	for (unsigned i = 0; i < 10; i += 2) {
		snprintf(name, sizeof(name), "s%u", i);
		CHECK(!snapshot_remove(store, name, &err));
	}
	store = reopen(store);
	for (unsigned i = 1; i < 10; i += 2) {
		snprintf(name, sizeof(name), "s%u", i);
		CHECK(!verify(store, name, &err));
		CHECK(!load(store, name, &loaded, &err));
		check_same(loaded->ram_fd, rams[i]);
		CHECK(!snapshot_get(store, name, &meta, &err) && !meta.parent[0]);
		snapshot_meta_release(&meta);
		template_unref(loaded);
		CHECK(!snapshot_remove(store, name, &err));
	}
	store = reopen(store);
	CHECK(count_files("objects") == 0 && count_files("layers") == 1);
	for (unsigned i = 0; i < 10; i++)
		close(rams[i]);
	drop_store(store);
}

static bool is_owner(struct store *store, const char *name, uid_t uid, gid_t gid, mode_t mode)
{
	struct owner owner;
	struct err err = { 0 };

	return !snapshot_owner(store, name, &owner, &err) && owner.uid == uid && owner.gid == gid &&
	       owner.mode == mode;
}

static void owners_last(void)
{
	static const char *const bad[] = { "", "sbxfs-owner 1\nuid 0\ngid 0\nmode 0777\n" };
	const struct owner alice = { 1000, 1001, 0750 };
	struct store *store = fresh_store();
	struct layer *base = image_layer(store), *disk = frozen_overlay(store, base);
	struct template *template = make_template(disk, make_ram(1, 0, 0, 0));
	struct owner owner;
	struct err err = { 0 };

	CHECK(snapshot_owner(store, "one", &owner, &err) == -ENOENT);
	CHECK(snapshot_set_owner(store, "one", &alice, &err) == -ENOENT);
	CHECK(!save(store, "one", "", template));
	CHECK(is_owner(store, "one", 0, 0, 0)); /* what the fixture names */
	CHECK(!snapshot_set_owner(store, "one", &alice, &err));
	CHECK(is_owner(store, "one", 1000, 1001, 0750));
	CHECK(!snapshot_rename(store, "one", "two", &err));
	/* As a daemon that ends has let go of all of them. */
	template_unref(template);
	layer_unref(disk);
	layer_unref(base);
	store = reopen(store);
	CHECK(is_owner(store, "two", 1000, 1001, 0750));
	CHECK(count_files("tmp") == 0 && count_files("objects") == 4);
	/* Damage is told from silence, and a store of before there were owners has none. */
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		shell("for f in %s/objects/*/owner; do printf '%s' > $f; done", dir, bad[i]);
		CHECK(snapshot_owner(store, "two", &owner, &err) == -EIO);
	}
	shell("rm %s/objects/*/owner", dir);
	CHECK(snapshot_owner(store, "two", &owner, &err) == -ENOENT);
	CHECK(!snapshot_set_owner(store, "two", &alice, &err));
	CHECK(is_owner(store, "two", 1000, 1001, 0750));
	drop_store(store);
}

/* A parent's name goes, and with it all that its child does not refer to. */
static void a_parent_shrinks_to_what_is_needed(void)
{
	struct store *store = fresh_store();
	struct layer *base = image_layer(store), *disk = frozen_overlay(store, base);
	/* The child has changed all but the last 4 MiB of 32. */
	int ram = make_ram(1, 0, 28 * MIB / RAM_PAGE, 2);
	struct template *template = make_template(disk, make_ram(1, 0, 0, 0)), *loaded;
	struct snapshot_meta meta;
	struct err err = { 0 };
	uint64_t before, whole;

	CHECK(!save(store, "parent", "", template));
	template_unref(template);
	whole = disk_usage("objects");
	template = make_template(disk, dup(ram));
	CHECK(!save(store, "child", "parent", template));
	template_unref(template);
	layer_unref(disk);
	layer_unref(base);
	CHECK(!snapshot_get(store, "parent", &meta, &err) && meta.own < whole / 8);
	snapshot_meta_release(&meta);
	CHECK(!snapshot_get(store, "child", &meta, &err) && meta.own < whole);
	snapshot_meta_release(&meta);
	before = disk_usage("objects");
	CHECK(!snapshot_remove(store, "parent", &err));
	store = reopen(store);
	CHECK(disk_usage("objects") + whole * 3 / 4 < before);
	CHECK(count_files("objects") == 5);
	CHECK(!verify(store, "child", &err));
	CHECK(!load(store, "child", &loaded, &err));
	check_same(loaded->ram_fd, ram);
	template_unref(loaded);
	CHECK(!snapshot_get(store, "child", &meta, &err) && meta.own > whole);
	snapshot_meta_release(&meta);
	close(ram);
	drop_store(store);
}

/* Everything that is stored and matters is covered by a checksum. */
static void a_flipped_bit_is_found(void)
{
	static const char *const files[] = { "objects/*/manifest", "objects/*/state", "objects/*/ram",
					     "layers/*", "sums/*" };
	struct store *store = fresh_store();
	struct layer *base = image_layer(store), *disk = frozen_overlay(store, base);
	struct template *template = make_template(disk, make_ram(1, 0, 0, 0)), *loaded;
	struct err err = { 0 };

	layer_unref(base);
	layer_unref(disk);
	CHECK(!save(store, "one", "", template));
	template_unref(template);
	for (size_t f = 0; f < sizeof(files) / sizeof(files[0]); f++) {
		char command[256], path[256];
		FILE *pipe;

		snprintf(command, sizeof(command), "ls %s/%s", dir, files[f]);
		pipe = popen(command, "r"); /* NOLINT(cert-env33-c): a test's own words */
		while (pipe && fgets(path, sizeof(path), pipe)) {
			struct stat st;
			uint8_t last;
			int fd;

			path[strcspn(path, "\n")] = '\0';
			chmod(path, 0600);
			fd = open(path, O_RDWR | O_CLOEXEC);
			CHECK(fd >= 0 && !fstat(fd, &st) && st.st_size);
			for (unsigned k = 0; k < 40; k++) {
				off_t at = k < 20 ? k * 3 % st.st_size : (off_t)(st.st_size * (k - 20) / 20);
				uint8_t byte;

				CHECK(pread(fd, &byte, 1, at) == 1);
				byte ^= 1u << k % 8;
				CHECK(pwrite(fd, &byte, 1, at) == 1);
				if (!verify(store, "one", &err)) {
					fprintf(stderr, "%s: byte %lld\n", path, (long long)at);
					exit(1);
				}
				store_close(store);
				CHECK(!store_open(dir, &store, &err));
				CHECK(load(store, "one", &loaded, &err) < 0);
				byte ^= 1u << k % 8;
				CHECK(pwrite(fd, &byte, 1, at) == 1);
				store = reopen(store);
			}
			CHECK(pread(fd, &last, 1, st.st_size - 1) == 1 && !ftruncate(fd, st.st_size - 1));
			CHECK(verify(store, "one", &err) < 0);
			store = reopen(store);
			CHECK(load(store, "one", &loaded, &err) < 0);
			CHECK(pwrite(fd, &last, 1, st.st_size - 1) == 1);
			close(fd);
			store = reopen(store);
			CHECK(!verify(store, "one", &err));
		}
		if (pipe)
			pclose(pipe);
	}
	drop_store(store);
}

int main(void)
{
	TEST(names_are_checked);
	TEST(one_daemon_a_store);
	TEST(the_next_daemon_waits_for_one_that_is_ending);
	TEST(overlays_are_what_qemu_says_they_are);
	TEST(a_snapshot_survives_the_daemon);
	TEST(children_need_no_parents);
	TEST(owners_last);
	TEST(a_parent_shrinks_to_what_is_needed);
	TEST(a_flipped_bit_is_found);
	return 0;
}
