/* SPDX-License-Identifier: MIT */
/* root.c - the root of the tree: sandboxes, the verbs create and gc, and the README */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fs/dirs/dirs.h"
#include "fs/dirs/info.h"
#include "fs/life/rename.h"
#include "fs/pool/pool.h"
#include "fs/sandbox/sandbox.h"
#include "fs/snapshot/snapshot.h"
#include "fs/start/boots.h"
#include "fs/start/start.h"
#include "fs/tree/readme.h"
#include "util/log.h"
#include "util/program.h"
#include "vm/jail/jail.h"

/* ---- verbs */

/* The end of its task, or before that came to be. */
static void created(void *arg, const struct err *err)
{
	struct command *command = arg;
	struct sandbox *sb = sandbox_of(command->made);

	if (err->code)
		sandbox_remove(sb);
	else
		sb->born = true;
	command_done(command, err);
}

/* The caller was interrupted: the end of its task follows. */
static void on_cancel(void *arg)
{
	sandbox_remove(sandbox_of(((struct command *)arg)->made));
}

static int configure(struct sandbox *sb, const struct overrides *want, struct err *err)
{
	struct shape *shape = &sb->shape;
	int rc = 0;

	if (want->image)
		rc = sandbox_set_image(sb, want->image, err);
	if (want->shape.memory)
		shape->memory = want->shape.memory;
	if (want->shape.cpus)
		shape->cpus = want->shape.cpus;
	if (want->shape.memory_max)
		shape->memory_max = want->shape.memory_max;
	if (want->shape.cpus_max)
		shape->cpus_max = want->shape.cpus_max;
	if (*want->shape.init)
		memcpy(shape->init, want->shape.init, sizeof(shape->init));
	/* A maximum below the default of what it limits, which nobody asked for, limits that too. */
	if (!want->shape.memory && shape->memory > shape->memory_max)
		shape->memory = shape->memory_max;
	if (!want->shape.cpus && shape->cpus > shape->cpus_max)
		shape->cpus = shape->cpus_max;
	env_merge(&sb->env, (const char *)buf_bytes(&want->env), want->env.len);
	if (!rc)
		rc = env_fits(&sb->env, err);
	if (want->has_net)
		network_set_mode(sb, want->net);
	limits_merge(&sb->limits, &want->limits);
	sb->rights = want->rights;
	life_set_idle(sb, want->idle);
	life_set_ttl(sb, want->ttl);
	return rc ? rc : shape_check(shape, err);
}

static void verb_create(struct object *obj, const struct words *words, struct command *command)
{
	struct overrides want = { 0 };
	struct sandbox *sb;
	struct err err = { 0 };

	command->child.mode &= ~command_umask(command);
	if (tree_may_make(&command->caller, obj, NULL, &err) ||
	    overrides_parse(words->word + 2, true, &want, &err) ||
	    limits_check(obj->fs, &command->caller, &want.limits, &err) ||
	    sandbox_new(obj->fs, words->word[1], &command->child, &sb, &err)) {
		command_done(command, &err);
		goto out;
	}
	command->made = object_ref(&sb->obj);
	if (configure(sb, &want, &err) || shape_check_start(&sb->shape, &err)) {
		created(command, &err);
		goto out;
	}
	command->cancel = on_cancel;
	command->arg = command;
	start(sb, "create", want.cold, created, command);
out:
	overrides_release(&want);
}

static void verb_gc(struct object *obj, const struct words *words, struct command *command)
{
	struct err err = { 0 };
	uint64_t freed = 0;

	(void)words;
	if (command->caller.uid && command->caller.uid != obj->owner.uid)
		err_set(&err, -EPERM, "gc: only the owner of the root may do that");
	else if (boots_sweep(obj->fs), !store_gc(obj->fs->store, &freed, &err))
		log_info("gc: %" PRIu64 " bytes freed", freed);
	command_done(command, &err);
}

static const struct verb verbs[] = {
	{ "create", "NAME [k=v ...]",
	  "make, configure and start a sandbox in one step; the keys are image, boot, init, memory, cpus, "
	  "memory_max, cpus_max, net, guest, idle, ttl, limits.NAME and env.NAME",
	  1, CTL_WORDS, 1, 0, verb_create },
	{ "gc", "", "delete what nothing in the store needs any more", 0, 0, 1, 0, verb_gc },
	{ 0 },
};

/* ---- the root */

static struct object *root_find(struct object *dir, const char *name, const struct entry **ret)
{
	struct sandbox *sb = sandbox_find(dir->fs, name);

	*ret = &sandbox_entry;
	return sb && sb->born ? &sb->obj : NULL;
}

static void root_list(struct object *dir, struct listing *listing)
{
	struct sandbox *sb;

	list_for_each (sb, &dir->fs->sandboxes, link)
		if (sb->born)
			listing_add(listing, sb->obj.name, &sb->obj, &sandbox_entry);
}

