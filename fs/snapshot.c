/* SPDX-License-Identifier: MIT */
/*
 * snapshot.c - snapshots as objects, and their slow work: saving, loading, checking
 *
 * The store's slow functions run on worker threads (begin on the loop, run on a worker, end on the loop). A
 * worker that is not wanted any more is asked to give up and ends when it does.
 */
#include "fs/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/pool.h"
#include "util/log.h"

enum worker_kind { WORK_SAVE, WORK_LOAD, WORK_VERIFY };

struct worker {
	struct list link;      /* snap->workers */
	struct snapshot *snap; /* a reference */
	enum worker_kind kind;
	struct progress progress;
	union {
		struct save *save;
		struct load *load;
		struct verify *verify;
	};
	char name[STORE_NAME_MAX + 1]; /* of a save: the name to be */
	done_fn done;
	void *arg;
};

struct snapshot_wait {
	struct list link;
	template_fn done;
	void *arg;
};

struct snapshot *snapshot_of(const struct object *obj)
{
	return container_of(obj, struct snapshot, obj);
}

struct snapshot *snapshot_find(struct list *snapshots, const char *name)
{
	struct snapshot *snap;

	list_for_each (snap, snapshots, link)
		if (!strcmp(snap->obj.name, name))
			return snap;
	return NULL;
}

void snapshot_path(const struct snapshot *snap, char *ret, size_t size)
{
	if (snap->source)
		snprintf(ret, size, "%s/snapshots/%s", snap->source->obj.name, snap->obj.name);
	else
		snprintf(ret, size, "snapshots/%s", snap->obj.name);
}

static void snapshot_free(struct object *obj)
{
	struct snapshot *snap = snapshot_of(obj);

	template_unref(snap->template);
	if (snap->has_meta)
		snapshot_meta_release(&snap->meta);
	free(snap);
}

static struct snapshot *make(struct fs *fs, const char *name, const struct owner *owner)
{
	struct snapshot *snap = calloc(1, sizeof(*snap));

	if (!snap)
		return NULL;
	object_init(&snap->obj, OBJECT_SNAPSHOT, fs, name, owner, snapshot_free);
	list_init(&snap->link);
	list_init(&snap->workers);
	list_init(&snap->waiting);
	return snap;
}

int snapshot_meta_of(const struct sandbox *sb, const struct template *template, struct snapshot_meta *ret)
{
	*ret = (struct snapshot_meta){
		.created = now_real_ns(),
		.pause_ns = template->pause_ns,
		.machine = template->machine,
		.ram_logical = template->ram_size,
		.next_job = sb->next_job,
	};
	snprintf(ret->source, sizeof(ret->source), "%s", sb->obj.name);
	snprintf(ret->parent, sizeof(ret->parent), "%s", sb->parent_named);
	snprintf(ret->image, sizeof(ret->image), "%s", sb->image);
	snprintf(ret->engine, sizeof(ret->engine), "%s", template->engine);
	buf_add(&ret->env, buf_bytes(&sb->env), sb->env.len);
	return ret->env.failed ? -ENOMEM : 0;
}

int snapshot_new(struct sandbox *sb, struct template *template, struct snapshot **ret, struct err *err)
{
	struct snapshot *snap;
	char number[16];

	snprintf(number, sizeof(number), "%u", sb->next_snapshot);
	snap = make(sb->obj.fs, number, &sb->obj.owner);
	if (!snap || snapshot_meta_of(sb, template, &snap->meta)) {
		free(snap);
		template_unref(template);
		return err_sys(err, -ENOMEM, "cannot keep a snapshot of %s", sb->obj.name);
	}
	snap->has_meta = true;
	snap->obj.owner.mode = 0755;
	snap->obj.to_root = "../../../../";
	snap->template = template;
	snap->source = sb;
	*ret = snap;
	return 0;
}

void snapshot_keep(struct snapshot *snap)
{
	snap->source->next_snapshot++;
	list_add(&snap->source->snapshots, &snap->link);
}

void snapshot_drop(struct snapshot *snap)
{
	struct sandbox *child;
	struct worker *worker;

	list_del(&snap->link);
	snap->source = NULL;
	while ((child = list_first(&snap->obj.forks, struct sandbox, fork_link))) {
		list_del(&child->fork_link);
		child->origin = NULL;
	}
	list_for_each (worker, &snap->workers, link)
		atomic_store(&worker->progress.cancel, true);
	if (snap->template)
		pool_forget(snap->obj.fs, snap->template);
	/* Somebody may be in its directory still; the memory goes now. */
	template_unref(snap->template);
	snap->template = NULL;
	object_remove(&snap->obj);
	object_unref(&snap->obj);
}

