/* SPDX-License-Identifier: MIT */
/* info.c - the files that report: info, stats and status, `key value` lines */
#include "fs/dirs/info.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <time.h>

#include "fs/pool/pool.h"
#include "fs/sandbox/sandbox.h"
#include "fs/snapshot/snapshot.h"
#include "util/program.h"
#include "vm/jail/jail.h"

static void put_time(struct buf *text, const char *key, uint64_t ns)
{
	const time_t seconds = (time_t)(ns / 1000000000);
	char date[32];
	struct tm tm;

	gmtime_r(&seconds, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &tm);
	buf_printf(text, "%s %s\n", key, date);
}

static void put_number(struct buf *text, const char *key, uint64_t n)
{
	buf_printf(text, "%s %" PRIu64 "\n", key, n);
}

/* A value that may be empty is a dash then, so that every line has two words. */
static void put_word(struct buf *text, const char *key, const char *word)
{
	buf_printf(text, "%s %s\n", key, *word ? word : "-");
}

int sandbox_info(struct object *obj, struct buf *text, struct err *err)
{
	const struct sandbox *sb = sandbox_of(obj);
	const pid_t pid = sb->vm ? obj->fs->engine->pid(sb->vm) : 0;

	(void)err;
	put_word(text, "name", obj->name);
	put_word(text, "engine", obj->fs->engine->name);
	put_word(text, "image", sb->image);
	put_word(text, "parent", sb->parent);
	put_time(text, "created", obj->ctime_ns);
	if (sb->boot_ns)
		put_number(text, "boot_us", sb->boot_ns / 1000);
	if (sb->fork_ns)
		put_number(text, "fork_us", sb->fork_ns / 1000);
	put_number(text, "generation", sb->generation);
	put_number(text, "pid", pid > 0 ? (uint64_t)pid : 0);
	buf_printf(text, "jail %s\n", launcher_how());
	return 0;
}

int sandbox_stats(struct object *obj, struct buf *text, struct err *err)
{
	const struct sandbox *sb = sandbox_of(obj);
	struct vm_usage usage = { 0 };

	(void)err;
	if (sb->vm)
		obj->fs->engine->usage(sb->vm, &usage);
	put_number(text, "cpu_us", usage.cpu_ns / 1000);
	put_number(text, "resident", usage.resident);
	put_number(text, "private", usage.private);
	put_number(text, "shared", usage.shared);
	put_number(text, "disk_written", usage.disk_written);
	put_number(text, "disk_stored", sb->disk ? layer_stored(sb->disk) : 0);
	put_number(text, "exits", usage.exits);
	return 0;
}

static void put_status(struct snapshot *snap, struct buf *text)
{
	buf_printf(text, "status ");
	snapshot_status(snap, text);
	buf_printf(text, "\n");
}

static uint64_t disk_stored(const struct layer *layer)
{
	uint64_t sum = 0;

	for (; layer; layer = layer_base(layer))
		sum += layer_stored(layer);
	return sum;
}

int snapshot_info(struct object *obj, struct buf *text, struct err *err)
{
	struct snapshot *snap = snapshot_of(obj);
	const struct snapshot_meta *meta = &snap->meta;
	const struct template *template = snap->template;
	uint64_t logical, stored, own;
	struct stat st = { 0 };
	int rc;

	if (snapshot_is_empty(snap)) {
		put_status(snap, text);
		return 0;
	}
	rc = snapshot_read_meta(snap, err);
	if (rc)
		return rc;
	put_word(text, "source", meta->source);
	put_word(text, "parent", meta->parent);
	put_word(text, "image", meta->image);
	put_time(text, "created", meta->created);
	put_word(text, "engine", meta->engine);
	put_number(text, "memory", meta->shape.memory);
	put_number(text, "memory_max", meta->shape.memory_max);
	put_number(text, "cpus", meta->shape.cpus);
	put_number(text, "cpus_max", meta->shape.cpus_max);
	put_number(text, "pause_us", meta->pause_ns / 1000);
	logical = meta->ram_logical + meta->disk_logical;
	stored = meta->ram_stored + meta->disk_stored;
	own = meta->own;
	if (!snap->stored) { /* what it takes of this host's memory and disk */
		if (!fstat(template->ram_fd, &st))
			own = (uint64_t)st.st_blocks * 512;
		logical += layer_virtual_size(template->disk);
		stored = own + disk_stored(template->disk);
		own += layer_stored(template->disk);
	}
	put_number(text, "logical", logical);
	put_number(text, "stored", stored);
	put_number(text, "own", own);
	put_status(snap, text);
	return 0;
}

int image_info(struct object *obj, struct buf *text, struct err *err)
{
	struct image image;
	int rc = image_get(obj->fs->store, obj->name, &image, err);

	if (rc)
		return rc;
	put_word(text, "name", image.name);
	put_number(text, "size", image.size);
	put_number(text, "stored", image.stored);
	put_time(text, "created", image.created);
	put_word(text, "source", image.source);
	image_release(&image);
	return 0;
}

/*
 * What all machines take of the host's memory. To ask takes milliseconds each, in which nobody else is served: it
 * is asked once in a second, and for a twentieth of the time.
 */
static void sum_usage(struct fs *fs)
{
	const uint64_t began_ns = now_mono_ns();
	const struct sandbox *sb;
	struct vm_usage usage;
	uint64_t cost_ns;

	if (began_ns < fs->usage.until_ns)
		return;
	fs->usage.resident = fs->usage.private = 0;
	list_for_each (sb, &fs->sandboxes, link) {
		if (!sb->born || !sb->vm || fs->engine->usage(sb->vm, &usage))
			continue;
		fs->usage.resident += usage.resident;
		fs->usage.private += usage.private;
	}
	cost_ns = now_mono_ns() - began_ns;
	fs->usage.until_ns = began_ns + (cost_ns < 50000000 ? 1000000000 : 20 * cost_ns);
}

int root_status(struct object *obj, struct buf *text, struct err *err)
{
	struct fs *fs = obj->fs;
	uint64_t states[SANDBOX_CRASHED + 1] = { 0 }, memory = 0, n = 0, stalled = 0;
	const struct snapshot *snap;
	const struct sandbox *sb;
	int i;

	(void)err;
	list_for_each (sb, &fs->sandboxes, link) {
		if (!sb->born)
			continue;
		states[sb->state]++;
		stalled += sb->stalled;
		if (sb->vm)
			memory += sb->shape.memory;
	}
	sum_usage(fs);
	list_for_each (snap, &fs->snapshots, obj.siblings)
		n++;
	buf_printf(text, "engine %s (%s)\n", fs->engine->name, fs->engine_how);
	buf_printf(text, "jail %s (%s)\n", launcher_mode(), launcher_how());
	put_word(text, "version", SBX_VERSION);
	for (i = 0; i <= SANDBOX_CRASHED; i++)
		put_number(text, sandbox_state_name((enum sandbox_state)i), states[i]);
	put_number(text, "stalled", stalled);
	put_number(text, "snapshots", n);
	put_number(text, "forks_made", fs->forks_made);
	put_number(text, "forks_under_way", fs->forking);
	put_number(text, "machines_ready", pool_count(fs));
	put_number(text, "pool", fs->options.pool);
	put_number(text, "pool_total", fs->options.pool_total);
	put_number(text, "pool_memory", fs->options.pool_memory);
	put_number(text, "pool_memory_used", pool_memory(fs));
	put_number(text, "memory_configured", memory);
	put_number(text, "memory_resident", fs->usage.resident);
	put_number(text, "memory_private", fs->usage.private);
	put_word(text, "store", store_dir(fs->store));
	return 0;
}