static void root_mkdir(struct object *dir, const char *name, struct command *command)
{
	struct sandbox *sb;
	struct err err;

	if (sandbox_new(dir->fs, name, &command->child, &sb, &err)) {
		command_done(command, &err);
		return;
	}
	sb->born = true;
	command_made(command, &sb->obj, &sandbox_entry, false);
}

static int root_rmdir(struct object *dir, const char *name, struct err *err)
{
	struct sandbox *sb = sandbox_find(dir->fs, name);

	if (!sb || !sb->born)
		return err_set(err, -ENOENT, "there is no sandbox %.64s", name);
	sandbox_remove(sb);
	return 0;
}

static void root_rename(struct object *dir, const char *name, struct object *to_dir, const struct entry *to,
			const char *to_name, struct command *command)
{
	struct sandbox *sb = sandbox_find(dir->fs, name);
	struct err err;

	(void)to_dir;
	if (to != &root_entry)
		err_set(&err, -EPERM, "a sandbox can only be given another name beside the others");
	else if (!sb || !sb->born)
		err_set(&err, -ENOENT, "there is no sandbox %.64s", name);
	else {
		rename_sandbox(sb, to_name, command);
		return;
	}
	command_done(command, &err);
}

static struct list *status_refresh(struct object *obj)
{
	return gauge_refresh(&obj->fs->memory);
}

/* CPU time of the thread of the loop. */
static uint64_t loop_cpu_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static int root_status(struct object *obj, struct buf *text, struct err *err)
{
	struct fs *fs = obj->fs;
	struct sandbox_counts counts;
	int i;

	(void)err;
	sandbox_counts(fs, &counts);
	buf_printf(text, "engine %s (%s)\n", fs->engine->name, fs->engine_how);
	buf_printf(text, "jail %s (%s)\n", launcher_mode(), launcher_how());
	buf_printf(text, "cgroup %s\n", launcher_limits());
	buf_printf(text, "daemon %s\n",
		   fs->confined   ? "confined: no capabilities, and no files but its store's"
		   : fs->filtered ? "may what its user may, but for programs, processes and tracing"
				  : "may what its user may");
	info_word(text, "version", SBX_VERSION);
	info_number(text, "pid", (uint64_t)getpid());
	for (i = 0; i < SANDBOX_STATES; i++)
		info_number(text, sandbox_state_name((enum sandbox_state)i), counts.states[i]);
	info_number(text, "stalled", counts.stalled);
	info_number(text, "snapshots", fs->snapshot_names.n);
	info_number(text, "forks_made", fs->forks_made);
	info_number(text, "forks_under_way", fs->forking);
	info_number(text, "starts_warm", fs->starts_warm);
	info_number(text, "starts_cold", fs->starts_cold);
	boots_status(fs, text);
	info_number(text, "machines_ready", pool_count(fs));
	info_number(text, "found_ready", fs->found_ready);
	info_number(text, "pool", fs->options.pool);
	info_number(text, "pool_total", fs->options.pool_total);
	info_number(text, "pool_memory", fs->options.pool_memory);
	info_number(text, "pool_memory_used", pool_memory(fs));
	info_number(text, "loop_turns", loop_rounds(fs->loop));
	info_number(text, "loop_cpu_us", loop_cpu_us());
	info_number(text, "memory_configured", counts.memory);
	info_number(text, "memory_resident", fs->memory.seen.resident);
	info_number(text, "memory_private", fs->memory.seen.private);
	info_word(text, "store", store_dir(fs->store));
	return 0;
}

static int readme_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)obj;
	(void)err;
	readme(text);
	return 0;
}

static const struct entry root_files[] = {
	{ "ctl", S_IFREG | 0644, ENTRY_FRESH | ENTRY_SHARED,
	  "takes the verbs below, like every ctl: one write is one command, and returns when it is done",
	  .verbs = verbs },
	{ "README", S_IFREG | 0444, 0, "this text", .show = readme_show },
	{ "status", S_IFREG | 0444, ENTRY_COSTLY, "the engine in use and why, version, counts, memory",
	  .show = root_status, .refresh = status_refresh },
	{ "metrics", S_IFREG | 0444, ENTRY_COSTLY,
	  "OpenMetrics text for a scraper: counts, states, times, memory", .show = metrics_show,
	  .refresh = status_refresh },
	{ "error", S_IFREG | 0444, 0, "why the last command, mkdir or rmdir here failed, like every error",
	  .show = object_error },
	{ "images", S_IFDIR | 0755, 0, "what the disks of sandboxes begin with", .dir = &images_dir },
	{ "snapshots", S_IFDIR | 0755, ENTRY_SHARED,
	  "named snapshots: mv one here to save it, rmdir to delete it", .dir = &snapshots_dir },
	{ 0 },
};

static const struct dir_ops root_dir = {
	.entries = root_files,
	.child = &sandbox_entry,
	.find = root_find,
	.list = root_list,
	.mkdir = root_mkdir,
	.rmdir = root_rmdir,
	.rename = root_rename,
};

const struct entry root_entry = { "", S_IFDIR, .dir = &root_dir };
