/* SPDX-License-Identifier: MIT */
/*
 * wake.c - a machine that is in the store goes on
 *
 * Its template is loaded and a machine made of it, as for a fork; but the guest is told that it is the one it was. What
 * was asked of it meanwhile waits in its agent channel and follows. Should it fail, whoever waits is told, and the
 * sandbox stays as it is stored.
 */
#include <errno.h>
#include <stdlib.h>

#include "fs/life/life.h"
#include "fs/sandbox/job.h"
#include "fs/sandbox/machine.h"
#include "fs/snapshot/snapshot.h"
#include "util/log.h"

/* ---- what is stored */

static void let_go(struct sandbox *sb, bool remove)
{
	struct snapshot *snap = sb->life.stored;
	struct err err;

	sb->life.stored = NULL;
	list_del(&sb->life.change);
	if (!snap)
		return;
	if (remove && snapshot_remove(sb->obj.fs->store, snap->obj.name, &err) && err.code != -ENOENT)
		log_warn("%s: what was stored of it stays: %s", sb->obj.name, err.text);
	snapshot_drop(snap);
}

void life_forget(struct sandbox *sb)
{
	let_go(sb, true);
}

void life_end(struct sandbox *sb)
{
	timer_stop(&sb->life.timer);
	timer_stop(&sb->life.begin);
	let_go(sb, true);
}

void life_keep_all(struct fs *fs)
{
	struct sandbox *sb;

	list_for_each (sb, &fs->sandboxes, link) {
		if ((sb->state == SANDBOX_SUSPENDED && sb->life.outdated) || !list_empty(&sb->life.change))
			life_changed(sb);
		/* What a machine was before it crashed or was stopped is all that the store has of it. */
		let_go(sb, false);
	}
}

static int check_damaged(const struct sandbox *sb, struct err *err)
{
	if (!sb->life.damaged)
		return 0;
	return err_set(
		err, -EIO,
		"what is stored of %s is damaged (sbxfs says more when it starts); rmdir takes it away",
		sb->obj.name);
}

int life_kill(struct sandbox *sb, struct err *err)
{
	struct fs *fs = sb->obj.fs;
	struct layer *disk;
	int rc = check_damaged(sb, err);

	if (!rc && !sb->disk && sb->state == SANDBOX_SUSPENDED) {
		rc = snapshot_disk(fs->store, sb->life.stored->obj.name, &disk, err);
		if (!rc) {
			rc = layer_overlay(fs->store, disk, &sb->disk, err);
			layer_unref(disk);
		}
	}
	if (rc)
		return rc;
	machine_drop(sb);
	network_detach(sb); /* what sleeps listens without a machine */
	sandbox_set_state(sb, SANDBOX_STOPPED);
	life_replaced(sb);
	return 0;
}

void life_replaced(struct sandbox *sb)
{
	sb->life.asleep = sb->life.wanted = sb->life.anew = false;
	if (sb->obj.fs->options.keep)
		life_changed(sb);
	else
		life_forget(sb);
}

void life_sleep_on(struct sandbox *sb)
{
	machine_drop(sb);
	layer_unref(sb->disk);
	sb->disk = NULL;
	sb->life.asleep = sb->life.anew = true;
	sb->life.wanted = sb->life.outdated = false;
	sandbox_set_state(sb, SANDBOX_SUSPENDED);
	network_sleep(sb);
}

/* ---- loading */

/* What is stored is loaded for somebody: the task is ended, and the callback of the load comes, in any order. */
struct waking {
	struct sandbox *sb;    /* a reference */
	struct snapshot *snap; /* a reference */
	bool tasked, loading;
	struct template *template;
	/* Of a capture; NULL: it is a resume. */
	void (*captured)(void *arg, const struct err *err, struct template *template);
	done_fn done; /* of a resume; NULL: nobody waits for it but the guest's users */
	void *arg;
};

static void load_free(struct waking *load)
{
	if (load->tasked || load->loading)
		return;
	load->sb->obj.fs->forking--;
	template_unref(load->template);
	object_unref(&load->snap->obj);
	object_unref(&load->sb->obj);
	free(load);
}

/* The end of the task. */
static void load_end(void *arg, const struct err *err)
{
	struct waking *load = arg;
	struct template *template = NULL;

	load->tasked = false;
	if (load->captured) {
		if (!err->code) {
			template = load->template;
			load->template = NULL;
		}
		load->captured(load->arg, err, template);
	} else if (load->done) {
		load->done(load->arg, err);
	}
	load_free(load);
}

