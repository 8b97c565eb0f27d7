/* SPDX-License-Identifier: MIT */
/*
 * boots.c - boot snapshots: machines that just booted, kept for starts to fork
 *
 * One is found by its name, loaded or made while any number of starts wait, and answers all of them. Then it is
 * saved, a moment later, so that the starts come first.
 */
#include "fs/start/boots.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/dirs/info.h"
#include "fs/sandbox/requirements.h"
#include "fs/snapshot/snapshot.h"
#include "fs/start/boot_key.h"
#include "fs/start/first_boot.h"
#include "util/log.h"

enum {
	SAVE_MS = 1000,
	FAILURES = 2, /* then its starts boot */
};

struct boot {
	struct list link; /* boots->all */
	struct fs *fs;
	char name[BOOT_NAME_SIZE];
	struct snapshot *snap; /* NULL: there is none yet, or none any more */
	struct list waiting;   /* struct boot_wait */
	bool busy;             /* it is loaded or made */
	bool dropped;          /* the daemon ends: it is freed when that is over */
	struct first_boot *first;
	struct timer timer;  /* until it is saved */
	struct layer *image; /* a reference, while it is busy */
	struct shape shape;
	char image_name[STORE_NAME_MAX + 1];
	unsigned failures;
};

struct boots {
	struct list all; /* struct boot, the one used last first */
	unsigned n;
	struct boot_files files;
};

/* What the store has of them is there for the next daemon. */
static void keep_in_memory_only(struct fs *fs)
{
	struct boot *boot;

	list_for_each (boot, &fs->boots->all, link) {
		struct snapshot *snap = boot->snap;

		timer_stop(&boot->timer);
		if (!snap || !snap->stored || boot->busy || snapshot_remove(fs->store, boot->name, NULL))
			continue;
		snap->stored = false;
		if (snap->template)
			continue;
		boot->snap = NULL;
		snapshot_drop(snap);
	}
}

int boots_open(struct fs *fs, struct err *err)
{
	fs->boots = calloc(1, sizeof(*fs->boots));
	if (!fs->boots)
		return err_sys(err, -ENOMEM, "cannot keep boot snapshots");
	list_init(&fs->boots->all);
	fs->store_short = keep_in_memory_only;
	return 0;
}

void boots_close(struct fs *fs)
{
	free(fs->boots);
	fs->boots = NULL;
}

static struct boot *find(const struct fs *fs, const char *name)
{
	struct boot *boot;

	list_for_each (boot, &fs->boots->all, link)
		if (!strcmp(boot->name, name))
			return boot;
	return NULL;
}

static struct boot *boot_new(struct fs *fs, const char *name)
{
	struct boot *boot = calloc(1, sizeof(*boot));

	if (!boot)
		return NULL;
	boot->fs = fs;
	memcpy(boot->name, name, sizeof(boot->name));
	list_init(&boot->waiting);
	list_insert(&fs->boots->all, fs->boots->all.next, &boot->link);
	fs->boots->n++;
	return boot;
}

/* Neither memory nor the store has it any more. */
static void lose(struct boot *boot)
{
	struct snapshot *snap = boot->snap;
	struct err err;

	timer_stop(&boot->timer);
	boot->snap = NULL;
	if (!snap)
		return;
	if (snap->stored && snapshot_remove(boot->fs->store, boot->name, &err) && err.code != -ENOENT)
		log_warn("a boot snapshot stays: %s", err.text);
	snapshot_drop(snap);
}

static void forget(struct boot *boot)
{
	lose(boot);
	list_del(&boot->link);
	boot->fs->boots->n--;
	free(boot);
}

/* ---- what the store has */

struct found {
	struct fs *fs;
	bool failed;
};

static void add_stored(void *arg, const char *name)
{
	struct found *found = arg;
	struct boot *boot = boot_new(found->fs, name);

	if (boot)
		boot->snap = snapshot_new_boot(found->fs, name, NULL, NULL);
	found->failed |= !boot || !boot->snap;
}

