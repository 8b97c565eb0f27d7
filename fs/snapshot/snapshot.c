/* SPDX-License-Identifier: MIT */
/* snapshot.c - snapshots as objects */
#include "fs/snapshot/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/pool/pool.h"
#include "fs/sandbox/admission.h"
#include "fs/sandbox/requirements.h"
#include "fs/snapshot/archive.h"
#include "fs/snapshot/compaction.h"
#include "fs/snapshot/files.h"
#include "fs/snapshot/work.h"
#include "util/log.h"

struct snapshot *snapshot_of(const struct object *obj)
{
	return container_of(obj, struct snapshot, obj);
}

struct snapshot *snapshot_find(const struct index *names, const char *name)
{
	const struct object *obj = object_named(names, name);

	return obj ? snapshot_of(obj) : NULL;
}

/* An empty one that can be found is counted: it is nothing but a name. */
static void count(struct snapshot *snap)
{
	const struct tally now = { .files = snap->template ? TEMPLATE_FILES : 0,
				   .empty = snap->obj.names && snapshot_is_empty(snap) };

	admission_count(snap->obj.fs, &snap->counted, &now);
}

void snapshot_path(const struct snapshot *snap, char *ret, size_t size)
{
	if (snap->boot)
		*ret = '\0';
	else if (snap->named)
		snprintf(ret, size, "snapshots/%s", snap->obj.name);
	else
		snprintf(ret, size, "%s/snapshots/%s", snap->source ? snap->source->obj.name : "",
			 snap->obj.name);
}

void snapshot_set_template(struct snapshot *snap, struct template *template)
{
	template_unref(snap->template);
	snap->template = template;
	count(snap);
}

static void snapshot_free(struct object *obj)
{
	struct snapshot *snap = snapshot_of(obj);

	snapshot_set_template(snap, NULL);
	admission_leave(obj->fs, &snap->counted);
	if (snap->has_meta)
		snapshot_meta_release(&snap->meta);
	free(snap);
}

static void drop(struct object *obj)
{
	snapshot_drop(snapshot_of(obj));
}

static struct snapshot *make(struct fs *fs, const char *name, const struct owner *owner)
{
	struct snapshot *snap = calloc(1, sizeof(*snap));

	if (!snap || admission_enter(fs, &snap->counted, owner->uid)) {
		free(snap);
		return NULL;
	}
	object_init(&snap->obj, OBJECT_SNAPSHOT, fs, name, owner, snapshot_free);
	snap->obj.drop = drop;
	list_init(&snap->workers);
	list_init(&snap->deltas);
	list_init(&snap->waiting);
	return snap;
}

int snapshot_meta_of(const struct sandbox *sb, const struct template *template, struct snapshot_meta *ret)
{
	*ret = (struct snapshot_meta){
		.created = now_real_ns(),
		.pause_ns = template->pause_ns,
		.shape = template->shape,
		.ram_logical = template->ram_size,
		.next_job = sb->next_job,
	};
	snprintf(ret->source, sizeof(ret->source), "%s", sb->obj.name);
	snprintf(ret->parent, sizeof(ret->parent), "%s", sb->parent_named);
	snprintf(ret->image, sizeof(ret->image), "%s", sb->image);
	snprintf(ret->engine, sizeof(ret->engine), "%s", template->engine);
	buf_add(&ret->env, buf_bytes(&sb->env), sb->env.len);
	requires_put(sb, &ret->requires);
	network_save(sb, &ret->net);
	return ret->env.failed || ret->requires.failed || ret->net.failed ? -ENOMEM : 0;
}

int snapshot_new(struct sandbox *sb, struct template *template, mode_t umask, struct snapshot **ret,
		 struct err *err)
{
	struct snapshot *snap;
	char number[16];

	snprintf(number, sizeof(number), "%u", sb->next_snapshot);
	snap = make(sb->obj.fs, number, &sb->obj.owner);
	if (!snap || snapshot_meta_of(sb, template, &snap->meta)) {
		if (snap)
			admission_leave(sb->obj.fs, &snap->counted);
		free(snap);
		template_unref(template);
		return err_sys(err, -ENOMEM, "cannot keep a snapshot of %s", sb->obj.name);
	}
	snap->has_meta = true;
	snap->obj.owner.mode &= ~umask;
	snap->obj.to_root = "../../../../";
	snapshot_set_template(snap, template);
	snap->source = sb;
	*ret = snap;
	return 0;
}

struct snapshot *snapshot_new_boot(struct fs *fs, const char *name, struct template *template,
				   struct snapshot_meta *meta)
{
	const struct owner owner = { fs->root.owner.uid, fs->root.owner.gid, 0700 };
	struct snapshot *snap = make(fs, name, &owner);

