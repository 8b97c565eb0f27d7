/* SPDX-License-Identifier: MIT */
/* snapshots.c - the directories of snapshots: /sbx/snapshots and /sbx/VM/snapshots */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/dirs/dirs.h"
#include "fs/dirs/info.h"
#include "fs/snapshot/archive.h"
#include "fs/snapshot/files.h"
#include "fs/snapshot/lineage.h"
#include "fs/snapshot/work.h"
#include "util/io.h"
#include "util/log.h"

/* ---- the directory of one */

static void verb_verify(struct object *obj, const struct words *words, struct command *command)
{
	struct worker *worker;
	struct err err = { 0 };

	(void)words;
	if (snapshot_verify(snapshot_of(obj), command_done, command, &worker, &err)) {
		command_done(command, &err);
		return;
	}
	command->cancel = worker_cancel;
	command->arg = worker;
}

enum { UNNAMED, NAMED }; /* the states of its verbs */

static const struct verb verbs[] = {
	{ "fork", "W [k=v ...]", "make the sandbox W of it; N PREFIX [k=v ...] makes N of them", 1, CTL_WORDS,
	  1u << UNNAMED | 1u << NAMED, 0, fork_verb },
	{ "verify", "", "check every stored block; only named snapshots are stored", 0, 0, 1u << NAMED, 0,
	  verb_verify },
	{ 0 },
};

static unsigned verb_state(const struct object *obj, const char **name)
{
	*name = snapshot_of(obj)->named ? "named" : "unnamed";
	return snapshot_of(obj)->named ? NAMED : UNNAMED;
}

static int status_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	snapshot_status(snapshot_of(obj), text);
	buf_printf(text, "\n");
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

static int snapshot_info(struct object *obj, struct buf *text, struct err *err)
{
	struct snapshot *snap = snapshot_of(obj);
	const struct snapshot_meta *meta = &snap->meta;
	const struct template *template = snap->template;
	uint64_t logical, stored, own;
	int rc;

	if (snapshot_is_empty(snap)) {
		put_status(snap, text);
		return 0;
	}
	rc = snapshot_read_meta(snap, err);
	if (rc)
		return rc;
	info_word(text, "source", meta->source);
	info_word(text, "parent", meta->parent);
	info_word(text, "image", meta->image);
	info_time(text, "created", meta->created);
	info_word(text, "engine", meta->engine);
	info_number(text, "memory", meta->shape.memory);
	info_number(text, "memory_max", meta->shape.memory_max);
	info_number(text, "cpus", meta->shape.cpus);
	info_number(text, "cpus_max", meta->shape.cpus_max);
	info_number(text, "pause_us", meta->pause_ns / 1000);
	logical = meta->ram_logical + meta->disk_logical;
	stored = meta->ram_stored + meta->disk_stored;
	own = meta->own;
	if (!snap->stored) { /* what it takes of this host's memory and disk */
		own = fd_stored(template->ram_fd);
		logical += layer_virtual_size(template->disk);
		stored = own + disk_stored(template->disk);
		if (template->base)
			stored += fd_stored(template->base->ram_fd);
		own += layer_stored(template->disk);
	}
	info_number(text, "logical", logical);
	info_number(text, "stored", stored);
	info_number(text, "own", own);
	put_status(snap, text);
	return 0;
}

static const struct entry files[] = {
	{ "ctl", S_IFREG | 0644, ENTRY_FRESH | ENTRY_SHARED, "takes the verbs below", .verbs = verbs,
	  .state = verb_state },
	{ "error", S_IFREG | 0444, 0, "why the last command or fork here failed", .show = object_error },
	{ "info", S_IFREG | 0444, ENTRY_POLL,
	  "source, parent, created, engine, memory, cpus, pause_us, sizes, status", .show = snapshot_info },
	{ "status", S_IFREG | 0444, ENTRY_POLL,
	  "ready | saving N% | loading N% | verifying N% | importing N% | empty | damaged; poll wakes when "
	  "it changes",
	  .show = status_show },
	{ "forks", S_IFDIR | 0755, ENTRY_SHARED,
	  "mkdir W makes the sandbox /W; lists the forks that exist, as links", .dir = &forks_dir },
	{ "fs", S_IFDIR | 0555, 0, "its files, read-only and without booting it: what had reached its disk",
	  .mount = snapfs_mount },
	{ "archive", S_IFREG | 0600, ENTRY_FRESH,
	  "the whole snapshot in one file: read to export it; write to an empty snapshot to import, close to "
	  "finish",
	  .stream = &archive_ops },
	{ "archive.since", S_IFDIR | 0755, 0, "the same, without what another named snapshot already has",
	  .dir = &archive_since_dir },
	{ "children", S_IFDIR | 0755, 0, "named snapshots that were taken after it", .dir = &children_dir },
	{ 0 },
};

