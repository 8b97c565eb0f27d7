/* SPDX-License-Identifier: MIT */
/*
 * start.c - bring up a sandbox that has no machine
 *
 *   wait for the boot snapshot, fork it
 *   or, where one of the two failed or is not wanted, boot
 *
 * All within one task, whose end is the end of the start, whatever brought it about.
 */
#include "fs/start/start.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/fork/source.h"
#include "fs/sandbox/admission.h"
#include "fs/sandbox/machine.h"
#include "fs/snapshot/snapshot.h"
#include "fs/start/boots.h"
#include "util/log.h"

struct start {
	struct sandbox *sb;
	struct boot_wait wait;
	char name[STORE_NAME_MAX + 1]; /* of the boot snapshot */
	struct source *source;         /* of the fork under way; NULL: it waits, or boots */
	uint64_t began_ns;
	done_fn done;
	void *arg;
};

static void forked(struct start *start)
{
	if (start->source)
		start->sb->obj.fs->forking--;
	source_free(start->source);
	start->source = NULL;
}

/* The task's end. */
static void start_end(void *arg, const struct err *err)
{
	struct start *start = arg;
	struct fs *fs = start->sb->obj.fs;

	list_del(&start->wait.link);
	if (!err->code) {
		start->sb->warm = start->source;
		*(start->source ? &fs->starts_warm : &fs->starts_cold) += 1;
		timing_add(&fs->start_times, now_mono_ns() - start->began_ns);
	}
	forked(start);
	start->done(start->arg, err);
	free(start);
}

static void boot(struct start *start)
{
	struct sandbox *sb = start->sb;
	struct err err;

	forked(start);
	sb->task.starting = false;
	if (machine_boot(sb, NULL, NULL, &err))
		task_end(sb, &err);
}

/* Nobody has the machine any more: the next one may be on another disk. */
static void boot_instead(struct start *start, const struct err *why)
{
	struct sandbox *sb = start->sb;

	log_warn("%s boots: it could not be started from a boot snapshot: %s", sb->obj.name, why->text);
	layer_unref(sb->disk);
	sb->disk = NULL;
	sb->generation = 0;
	buf_clear(&sb->requires);
	boot(start);
}

static void on_forked(void *arg, const struct err *err)
{
	struct start *start = arg;
	struct sandbox *sb = start->sb;

	if (!err->code) {
		sb->boot_ns = now_mono_ns() - sb->began_ns;
		task_end(sb, err);
		return;
	}
	/* What a sandbox may not use of the host may be why, and must not be everybody's loss. */
	if (!err_shortage(err->code) && !limits_any(&sb->limits))
		boots_failed(sb->obj.fs, start->name);
	boot_instead(start, err);
}

static int fork_boot(struct start *start, struct snapshot *snap, struct err *err)
{
	struct sandbox *sb = start->sb;

	memcpy(start->name, snap->obj.name, sizeof(start->name));
	start->source = source_get(&snap->obj, NULL, NULL, err);
	if (!start->source)
		return err->code;
	sb->obj.fs->forking++;
	return source_machine(start->source, sb, on_forked, start, err);
}

static void on_boot(struct boot_wait *wait, const struct err *err, struct snapshot *snap)
{
	struct start *start = container_of(wait, struct start, wait);
	struct err failed = *err;

	if (failed.code || fork_boot(start, snap, &failed))
		boot_instead(start, &failed);
}

void start(struct sandbox *sb, const char *verb, bool cold, done_fn done, void *arg)
{
	struct start *start = calloc(1, sizeof(*start));
	struct fs *fs = sb->obj.fs;
	struct err err = { 0 };

	if (!start) {
		err_sys(&err, -ENOMEM, "%s", verb);
		done(arg, &err);
		return;
	}
	start->sb = sb;
	start->began_ns = now_mono_ns();
	start->done = done;
	start->arg = arg;
	start->wait.done = on_boot;
	list_init(&start->wait.link);
	if (task_begin(sb, verb, start_end, start, &err)) {
		free(start);
		done(arg, &err);
		return;
	}
	sb->began_ns = now_mono_ns();
	/* With an init of its own it is asked for at boot. */
	if (cold || sb->disk || *sb->shape.init || !fs->options.boot_snapshots) {
		boot(start);
		return;
	}
	/* Who may not have a machine is told before one is booted for others. */
	if (admit_memory(sb, sb->shape.memory, &err)) {
		task_end(sb, &err);
		return;
	}
	sb->task.starting = true;
	boots_get(sb, &start->wait);
}