	if (!snap) {
		template_unref(template);
		return NULL;
	}
	snap->boot = true;
	snap->stored = !template;
	snap->template = template;
	if (meta) {
		snap->meta = *meta;
		snap->has_meta = true;
	}
	return snap;
}

struct snapshot *snapshot_new_life(const struct sandbox *sb, const char *name, struct template *template,
				   struct snapshot_meta *meta)
{
	struct snapshot *snap = make(sb->obj.fs, name, &sb->obj.owner);

	if (!snap) {
		template_unref(template);
		return NULL;
	}
	snap->boot = true;
	snap->stored = !template;
	snapshot_set_template(snap, template);
	if (meta) {
		snap->meta = *meta;
		snap->has_meta = true;
	}
	return snap;
}

void snapshot_keep(struct snapshot *snap)
{
	snap->source->next_snapshot++;
	list_add(&snap->source->snapshots, &snap->obj.siblings);
	object_enter(&snap->source->snapshot_names, &snap->obj);
}

void snapshot_drop(struct snapshot *snap)
{
	struct sandbox *child;
	struct worker *worker;

	list_del(&snap->obj.siblings);
	object_leave(&snap->obj);
	snap->source = NULL;
	while ((child = list_first(&snap->obj.forks, struct sandbox, fork_link))) {
		list_del(&child->fork_link);
		child->origin = NULL;
	}
	list_for_each (worker, &snap->workers, link)
		worker_cancel(worker);
	archive_forget(snap);
	snapfs_end(snap->browsed);
	if (snap->template)
		pool_forget(snap->obj.fs, snap->template);
	/* Somebody may be in its directory still; the memory goes now. */
	snapshot_set_template(snap, NULL);
	object_remove(&snap->obj);
	object_unref(&snap->obj);
}

/* A name costs no more than a mkdir. Those that an archive was written to take room in the store instead. */
enum { EMPTY_MAX = 1024 };

static int admit_empty(const struct fs *fs, const struct owner *owner, struct err *err)
{
	const unsigned own = admission_empty(fs, owner->uid);

	if (own < EMPTY_MAX)
		return 0;
	return err_set(
		err, -EDQUOT,
		"the user %u has %u empty snapshots, and may not have more; rmdir those that no archive "
		"is to be written to",
		(unsigned)owner->uid, own);
}

int snapshot_new_empty(struct fs *fs, const char *name, const struct owner *owner, struct snapshot **ret,
		       struct err *err)
{
	struct snapshot *snap;
	int rc = snapshot_name_check(fs, name, err);

	if (!rc)
		rc = admit_empty(fs, owner, err);
	if (rc)
		return rc;
	snap = make(fs, name, owner);
	if (!snap)
		return err_sys(err, -ENOMEM, "cannot make a snapshot");
	snapshot_name(snap, name);
	*ret = snap;
	return 0;
}

bool snapshot_is_empty(const struct snapshot *snap)
{
	return snap->named && !snap->stored && !snap->template;
}

void snapshot_name(struct snapshot *snap, const char *name)
{
	list_del(&snap->obj.siblings);
	list_add(&snap->obj.fs->snapshots, &snap->obj.siblings);
	snap->named = true;
	snap->source = NULL;
	snap->obj.to_root = "../../../";
	object_leave(&snap->obj);
	snprintf(snap->obj.name, sizeof(snap->obj.name), "%s", name);
	object_enter(&snap->obj.fs->snapshot_names, &snap->obj);
	count(snap);
}

/* Into its place by number. */
static void keep_in_order(struct sandbox *sb, struct snapshot *snap)
{
	struct snapshot *other;

	list_for_each (other, &sb->snapshots, obj.siblings)
		if (strtoul(other->obj.name, NULL, 10) > strtoul(snap->obj.name, NULL, 10))
			break;
	list_add(&other->obj.siblings, &snap->obj.siblings); /* before that, or at the end */
	object_enter(&sb->snapshot_names, &snap->obj);
}

void snapshot_give_back(struct snapshot *snap, struct sandbox *source, const char *number)
{
	struct snapshot *back = NULL;
	struct sandbox *fork;

	if (!source->obj.gone)
		back = make(snap->obj.fs, number, &snap->obj.owner);
	if (back) {
		back->obj.to_root = "../../../../";
		back->source = source;
		snapshot_set_template(back, template_ref(snap->template));
		back->meta = snap->meta;
		back->has_meta = snap->has_meta;
		snap->has_meta = false;
		while ((fork = list_first(&snap->obj.forks, struct sandbox, fork_link))) {
			list_del(&fork->fork_link);
			list_add(&back->obj.forks, &fork->fork_link);
			fork->origin = &back->obj;
		}
		keep_in_order(source, back);
	} else {
		log_error("snapshot %s of %s is lost", number, source->obj.name);
	}
	snap->obj.stale = true;
	tree_attr_changed(&snap->obj);
	snapshot_drop(snap);
}