/* `parent` is there only where there is one. */
static struct object *snapshot_dir_find(struct object *dir, const char *name, const struct entry **ret)
{
	*ret = &parent_entry;
	return !strcmp(name, parent_entry.name) && has_parent(snapshot_of(dir)) ? dir : NULL;
}

static void snapshot_dir_list(struct object *dir, struct listing *listing)
{
	if (has_parent(snapshot_of(dir)))
		listing_add(listing, parent_entry.name, dir, &parent_entry);
}

static const struct dir_ops snapshot_dir = {
	.entries = files,
	.child = &parent_entry,
	.find = snapshot_dir_find,
	.list = snapshot_dir_list,
	.chown = snapshot_chown,
};

static const struct entry named_entry = {
	"NAME", S_IFDIR, 0,
	"a named snapshot, in the store: survives the sandbox and the daemon; mkdir makes an empty one",
	.dir = &snapshot_dir
};

static const struct entry unnamed_entry = {
	"N", S_IFDIR, 0,
	"an unnamed snapshot; mv it to /snapshots/NAME to save it (after 1.5 s that goes on by itself)",
	.dir = &snapshot_dir
};

/* ---- mv: saving and renaming */

/* Only /sbx/snapshots takes snapshots. */
static bool is_named_dir(const struct entry *to)
{
	return to->dir == &snapshots_dir;
}

/* What can be said against moving `name`, which is snap, to that directory; 0 if nothing. */
static int check_move(const struct snapshot *snap, const char *name, const struct entry *to, struct err *err)
{
	if (!is_named_dir(to))
		return err_set(err, -EPERM, "a snapshot can only be moved to a name in /snapshots");
	if (!snap)
		return err_set(err, -ENOENT, "there is no snapshot %.64s", name);
	return 0;
}

/*
 * A mv that saves. All renames of a mount between directories exclude each other in the kernel, so this one is
 * answered after MOVE_MS at the latest: the snapshot is in its new place then, and its status says how far
 * saving it is. Where that fails afterwards, it goes back to where it was.
 */
enum { MOVE_MS = 1500 };

struct move {
	struct command *command; /* NULL: answered */
	struct snapshot *snap;
	struct sandbox *source; /* a reference */
	struct worker *worker;
	struct timer timer;
	char number[STORE_NAME_MAX + 1], name[STORE_NAME_MAX + 1];
};

static void move_cancel(void *arg)
{
	struct move *move = arg;

	worker_cancel(move->worker);
}

static void move_early(void *arg)
{
	struct move *move = arg;
	const struct err ok = { 0 };

	if (move->snap->obj.gone || atomic_load(&move->worker->progress.cancel))
		return; /* it is ending */
	snapshot_name(move->snap, move->name);
	move->worker->promised = true;
	command_done(move->command, &ok);
	move->command = NULL;
}

static void move_done(void *arg, const struct err *err)
{
	struct move *move = arg;

	timer_stop(&move->timer);
	if (move->command) {
		command_done(move->command, err);
	} else if (err->code && !move->snap->obj.gone) {
		log_error("%s/snapshots/%s is not saved as %s: %s", move->source->obj.name, move->number,
			  move->name, err->text);
		object_report(&move->source->obj, err);
		snapshot_give_back(move->snap, move->source, move->number);
	}
	object_unref(&move->source->obj);
	free(move);
}

static void save_by_rename(struct object *dir, const char *name, struct object *to_dir,
			   const struct entry *to, const char *to_name, struct command *command)
{
	struct snapshot *snap = snapshot_find(&sandbox_of(dir)->snapshot_names, name);
	struct move *move = NULL;
	struct err err;

	if (check_move(snap, name, to, &err)) {
		command_done(command, &err);
		return;
	}
	move = calloc(1, sizeof(*move));
	if (!move) {
		err_sys(&err, -ENOMEM, "cannot save a snapshot");
	} else if (!snapshot_save(snap, to_name, move_done, move, &move->worker, &err)) {
		move->command = command;
		move->snap = snap;
		move->source = sandbox_of(object_ref(dir));
		snprintf(move->number, sizeof(move->number), "%s", name);
		snprintf(move->name, sizeof(move->name), "%s", to_name);
		command->cancel = move_cancel;
		command->arg = move;
		timer_start(dir->fs->loop, &move->timer, MOVE_MS * 1000000ull, move_early, move);
		return;
	}
	free(move);
	command_blame(command, to_dir);
	command_done(command, &err);
}