int boots_load(struct fs *fs, struct err *err)
{
	struct found found = { .fs = fs };

	/* Now, when nobody waits. What cannot be read is told to who boots it. */
	if (fs->options.boot_snapshots)
		boot_files_read(fs, &fs->boots->files, NULL);
	boot_snapshot_list(fs->store, add_stored, &found);
	return found.failed ? err_sys(err, -ENOMEM, "cannot list the boot snapshots") : 0;
}

/* "": it cannot be read. */
static const char *image_of(struct boot *boot)
{
	return boot->snap->has_meta || !snapshot_read_meta(boot->snap, NULL) ? boot->snap->meta.image : "";
}

/* Whether a start can ask for it: its image, kernel and initramfs are what they were. */
static bool current(struct boot *boot)
{
	const struct snapshot_meta *meta = &boot->snap->meta;
	char name[BOOT_NAME_SIZE];
	struct image image;
	int rc;

	if (snapshot_read_meta(boot->snap, NULL) || image_get(boot->fs->store, meta->image, &image, NULL))
		return false;
	rc = boot_key(boot->fs, &boot->fs->boots->files, image.disk, &meta->shape, name, NULL);
	image_release(&image);
	return !rc && !strcmp(name, boot->name);
}

/* Of this image, or (NULL) of any. */
static void sweep(struct fs *fs, const char *image)
{
	struct boot *boot, *next;

	for (boot = list_entry(fs->boots->all.next, struct boot, link); &boot->link != &fs->boots->all;
	     boot = next) {
		next = list_entry(boot->link.next, struct boot, link);
		if (boot->busy || !boot->snap)
			continue;
		if (image && *image_of(boot) && strcmp(image_of(boot), image) != 0)
			continue;
		if (!current(boot))
			forget(boot);
	}
}

void boots_sweep(struct fs *fs)
{
	sweep(fs, NULL);
}

/* Those used least recently give way, but for those under way. */
static bool make_room(struct fs *fs)
{
	struct boot *boot, *before;

	for (boot = list_entry(fs->boots->all.prev, struct boot, link);
	     &boot->link != &fs->boots->all && fs->boots->n >= fs->options.boot_snapshots; boot = before) {
		before = list_entry(boot->link.prev, struct boot, link);
		if (!boot->busy)
			forget(boot);
	}
	return fs->boots->n < fs->options.boot_snapshots;
}

void boots_failed(struct fs *fs, const char *name)
{
	struct boot *boot = find(fs, name);

	/* A shortage of a moment, or several forks at once, count once: they were of one snapshot. */
	if (!boot || boot->busy || !boot->snap)
		return;
	boot->failures++;
	lose(boot);
}

/* ---- getting one */

static void answer(struct boot *boot, const struct err *err)
{
	const struct err copy = *err;
	struct boot_wait *wait;

	layer_unref(boot->image);
	boot->image = NULL;
	while ((wait = list_first(&boot->waiting, struct boot_wait, link))) {
		list_del(&wait->link);
		wait->done(wait, &copy, copy.code ? NULL : boot->snap);
	}
	boot->busy = false;
}

static void save(void *arg)
{
	struct boot *boot = arg;

	if (boot->fs->forking)
		timer_start(boot->fs->loop, &boot->timer, SAVE_MS * 1000000ull, save, boot);
	else
		snapshot_save_boot(boot->snap);
}

static int keep(struct boot *boot, struct template *template, struct err *err)
{
	struct snapshot_meta meta = {
		.created = now_real_ns(),
		.pause_ns = template->pause_ns,
		.shape = template->shape,
		.ram_logical = template->ram_size,
		.next_job = 1,
	};

	memcpy(meta.image, boot->image_name, sizeof(meta.image));
	memcpy(meta.engine, template->engine, sizeof(meta.engine));
	requires_put_host(boot->fs, &meta.requires);
	if (meta.requires.failed)
		template_unref(template);
	else
		boot->snap = snapshot_new_boot(boot->fs, boot->name, template, &meta);
	if (boot->snap)
		return 0;
	snapshot_meta_release(&meta);
	return err_sys(err, -ENOMEM, "cannot keep a boot snapshot");
}

