/* SPDX-License-Identifier: MIT */
/*
 * suspend.c - a machine goes to the store, and ends
 *
 *   capture (which pauses it), save under a hidden name, end the machine
 *
 * Until the name is there the machine is what counts: whatever fails, or somebody who asks for the guest meanwhile,
 * lets it go on where it is, and what was stored goes. A save that is given up takes a moment to end, in which the
 * machine may run already.
 */
#include <errno.h>
#include <stdlib.h>

#include "fs/life/life.h"
#include "fs/sandbox/capture.h"
#include "fs/sandbox/job.h"
#include "fs/sandbox/machine.h"
#include "fs/sandbox/pause.h"
#include "fs/snapshot/work.h"
#include "util/log.h"

struct suspend {
	struct sandbox *sb; /* a reference */
	struct snapshot *snap;
	bool was_running;
	bool tasked; /* the task is ours */
	struct worker *worker;
	uint64_t stored_ns;
	struct err err; /* why it goes on */
	done_fn done;
	void *arg;
};

/* What waited for the guest follows. */
static void be_awake(struct sandbox *sb)
{
	sb->life.asleep = sb->life.wanted = false;
	network_awake(sb);
	jobs_go_on(sb);
}

static void finish(struct suspend *s)
{
	if (s->tasked || s->worker)
		return;
	if (s->snap) {
		struct err err;

		/* It was saved in the same moment. */
		if (s->snap->stored && snapshot_remove(s->sb->obj.fs->store, s->snap->obj.name, &err))
			log_warn("%s: %s", s->sb->obj.name, err.text);
		snapshot_drop(s->snap);
	}
	object_unref(&s->sb->obj);
	free(s);
}

static void tell(struct suspend *s, const struct err *err)
{
	const done_fn done = s->done;

	s->done = NULL;
	if (done)
		done(s->arg, err);
}

/* The task's end, whatever brought it about. */
static void suspend_end(void *arg, const struct err *err)
{
	struct suspend *s = arg;
	struct sandbox *sb = s->sb;

	s->tasked = false;
	sb->life.saving = NULL;
	if (s->worker)
		worker_cancel(s->worker);
	if (sb->state != SANDBOX_SUSPENDED)
		be_awake(sb);
	tell(s, err);
	finish(s);
}

static void on_resumed(void *arg, const struct err *err)
{
	struct suspend *s = arg;
	struct err why = s->err.code ? s->err : *err;

	task_end(s->sb, &why);
}

/* The machine goes on where it is. */
static void go_on(struct suspend *s, const struct err *why)
{
	struct sandbox *sb = s->sb;

	s->err = *why;
	if (s->was_running || sb->life.wanted) {
		machine_resume(sb, true, on_resumed, s);
		return;
	}
	task_end(sb, &s->err);
}

/* What was stored before is of no use any more. */
static void keep(struct suspend *s)
{
	struct sandbox *sb = s->sb;
	const struct err ok = { 0 };

	life_forget(sb);
	sb->life.stored = s->snap;
	sb->life.stored_ns = s->stored_ns;
	s->snap = NULL;
	snapshot_set_template(sb->life.stored, NULL);
	machine_stored(sb);
	sb->life.first_job = sb->next_job;
	sandbox_set_state(sb, SANDBOX_SUSPENDED);
	if (sb->life.changed)
		life_setting_changed(sb);
	task_end(sb, &ok);
}

static void refuse_used(const struct suspend *s, struct err *err)
{
	err_set(err, -EBUSY, "suspend: %s is in use: somebody asked it for something meanwhile",
		s->sb->obj.name);
}

static void on_saved(void *arg, const struct err *err)
{
	struct suspend *s = arg;
	struct err why = *err;

	s->worker = NULL;
	if (!s->tasked) {
		finish(s);
		return;
	}
	s->sb->life.saving = NULL;
	if (s->sb->life.wanted)
		refuse_used(s, &why);
	if (why.code)
		go_on(s, &why);
	else
		keep(s);
}