static void rename_named(struct object *dir, const char *name, struct object *to_dir, const struct entry *to,
			 const char *to_name, struct command *command)
{
	struct fs *fs = dir->fs;
	struct snapshot *snap = snapshot_find(&fs->snapshot_names, name);
	struct err err = { 0 };

	(void)to_dir;
	if (!check_move(snap, name, to, &err) && worker_busy(snap))
		err_set(&err, -EBUSY, "snapshot %s is in use: it is %s", name,
			worker_busy(snap)->kind->doing);
	if (!err.code && !snapshot_name_check(fs, to_name, &err) &&
	    !(snap->stored && snapshot_rename(fs->store, name, to_name, &err))) {
		snapshot_name_moved(fs, name, to_name);
		object_leave(&snap->obj);
		snprintf(snap->obj.name, sizeof(snap->obj.name), "%s", to_name);
		object_enter(&fs->snapshot_names, &snap->obj);
		object_changed(&snap->obj);
	}
	command_done(command, &err);
}

/* ---- /sbx/snapshots */

static struct object *named_find(struct object *dir, const char *name, const struct entry **ret)
{
	struct snapshot *snap = snapshot_find(&dir->fs->snapshot_names, name);

	*ret = &named_entry;
	return snap ? &snap->obj : NULL;
}

static void named_list(struct object *dir, struct listing *listing)
{
	struct snapshot *snap;

	list_for_each (snap, &dir->fs->snapshots, obj.siblings)
		listing_add(listing, snap->obj.name, &snap->obj, &named_entry);
}

static int named_rmdir(struct object *dir, const char *name, struct err *err)
{
	struct snapshot *snap = snapshot_find(&dir->fs->snapshot_names, name);
	int rc;

	if (!snap)
		return err_set(err, -ENOENT, "there is no snapshot %.64s", name);
	rc = snap->stored ? snapshot_remove(dir->fs->store, name, err) : 0;
	if (rc)
		return rc;
	snapshot_name_moved(dir->fs, name, "");
	snapshot_drop(snap);
	return 0;
}

/* A place for an archive. */
static void named_mkdir(struct object *dir, const char *name, struct command *command)
{
	struct snapshot *snap;
	struct err err;

	if (snapshot_new_empty(dir->fs, name, &command->child, &snap, &err))
		command_done(command, &err);
	else
		command_made(command, &snap->obj, &named_entry, false);
}

const struct dir_ops snapshots_dir = {
	.child = &named_entry,
	.find = named_find,
	.list = named_list,
	.mkdir = named_mkdir,
	.rmdir = named_rmdir,
	.rename = rename_named,
};

/* ---- /sbx/VM/snapshots */

static void latest_target(struct object *obj, struct buf *text)
{
	buf_printf(text, "%s", obj->name);
}

static const struct entry latest_entry = { "latest", S_IFLNK | 0777, .target = latest_target };

static struct snapshot *latest(const struct sandbox *sb)
{
	return list_empty(&sb->snapshots) ? NULL
					  : list_entry(sb->snapshots.prev, struct snapshot, obj.siblings);
}

static struct object *unnamed_find(struct object *dir, const char *name, const struct entry **ret)
{
	struct sandbox *sb = sandbox_of(dir);
	const bool link = !strcmp(name, latest_entry.name);
	struct snapshot *snap = link ? latest(sb) : snapshot_find(&sb->snapshot_names, name);

	*ret = link ? &latest_entry : &unnamed_entry;
	return snap ? &snap->obj : NULL;
}

static void unnamed_list(struct object *dir, struct listing *listing)
{
	struct sandbox *sb = sandbox_of(dir);
	struct snapshot *snap;

	list_for_each (snap, &sb->snapshots, obj.siblings)
		listing_add(listing, snap->obj.name, &snap->obj, &unnamed_entry);
	if (latest(sb))
		listing_add(listing, latest_entry.name, &latest(sb)->obj, &latest_entry);
}

static int unnamed_rmdir(struct object *dir, const char *name, struct err *err)
{
	struct snapshot *snap = snapshot_find(&sandbox_of(dir)->snapshot_names, name);

	if (!snap)
		return err_set(err, -ENOENT, "there is no snapshot %.64s", name);
	snapshot_drop(snap);
	return 0;
}

const struct dir_ops vm_snapshots_dir = {
	.child = &unnamed_entry,
	.find = unnamed_find,
	.list = unnamed_list,
	.rmdir = unnamed_rmdir,
	.rename = save_by_rename,
};
