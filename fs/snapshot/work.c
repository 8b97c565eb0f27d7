/* SPDX-License-Identifier: MIT */
/* work.c - slow work on a snapshot, on threads: saving, loading, checking */
#include "fs/snapshot/work.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/sandbox/admission.h"
#include "fs/sandbox/requirements.h"
#include "util/log.h"

enum { TELL_MS = 100 };

struct workers {
	struct list all;    /* struct worker */
	struct timer timer; /* tells how far they are */
};

/* The store is almost full: those that write to it end with -ENOSPC. */
static void workers_full(struct fs *fs)
{
	struct worker *worker;

	list_for_each (worker, &fs->workers->all, all) {
		if (!worker->kind->writes)
			continue;
		worker->full = true;
		worker_cancel(worker);
	}
}

int workers_open(struct fs *fs, struct err *err)
{
	fs->workers = calloc(1, sizeof(*fs->workers));
	if (!fs->workers)
		return err_sys(err, -ENOMEM, "cannot make the workers");
	list_init(&fs->workers->all);
	fs->store_full = workers_full;
	return 0;
}

void workers_close(struct fs *fs)
{
	free(fs->workers);
	fs->workers = NULL;
}

bool workers_idle(const struct fs *fs)
{
	return list_empty(&fs->workers->all);
}

bool workers_owe(const struct fs *fs)
{
	const struct worker *worker;

	list_for_each (worker, &fs->workers->all, all)
		if (worker->promised)
			return true;
	return false;
}

/* ---- any */

struct worker *worker_new(struct snapshot *snap, const struct work_kind *kind, done_fn done, void *arg)
{
	struct worker *worker = calloc(1, sizeof(*worker));

	if (!worker)
		return NULL;
	worker->snap = snap;
	worker->kind = kind;
	worker->fd = -1;
	worker->done = done;
	worker->arg = arg;
	return worker;
}

int worker_room(const struct snapshot *snap, struct err *err)
{
	const struct worker *worker;
	unsigned all = 0, own = 0;

	list_for_each (worker, &snap->obj.fs->workers->all, all) {
		all += worker->kind->waits;
		own += worker->kind->waits && worker->snap->obj.owner.uid == snap->obj.owner.uid;
	}
	if (all < WAITING_MAX && own < WAITING_OF_OWNER_MAX)
		return 0;
	return err_set(
		err, -EBUSY,
		"archive: %u archives of this owner's snapshots are being read or written, and %u in all; "
		"at most %d and %d may be",
		own, all, WAITING_OF_OWNER_MAX, WAITING_MAX);
}

static unsigned percent(const struct worker *worker)
{
	const unsigned permille = atomic_load(&((struct worker *)worker)->progress.permille);

	return permille < 1000 ? permille / 10 : 100;
}

/* Wake who polls a status whose percentage moved. */
static void tell(void *arg)
{
	struct fs *fs = arg;
	struct worker *worker;

	list_for_each (worker, &fs->workers->all, all) {
		if (percent(worker) == worker->told)
			continue;
		worker->told = percent(worker);
		object_changed(&worker->snap->obj);
	}
	if (!list_empty(&fs->workers->all))
		timer_start(fs->loop, &fs->workers->timer, TELL_MS * 1000000ull, tell, fs);
}

static int run(void *arg)
{
	struct worker *worker = arg;

	return worker->kind->run(worker);
}

static void finished(void *arg, int result)
{
	struct worker *worker = arg;
	struct snapshot *snap = worker->snap;
	struct fs *fs = snap->obj.fs;
	struct err err = { 0 };

	list_del(&worker->link);
	list_del(&worker->all);
	fs->working--;
	if (list_empty(&fs->workers->all))
		timer_stop(&fs->workers->timer);
	worker->kind->end(worker, result, &err);
	if (err.code == -ECANCELED && worker->full)
		err_set(&err, -ENOSPC,
			"snapshot %s: the store is almost full, and what is left is for others",
			*worker->name ? worker->name : snap->obj.name);
	if (err.code && !*err.text) /* it never began */
		err_sys(&err, err.code, "snapshot %s", snap->obj.name);
	if (!err.code && worker->began_ns)
		timing_add(&fs->save_times, now_mono_ns() - worker->began_ns);
	object_changed(&snap->obj); /* its status */
	if (worker->done)
		worker->done(worker->arg, &err);
	if (worker->source)
		object_unref(&worker->source->obj);
	object_unref(&snap->obj);
	free(worker);
}

static void no_thread(void *arg)
{
	finished(arg, -ENOMEM);
}