/* ---- what the store has */

struct loading {
	struct fs *fs;
	bool failed;
};

static void add_named(void *arg, const char *name)
{
	struct loading *loading = arg;
	struct snapshot *snap = make(loading->fs, name, &loading->fs->root.owner);

	if (!snap) {
		loading->failed = true;
		return;
	}
	snap->obj.owner.mode = 0755;
	snap->obj.to_root = "../../../";
	list_add(&loading->fs->snapshots, &snap->link);
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

	while ((snap = list_first(&fs->snapshots, struct snapshot, link)))
		snapshot_drop(snap);
}

int snapshot_read_meta(struct snapshot *snap, struct err *err)
{
	struct snapshot_meta meta;

	if (snap->has_meta && (snap->source || snap->obj.gone))
		return 0;
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

/* ---- workers */

static int run(void *arg)
{
	struct worker *worker = arg;

	switch (worker->kind) {
	case WORK_SAVE:
		return snapshot_save_run(worker->save);
	case WORK_LOAD:
		return snapshot_load_run(worker->load);
	default:
		return snapshot_verify_run(worker->verify);
	}
}

void snapshot_name_moved(struct fs *fs, const char *from, const char *to)
{
	struct sandbox *sb;

	list_for_each (sb, &fs->sandboxes, link)
		if (!strcmp(sb->parent_named, from))
			snprintf(sb->parent_named, sizeof(sb->parent_named), "%s", to);
}

/* The snapshot is a named one from now on. */
static void publish(struct snapshot *snap, const char *name)
{
	struct fs *fs = snap->obj.fs;
	struct snapshot_meta meta;

	list_del(&snap->link);
	/* The next snapshot of the same sandbox refers to this one's memory. */
	if (snap->source)
		snprintf(snap->source->parent_named, sizeof(snap->source->parent_named), "%s", name);
	snap->source = NULL;
	snap->obj.to_root = "../../../";
	snprintf(snap->obj.name, sizeof(snap->obj.name), "%s", name);
	list_add(&fs->snapshots, &snap->link);
	/* What was stored, and how big it is. */
	if (!snapshot_get(fs->store, name, &meta, NULL)) {
		snapshot_meta_release(&snap->meta);
		snap->meta = meta;
	}
}

static void end_save(struct worker *worker, int result, struct err *err)
{
	struct snapshot *snap = worker->snap;

	if (!result && snap->obj.gone)
		result = -ECANCELED;
	if (snapshot_save_end(worker->save, result, err)) {
		if (result == -ECANCELED)
			err_set(err, -ECANCELED, "saving %s was given up", worker->name);
		return;
	}
	publish(snap, worker->name);
}

static void end_load(struct worker *worker, int result, struct err *err)
{
	struct snapshot *snap = worker->snap;
	struct snapshot_wait *wait;
	struct template *template = NULL;

	if (!snapshot_load_end(worker->load, result, &template, err))
		snap->template = template;
	while ((wait = list_first(&snap->waiting, struct snapshot_wait, link))) {
		list_del(&wait->link);
		wait->done(wait->arg, err);
		free(wait);
	}
}

static void finished(void *arg, int result)
{
	struct worker *worker = arg;
	struct snapshot *snap = worker->snap;
	struct err err = { 0 };

	list_del(&worker->link);
	snap->obj.fs->working--;
	switch (worker->kind) {
	case WORK_SAVE:
		end_save(worker, result, &err);
		break;
	case WORK_LOAD:
		end_load(worker, result, &err);
		break;
	default:
		snapshot_verify_end(worker->verify, result, &err);
		break;
	}
	object_changed(&snap->obj); /* its status */
	if (worker->done)
		worker->done(worker->arg, &err);
	object_unref(&snap->obj);
	free(worker);
}

static struct worker *worker_new(struct snapshot *snap, enum worker_kind kind, done_fn done, void *arg)
{
	struct worker *worker = calloc(1, sizeof(*worker));

	if (!worker)
		return NULL;
	worker->snap = snap;
	worker->kind = kind;
	worker->done = done;
	worker->arg = arg;
	return worker;
}

/* Its struct save, load or verify has begun. From here on `finished` ends it. */
static void worker_start(struct worker *worker)
{
	struct fs *fs = worker->snap->obj.fs;

	object_ref(&worker->snap->obj);
	list_add(&worker->snap->workers, &worker->link);
	fs->working++;
	object_changed(&worker->snap->obj);
	if (loop_work(fs->loop, run, finished, worker))
		finished(worker, -ENOMEM);
}

void worker_cancel(void *arg)
{
	struct worker *worker = arg;

	atomic_store(&worker->progress.cancel, true);
}

int snapshot_name_check(struct fs *fs, const char *name, struct err *err)
{
	if (!name_valid(name))
		return err_set(err, -EINVAL, "\"%.80s\" is not a name for a snapshot", name);
	if (snapshot_find(&fs->snapshots, name))
		return err_set(err, -EEXIST, "there is a snapshot %s already", name);
	return 0;
}

int snapshot_save(struct snapshot *snap, const char *name, done_fn done, void *arg,
		  struct worker **ret_worker, struct err *err)
{
	struct fs *fs = snap->obj.fs;
	struct snapshot_meta meta = snap->meta;
	struct worker *worker;
	int rc = snapshot_name_check(fs, name, err);

	if (rc)
		return rc;
	if (!list_empty(&snap->workers))
		return err_set(err, -EBUSY, "snapshot %s is being saved already", snap->obj.name);
	worker = worker_new(snap, WORK_SAVE, done, arg);
	if (!worker)
		return err_sys(err, -ENOMEM, "cannot save a snapshot");
	snprintf(worker->name, sizeof(worker->name), "%s", name);
	snprintf(meta.name, sizeof(meta.name), "%s", name);
	rc = snapshot_save_begin(fs->store, &meta, snap->template, &worker->progress, &worker->save, err);
	if (rc) {
		free(worker);
		return rc;
	}
	*ret_worker = worker;
	worker_start(worker);
	return 0;
}

int snapshot_verify(struct snapshot *snap, done_fn done, void *arg, struct worker **ret_worker,
		    struct err *err)
{
	struct worker *worker;
	int rc;

	if (snap->source)
		return err_set(err, -EBUSY, "verify: only a named snapshot is stored");
	worker = worker_new(snap, WORK_VERIFY, done, arg);
	if (!worker)
		return err_sys(err, -ENOMEM, "verify");
	rc = snapshot_verify_begin(snap->obj.fs->store, snap->obj.name, &worker->progress, &worker->verify,
				   err);
	if (rc) {
		free(worker);
		return rc;
	}
	*ret_worker = worker;
	worker_start(worker);
	return 0;
}

static int load(struct snapshot *snap, struct err *err)
{
	struct worker *worker = worker_new(snap, WORK_LOAD, NULL, NULL);
	int rc;

	if (!worker)
		return err_sys(err, -ENOMEM, "cannot load snapshot %s", snap->obj.name);
	rc = snapshot_load_begin(snap->obj.fs->store, snap->obj.name, &worker->progress, &worker->load, err);
	if (rc) {
		free(worker);
		return rc;
	}
	worker_start(worker);
	return 0;
}

void snapshot_template(struct snapshot *snap, template_fn done, void *arg)
{
	const bool loading = !list_empty(&snap->waiting);
	struct snapshot_wait *wait;
	struct err err = { 0 };
	int rc = 0;

	if (!snap->template) {
		rc = snapshot_read_meta(snap, &err);
		if (!rc && strcmp(snap->meta.engine, snap->obj.fs->engine->name) != 0)
			rc = err_set(&err, -EINVAL, "snapshot %s is of engine %s, this is %s", snap->obj.name,
				     snap->meta.engine, snap->obj.fs->engine->name);
	}
	if (rc || snap->template) {
		done(arg, &err);
		return;
	}
	wait = malloc(sizeof(*wait));
	if (!wait) {
		err_sys(&err, -ENOMEM, "cannot load snapshot %s", snap->obj.name);
		done(arg, &err);
		return;
	}
	wait->done = done;
	wait->arg = arg;
	if (!loading && load(snap, &err)) {
		free(wait);
		done(arg, &err);
		return;
	}
	list_add(&snap->waiting, &wait->link);
}

void snapshot_status(const struct snapshot *snap, struct buf *text)
{
	static const char *const names[] = { "saving", "loading", "verifying" };
	const struct worker *worker = list_first(&snap->workers, struct worker, link);

	if (worker)
		buf_printf(text, "%s %u%%", names[worker->kind],
			   atomic_load(&((struct worker *)worker)->progress.permille) / 10);
	else if (!snap->has_meta)
		buf_printf(text, "damaged");
	else
		buf_printf(text, "ready");
}