/* The store has whose it was when saving or importing it began. */
static void keep_owner(struct snapshot *snap)
{
	const struct owner *now = &snap->obj.owner;
	struct owner stored;
	struct err err;

	if (!snapshot_owner(snap->obj.fs->store, snap->obj.name, &stored, &err) && stored.uid == now->uid &&
	    stored.gid == now->gid && stored.mode == now->mode)
		return;
	if (snapshot_set_owner(snap->obj.fs->store, snap->obj.name, now, &err))
		log_warn("snapshot %s: %s", snap->obj.name, err.text);
}

int snapshot_chown(struct object *obj, const struct owner *owner, struct err *err)
{
	struct snapshot *snap = snapshot_of(obj);
	int rc = admission_chown(obj->fs, &snap->counted, owner->uid, err);

	if (rc || !snap->stored)
		return rc;
	rc = snapshot_set_owner(obj->fs->store, obj->name, owner, err);
	/* Where memory is out, too, it goes on to count for the one whom it should have been given to. */
	if (rc)
		(void)admission_chown(obj->fs, &snap->counted, obj->owner.uid, NULL);
	return rc;
}

void snapshot_published(struct snapshot *snap, const char *name, struct sandbox *source)
{
	/* The next snapshot of the same sandbox refers to this one's memory. */
	if (source)
		snprintf(source->parent_named, sizeof(source->parent_named), "%s", name);
	snap->stored = true;
	snapshot_name(snap, name);
	keep_owner(snap);
	compaction_want(snap->obj.fs);
	/* What was stored, and how big it is. */
	snapshot_read_meta(snap, NULL);
}

void snapshot_name_moved(struct fs *fs, const char *from, const char *to)
{
	struct snapshot *snap;
	struct sandbox *sb;

	list_for_each (sb, &fs->sandboxes, link) {
		if (!strcmp(sb->parent_named, from))
			snprintf(sb->parent_named, sizeof(sb->parent_named), "%s", to);
		list_for_each (snap, &sb->snapshots, obj.siblings)
			if (!strcmp(snap->meta.parent, from))
				snprintf(snap->meta.parent, sizeof(snap->meta.parent), "%s", to);
	}
}

/* ---- what the store has */

struct loading {
	struct fs *fs;
	bool failed;
};

static void add_named(void *arg, const char *name)
{
	struct loading *loading = arg;
	/* Where nothing can be read of an owner it is ours alone. */
	struct owner owner = { loading->fs->root.owner.uid, loading->fs->root.owner.gid, 0700 };
	struct snapshot *snap;
	struct err err;
	int rc = snapshot_owner(loading->fs->store, name, &owner, &err);

	if (rc && rc != -ENOENT)
		log_warn("snapshot %s is for its owner alone, who is user %u: %s", name, owner.uid, err.text);
	snap = make(loading->fs, name, &owner);
	if (!snap) {
		loading->failed = true;
		return;
	}
	snap->stored = true;
	snapshot_name(snap, name);
}

int snapshots_load(struct fs *fs, struct err *err)
{
	struct loading loading = { .fs = fs };
	int rc = snapshot_list(fs->store, add_named, &loading);

	if (loading.failed)
		rc = -ENOMEM;
	return rc ? err_sys(err, rc, "cannot list the snapshots of the store") : 0;
}

void snapshots_cancel(struct fs *fs)
{
	struct snapshot *snap;

	while ((snap = list_first(&fs->snapshots, struct snapshot, obj.siblings)))
		snapshot_drop(snap);
}

int snapshot_read_meta(struct snapshot *snap, struct err *err)
{
	struct snapshot_meta meta;

	if (snap->has_meta && (!snap->stored || snap->obj.gone))
		return 0;
	if (!snap->stored)
		return err_set(err, -EBUSY, "snapshot %s is empty", snap->obj.name);
	/* A named one is read anew: what it owns, and its parent's name, change with the others. */
	if (!snap->damage.code && !snapshot_get(snap->obj.fs->store, snap->obj.name, &meta, &snap->damage)) {
		if (snap->has_meta)
			snapshot_meta_release(&snap->meta);
		snap->meta = meta;
		snap->has_meta = true;
		return 0;
	}
	if (err)
		*err = snap->damage;
	return snap->damage.code;
}