static int begin_save(struct suspend *s, struct template *template, struct err *err)
{
	struct sandbox *sb = s->sb;
	struct snapshot_meta meta;
	char name[LIFE_NAME_SIZE];
	int rc = life_name(name);

	if (!rc)
		rc = snapshot_meta_of(sb, template, &meta);
	if (rc) {
		template_unref(template);
		return err_sys(err, rc, "suspend: %s", sb->obj.name);
	}
	s->stored_ns = now_real_ns();
	sb->life.changed = false;
	life_record(sb, s->stored_ns, &meta.record);
	if (meta.record.failed) {
		template_unref(template);
		snapshot_meta_release(&meta);
		return err_sys(err, -ENOMEM, "suspend: %s", sb->obj.name);
	}
	s->snap = snapshot_new_life(sb, name, template, &meta);
	if (!s->snap) {
		snapshot_meta_release(&meta);
		return err_sys(err, -ENOMEM, "suspend: %s", sb->obj.name);
	}
	return snapshot_save_life(s->snap, on_saved, s, &s->worker, err);
}

static void on_captured(void *arg, const struct err *err, struct template *template)
{
	struct suspend *s = arg;
	struct sandbox *sb = s->sb;
	struct err failed = *err;

	if (!failed.code && task_begin(sb, "suspend", suspend_end, s, &failed))
		template_unref(template);
	if (failed.code) {
		be_awake(sb);
		tell(s, &failed);
		finish(s);
		return;
	}
	s->tasked = true;
	if (sb->life.wanted) {
		template_unref(template);
		refuse_used(s, &failed);
	} else {
		begin_save(s, template, &failed);
	}
	if (failed.code)
		go_on(s, &failed);
	else
		sb->life.saving = s->worker;
}

void life_suspend(struct sandbox *sb, done_fn done, void *arg)
{
	struct suspend *s = calloc(1, sizeof(*s));
	struct err err = { 0 };

	if (!s) {
		err_sys(&err, -ENOMEM, "suspend");
		done(arg, &err);
		return;
	}
	s->sb = sandbox_of(object_ref(&sb->obj));
	s->was_running = sb->state == SANDBOX_RUNNING;
	s->done = done;
	s->arg = arg;
	if (capture(sb, "suspend", CAPTURE_SYNC, on_captured, s, &err)) {
		tell(s, &err);
		finish(s);
		return;
	}
	sb->life.asleep = true;
	sb->life.wanted = sb->life.outdated = false;
	sb->life.was_running = s->was_running;
	network_sleep(sb);
}

/* ---- at the end of the daemon */

struct all {
	unsigned under_way;
};

static void on_one(void *arg, const struct err *err)
{
	struct all *all = arg;

	if (err->code)
		log_warn("%s", err->text);
	all->under_way--;
}

void life_suspend_all(struct fs *fs)
{
	struct all all = { 0 };
	struct sandbox *sb;
	bool more = true;

	/* A few at a time: the store is one disk, and a machine that waits runs on meanwhile. A verb that is under way
	 * ends by itself, and after that the sandbox is as it left it. */
	while (more || all.under_way) {
		more = false;
		list_for_each (sb, &fs->sandboxes, link) {
			if (!sb->born || (sb->state != SANDBOX_RUNNING && sb->state != SANDBOX_PAUSED))
				continue;
			/* One that is idle, too: nobody waits for that but this. */
			if (sb->life.saving)
				more = true;
			if (sb->life.saving || sb->life.tried || sb->stalled)
				continue;
			more = true;
			if (sb->task.verb || all.under_way >= 2)
				continue;
			sb->life.tried = true;
			all.under_way++;
			life_suspend(sb, on_one, &all);
			break;
		}
		if (more || all.under_way)
			loop_once(fs->loop, -1);
	}
}
