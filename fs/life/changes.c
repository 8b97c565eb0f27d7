/* SPDX-License-Identifier: MIT */
/*
 * changes.c - what is stored of a sandbox follows its settings
 *
 * A change is stored at once, and costs its user nothing but a write. A record can be megabytes, though, with the
 * streams of its jobs, and this is the loop's thread: whoever changes settings in a loop would hold up all others. So
 * no more than one part in SHARE of the time goes into it; what comes sooner waits for its turn, each sandbox once,
 * however often it changed meanwhile.
 */
#include <stdlib.h>

#include "fs/life/life.h"
#include "fs/sandbox/sandbox.h"

enum { SHARE = 20 };

struct changes {
	struct list waiting; /* of sandboxes, the longest first */
	struct timer timer;
	uint64_t until_ns; /* none is stored before */
};

int changes_open(struct fs *fs, struct err *err)
{
	fs->changes = calloc(1, sizeof(*fs->changes));
	if (!fs->changes)
		return err_sys(err, -ENOMEM, "cannot store changes of sandboxes");
	list_init(&fs->changes->waiting);
	return 0;
}

void changes_stop(struct fs *fs)
{
	timer_stop(&fs->changes->timer);
}

void changes_close(struct fs *fs)
{
	free(fs->changes);
	fs->changes = NULL;
}

static void store_next(void *arg)
{
	struct fs *fs = arg;
	struct changes *changes = fs->changes;
	struct sandbox *sb = list_first(&changes->waiting, struct sandbox, life.change);
	const uint64_t began = now_mono_ns();
	uint64_t now;

	if (!sb)
		return; /* those that waited are gone, or were stored for another reason */
	life_changed(sb);
	now = now_mono_ns();
	changes->until_ns = now + SHARE * (now - began);
	if (!list_empty(&changes->waiting))
		timer_start(fs->loop, &changes->timer, changes->until_ns - now, store_next, fs);
}

void life_setting_changed(struct sandbox *sb)
{
	struct fs *fs = sb->obj.fs;
	struct changes *changes = fs->changes;
	const uint64_t now = now_mono_ns();

	sb->life.changed = true;
	if (!sb->life.stored)
		return;
	if (list_empty(&sb->life.change))
		list_add(&changes->waiting, &sb->life.change);
	if (timer_running(&changes->timer))
		return;
	if (now >= changes->until_ns)
		store_next(fs);
	else
		timer_start(fs->loop, &changes->timer, changes->until_ns - now, store_next, fs);
}