static int load_begin(struct sandbox *sb, const char *verb, struct waking **ret, struct err *err)
{
	struct waking *load = calloc(1, sizeof(*load));
	int rc;

	if (!load)
		return err_sys(err, -ENOMEM, "%s", verb);
	rc = task_begin(sb, verb, load_end, load, err);
	if (rc) {
		free(load);
		return rc;
	}
	load->tasked = load->loading = true;
	load->sb = sandbox_of(object_ref(&sb->obj));
	load->snap = snapshot_of(object_ref(&sb->life.stored->obj));
	sb->obj.fs->forking++;
	*ret = load;
	return 0;
}

/* It is kept by who uses it, and for no longer: a sandbox that sleeps takes no memory. */
static void take_template(struct waking *load)
{
	load->template = template_ref(load->snap->template);
	snapshot_set_template(load->snap, NULL);
}

static void on_loaded_for_capture(void *arg, const struct err *err)
{
	struct waking *load = arg;

	load->loading = false;
	if (!err->code)
		take_template(load);
	if (load->tasked)
		task_end(load->sb, err);
	else
		load_free(load);
}

int life_capture(struct sandbox *sb, const char *verb,
		 void (*done)(void *arg, const struct err *err, struct template *template), void *arg,
		 struct err *err)
{
	struct waking *load;
	int rc = check_damaged(sb, err);

	if (!rc)
		rc = load_begin(sb, verb, &load, err);
	if (rc)
		return rc;
	load->captured = done;
	load->arg = arg;
	snapshot_template(load->snap, on_loaded_for_capture, load);
	return 0;
}

/* ---- going on */

static void fail(struct waking *load, const struct err *err)
{
	struct sandbox *sb = load->sb;
	struct err why = *err;

	err_prefix(&why, "%s cannot be resumed", sb->obj.name);
	log_warn("%s", why.text);
	/* Something may have been written there that what is stored knows nothing of. */
	layer_unref(sb->disk);
	sb->disk = NULL;
	sb->life.wanted = false;
	object_report(&sb->obj, &why);
	if (sb->agent)
		agent_fail(sb->agent, &why);
	jobs_unbegun(sb, sb->life.first_job, why.text);
	network_refuse(sb);
	task_end(sb, &why);
}

static void on_up(void *arg, const struct err *err)
{
	struct waking *load = arg;
	struct sandbox *sb = load->sb;

	if (err->code) {
		fail(load, err);
		return;
	}
	sb->life.asleep = sb->life.wanted = sb->life.anew = false;
	sb->life.worked_ns = now_mono_ns();
	if (sb->obj.fs->options.keep)
		life_changed(sb);
	else
		life_forget(sb);
	jobs_settle(sb);
	agent_release(sb->agent);
	jobs_go_on(sb);
	task_end(sb, err);
}

static void on_loaded(void *arg, const struct err *err)
{
	struct waking *load = arg;
	struct err failed = *err;

	load->loading = false;
	if (!failed.code)
		take_template(load);
	if (!load->tasked)
		load_free(load);
	else if (failed.code || machine_wake(load->sb, load->template, on_up, load, &failed))
		fail(load, &failed);
}

void life_resume(struct sandbox *sb, done_fn done, void *arg)
{
	struct waking *load;
	struct err err;

	if (machine_listen(sb))
		err_sys(&err, -ENOMEM, "%s cannot be resumed", sb->obj.name);
	else if (!load_begin(sb, "resume", &load, &err)) {
		load->done = done;
		load->arg = arg;
		if (check_damaged(sb, &err))
			on_loaded(load, &err);
		else
			snapshot_template(load->snap, on_loaded, load);
		return;
	}
	if (done)
		done(arg, &err);
}

static void on_begin(void *arg)
{
	struct sandbox *sb = arg;

	if (sb->state == SANDBOX_SUSPENDED && !sb->task.verb)
		life_resume(sb, NULL, NULL);
}

static void begin_soon(struct sandbox *sb)
{
	if (!timer_running(&sb->life.begin))
		timer_start(sb->obj.fs->loop, &sb->life.begin, 0, on_begin, sb);
}

bool life_touch(struct sandbox *sb)
{
	struct life *life = &sb->life;

	life->worked_ns = now_mono_ns();
	if (!life->asleep || (sb->state != SANDBOX_SUSPENDED && !life->was_running))
		return false;
	life->wanted = true;
	if (life->saving)
		worker_cancel(life->saving);
	else if (sb->state == SANDBOX_SUSPENDED && !machine_listen(sb) && !sb->task.verb)
		begin_soon(sb);
	return true;
}

void life_task_ended(struct sandbox *sb)
{
	if (sb->life.wanted && sb->state == SANDBOX_SUSPENDED && !sb->task.verb && !sb->ending)
		begin_soon(sb);
}