static void on_made(void *arg, const struct err *err, struct template *template)
{
	struct boot *boot = arg;
	struct err failed = *err;

	boot->first = NULL;
	if (!failed.code)
		keep(boot, template, &failed);
	if (failed.code)
		boot->failures += !err_shortage(failed.code);
	else
		timer_start(boot->fs->loop, &boot->timer, SAVE_MS * 1000000ull, save, boot);
	answer(boot, &failed);
}

static void make(struct boot *boot)
{
	struct err err;

	log_debug("%s: a machine boots, to be the boot snapshot of %s", boot->name, boot->image_name);
	if (first_boot(boot->fs, boot->image, &boot->shape, on_made, boot, &boot->first, &err))
		answer(boot, &err);
}

static void on_loaded(void *arg, const struct err *err)
{
	struct boot *boot = arg;

	if (boot->dropped) {
		layer_unref(boot->image);
		free(boot);
		return;
	}
	if (!err->code) {
		answer(boot, err);
		return;
	}
	log_info("a boot snapshot is made anew: %s", err->text);
	lose(boot);
	make(boot);
}

static void refuse(struct boot_wait *wait, int code, const char *why)
{
	struct err err;

	err_set(&err, code, "%s", why);
	wait->done(wait, &err, NULL);
}

/* The one of this name, of this image, which is the one used last now. One that is new may be another's successor. */
static struct boot *reach(struct fs *fs, const char *name, const char *image)
{
	struct boot *boot = find(fs, name);

	if (boot) {
		list_del(&boot->link);
		list_insert(&fs->boots->all, fs->boots->all.next, &boot->link);
		return boot;
	}
	sweep(fs, image);
	return make_room(fs) ? boot_new(fs, name) : NULL;
}

static void get(struct boot *boot, const struct sandbox *sb, struct layer *image, struct boot_wait *wait)
{
	static const struct err ok;

	if (boot->snap && boot->snap->template && !boot->busy) {
		wait->done(wait, &ok, boot->snap);
		return;
	}
	list_add(&boot->waiting, &wait->link);
	if (boot->busy)
		return;
	boot->busy = true;
	boot->image = layer_ref(image);
	boot->shape = sb->shape;
	memcpy(boot->image_name, sb->image, sizeof(boot->image_name));
	if (boot->snap)
		snapshot_template(boot->snap, on_loaded, boot);
	else
		make(boot);
}

void boots_get(struct sandbox *sb, struct boot_wait *wait)
{
	struct fs *fs = sb->obj.fs;
	char name[BOOT_NAME_SIZE];
	struct image image;
	struct boot *boot;
	struct err err;
	int rc = image_get(fs->store, sb->image, &image, &err);

	if (!rc) {
		rc = boot_key(fs, &fs->boots->files, image.disk, &sb->shape, name, &err);
		if (rc)
			image_release(&image);
	}
	if (rc) {
		wait->done(wait, &err, NULL);
		return;
	}
	boot = reach(fs, name, sb->image);
	if (!boot)
		refuse(wait, -EBUSY, "as many of them as may be are being made");
	else if (boot->failures >= FAILURES)
		refuse(wait, -EIO, "it failed before");
	else
		get(boot, sb, image.disk, wait);
	image_release(&image);
}

/* ---- status and the end */

void boots_status(struct fs *fs, struct buf *text)
{
	uint64_t n = 0, stored = 0, bytes = 0;
	struct boot *boot;

	list_for_each (boot, &fs->boots->all, link) {
		if (!boot->snap)
			continue;
		n++;
		stored += boot->snap->stored;
		if (boot->snap->stored && !snapshot_read_meta(boot->snap, NULL))
			bytes += boot->snap->meta.own;
	}
	info_number(text, "boot_snapshots", n);
	info_number(text, "boot_snapshots_stored", stored);
	info_number(text, "boot_snapshots_bytes", bytes);
}

void boots_drop(struct fs *fs)
{
	struct boot *boot;

	while ((boot = list_first(&fs->boots->all, struct boot, link))) {
		const bool loads = boot->busy && !boot->first;

		list_del(&boot->link);
		timer_stop(&boot->timer);
		first_boot_cancel(boot->first);
		boot->dropped = true;
		if (boot->snap)
			snapshot_drop(boot->snap);
		if (loads)
			continue; /* on_loaded is to come */
		layer_unref(boot->image);
		free(boot);
	}
}