void worker_start(struct worker *worker)
{
	struct fs *fs = worker->snap->obj.fs;

	object_ref(&worker->snap->obj);
	list_add(&worker->snap->workers, &worker->link);
	list_add(&fs->workers->all, &worker->all);
	fs->working++;
	if (!timer_running(&fs->workers->timer))
		timer_start(fs->loop, &fs->workers->timer, TELL_MS * 1000000ull, tell, fs);
	if (worker->kind->writes)
		room_watch(fs);
	object_changed(&worker->snap->obj);
	if ((worker->kind->waits ? loop_thread : loop_work)(fs->loop, run, finished, worker))
		timer_start(fs->loop, &worker->timer, 0, no_thread, worker);
}

void worker_cancel(void *arg)
{
	struct worker *worker = arg;

	atomic_store(&worker->progress.cancel, true);
}

struct worker *worker_busy(const struct snapshot *snap)
{
	struct worker *worker;

	list_for_each (worker, &snap->workers, link)
		if (worker->kind->doing)
			return worker;
	return NULL;
}

void snapshot_status(struct snapshot *snap, struct buf *text)
{
	const struct worker *worker = worker_busy(snap);

	if (worker)
		buf_printf(text, "%s %u%%", worker->kind->doing, percent(worker));
	else if (snapshot_is_empty(snap))
		buf_printf(text, "empty");
	else if (snapshot_read_meta(snap, NULL))
		buf_printf(text, "damaged");
	else
		buf_printf(text, "ready");
}

/* ---- saving */

static int run_save(struct worker *worker)
{
	return snapshot_save_run(worker->save);
}

static void end_save(struct worker *worker, int result, struct err *err)
{
	struct snapshot *snap = worker->snap;

	if (!result && snap->obj.gone)
		result = -ECANCELED;
	if (!snapshot_save_end(worker->save, result, err))
		snapshot_published(snap, worker->name, worker->source);
	else if (result == -ECANCELED)
		err_set(err, -ECANCELED, "saving %s was cancelled", worker->name);
}

static const struct work_kind save_kind = {
	.doing = "saving", .writes = true, .run = run_save, .end = end_save
};

int snapshot_name_check(struct fs *fs, const char *name, struct err *err)
{
	const struct worker *worker;

	if (name_check(name, err))
		return -EINVAL;
	if (snapshot_find(&fs->snapshot_names, name))
		return err_set(err, -EEXIST, "there is already a snapshot %s", name);
	list_for_each (worker, &fs->workers->all, all)
		if (worker->kind == &save_kind && !strcmp(worker->name, name))
			return err_set(err, -EEXIST, "a snapshot %s is already being saved", name);
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
	if (worker_busy(snap))
		return err_set(err, -EBUSY, "snapshot %s is already being saved", snap->obj.name);
	rc = room_to_save(fs, err);
	if (rc)
		return rc;
	worker = worker_new(snap, &save_kind, done, arg);
	if (!worker)
		return err_sys(err, -ENOMEM, "cannot save a snapshot");
	worker->began_ns = now_mono_ns();
	snprintf(worker->name, sizeof(worker->name), "%s", name);
	snprintf(meta.name, sizeof(meta.name), "%s", name);
	meta.owner = snap->obj.owner;
	rc = snapshot_save_begin(fs->store, &meta, snap->template, &worker->progress, &worker->save, err);
	if (rc) {
		free(worker);
		return rc;
	}
	worker->source = sandbox_of(object_ref(&snap->source->obj));
	if (list_empty(&snap->obj.siblings))
		snapshot_name(snap, name); /* it never had another name: its status is to be seen */
	*ret_worker = worker;
	worker_start(worker);
	return 0;
}

static void end_save_boot(struct worker *worker, int result, struct err *err)
{
	struct snapshot *snap = worker->snap;

	if (!result && snap->obj.gone)
		result = -ECANCELED;
	if (!snapshot_save_end(worker->save, result, err))
		snap->stored = true;
	else if (result != -ECANCELED)
		log_warn("a boot snapshot is kept in memory only: %s", err->text);
}

static const struct work_kind save_boot_kind = { .writes = true, .run = run_save, .end = end_save_boot };

void snapshot_save_boot(struct snapshot *snap)
{
	struct fs *fs = snap->obj.fs;
	struct snapshot_meta meta = snap->meta;
	struct worker *worker = NULL;
	struct err err;
	int rc = room_to_keep(fs, snap->template->ram_size / 4, &err);

	if (!rc) {
		worker = worker_new(snap, &save_boot_kind, NULL, NULL);
		rc = worker ? 0 : err_sys(&err, -ENOMEM, "cannot save it");
	}
	if (!rc) {
		snprintf(worker->name, sizeof(worker->name), "%s", snap->obj.name);
		snprintf(meta.name, sizeof(meta.name), "%s", snap->obj.name);
		meta.owner = snap->obj.owner;
		rc = snapshot_save_begin(fs->store, &meta, snap->template, &worker->progress, &worker->save,
					 &err);
	}
	if (rc) {
		free(worker);
		log_warn("a boot snapshot is kept in memory only: %s", err.text);
		return;
	}
	worker_start(worker);
}

static void end_save_life(struct worker *worker, int result, struct err *err)
{
	struct snapshot *snap = worker->snap;

	if (!result && (snap->obj.gone || atomic_load(&worker->progress.cancel)))
		result = -ECANCELED;
	if (!snapshot_save_end(worker->save, result, err))
		snap->stored = true;
	else if (result == -ECANCELED)
		err_set(err, -ECANCELED, "it was given up");
}

static const struct work_kind save_life_kind = { .writes = true, .run = run_save, .end = end_save_life };

int snapshot_save_life(struct snapshot *snap, done_fn done, void *arg, struct worker **ret_worker,
		       struct err *err)
{
	struct fs *fs = snap->obj.fs;
	struct snapshot_meta meta = snap->meta;
	struct worker *worker;
	int rc = room_to_save(fs, err);

	if (rc)
		return rc;
	worker = worker_new(snap, &save_life_kind, done, arg);
	if (!worker)
		return err_sys(err, -ENOMEM, "it cannot be saved");
	snprintf(worker->name, sizeof(worker->name), "%s", snap->obj.name);
	snprintf(meta.name, sizeof(meta.name), "%s", snap->obj.name);
	meta.owner = snap->obj.owner;
	rc = snapshot_save_begin(fs->store, &meta, snap->template, &worker->progress, &worker->save, err);
	if (rc) {
		free(worker);
		return rc;
	}
	*ret_worker = worker;
	worker_start(worker);
	return 0;
}

/* ---- checking */

static int run_visit(struct worker *worker)
{
	return snapshot_visit_run(worker->visit);
}

static void end_verify(struct worker *worker, int result, struct err *err)
{
	snapshot_verify_end(worker->visit, result, err);
}

static const struct work_kind verify_kind = { .doing = "verifying", .run = run_visit, .end = end_verify };

int snapshot_verify(struct snapshot *snap, done_fn done, void *arg, struct worker **ret_worker,
		    struct err *err)
{
	struct worker *worker;
	int rc;

	if (!snap->stored)
		return err_set(err, -EBUSY, "verify: %s is not in the store",
			       snap->named ? snap->obj.name : "an unnamed snapshot");
	worker = worker_new(snap, &verify_kind, done, arg);
	if (!worker)
		return err_sys(err, -ENOMEM, "verify");
	rc = snapshot_verify_begin(snap->obj.fs->store, snap->obj.name, &worker->progress, &worker->visit,
				   err);
	if (rc) {
		free(worker);
		return rc;
	}
	*ret_worker = worker;
	worker_start(worker);
	return 0;
}

/* ---- loading */

struct snapshot_wait {
	struct list link;
	done_fn done;
	void *arg;
};

static void end_load(struct worker *worker, int result, struct err *err)
{
	struct snapshot *snap = worker->snap;
	struct snapshot_wait *wait;
	struct template *template = NULL;

	if (!snapshot_load_end(worker->visit, result, &template, err))
		snapshot_set_template(snap, template);
	while ((wait = list_first(&snap->waiting, struct snapshot_wait, link))) {
		list_del(&wait->link);
		wait->done(wait->arg, err);
		free(wait);
	}
}

static const struct work_kind load_kind = { .doing = "loading", .run = run_visit, .end = end_load };

static int load(struct snapshot *snap, struct err *err)
{
	struct worker *worker = worker_new(snap, &load_kind, NULL, NULL);
	int rc;

	if (!worker)
		return err_sys(err, -ENOMEM, "cannot load snapshot %s", snap->obj.name);
	rc = snapshot_load_begin(snap->obj.fs->store, snap->obj.name, &worker->progress, &worker->visit, err);
	if (rc) {
		free(worker);
		return rc;
	}
	worker_start(worker);
	return 0;
}

/* Whether it can be loaded here. */
static int loadable(struct snapshot *snap, struct err *err)
{
	int rc;

	if (snapshot_is_empty(snap))
		return err_set(err, -EBUSY, "snapshot %s is empty; import an archive into it first",
			       snap->obj.name);
	rc = admit_files(snap->obj.fs, &snap->obj.owner, TEMPLATE_FILES, err);
	if (!rc)
		rc = snapshot_read_meta(snap, err);
	return rc ? rc : requires_check(snap->obj.fs, &snap->meta, snap->obj.name, err);
}

void snapshot_template(struct snapshot *snap, done_fn done, void *arg)
{
	const bool loading = !list_empty(&snap->waiting);
	struct snapshot_wait *wait;
	struct err err = { 0 };

	if (snap->template || loadable(snap, &err)) {
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
