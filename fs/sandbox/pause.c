/* SPDX-License-Identifier: MIT */
/* pause.c - a machine that stands, and goes on */
#include "fs/sandbox/pause.h"

#include <errno.h>

#include "fs/sandbox/job.h"
#include "fs/sandbox/machine.h"
#include "fs/sandbox/room.h"
#include "util/log.h"

enum {
	QUIESCE_MS =
		1000, /* a guest that answers does so in one round trip; one that does not is paused anyway */
	RESUME_MS = 10000,
	RENAME_MS = 750, /* twice; the directory's lock is held meanwhile */
	VMM_MS = 10000,  /* a VMM stops or continues its CPUs in milliseconds; on a busy host in a second */
};

/* ---- a VMM that stands still */

static void on_vmm_timeout(void *arg)
{
	struct sandbox *sb = arg;
	struct err err;

	err_set(&err, -ETIMEDOUT, "%s: %s: the VMM, process %d, does not answer", sb->obj.name, sb->task.verb,
		(int)sb->obj.fs->engine->pid(sb->vm));
	log_error("%s", err.text);
	task_answer(sb, &err);
}

void machine_expect(struct sandbox *sb, unsigned ms)
{
	timer_stop(&sb->task.limit);
	if (ms && !sb->task.answered)
		timer_start(sb->obj.fs->loop, &sb->task.limit, ms * 1000000ull, on_vmm_timeout, sb);
}

/* ---- pause and resume */

static void on_paused(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;

	if (!sb->vm)
		return;
	machine_expect(sb, 0);
	if (err->code) {
		agent_unquiesce(sb->agent);
		step_end(sb, err);
	} else if (sb->task.answered) {
		/* Whoever wanted it was told that it could not be. */
		machine_resume(sb, true, NULL, NULL);
	} else {
		step_end(sb, err);
	}
}

static void on_ahead(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;

	if (!sb->vm)
		return;
	machine_expect(sb, 0);
	step_end(sb, err);
}

void machine_ahead(struct sandbox *sb, unsigned ms, done_fn done, void *arg)
{
	step_begin(sb, "ahead", done, arg);
	machine_expect(sb, ms);
	sb->obj.fs->engine->ahead(sb->vm, on_ahead, sb);
}

static void on_quiesced(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;
	struct err why;

	if (!sb->vm)
		return;
	if (err->code == -EBUSY) {
		why = *err;
		err_prefix(&why, "%s is not captured: its guest refuses", sb->obj.name);
		step_end(sb, &why);
		return;
	}
	sb->quiesced = !err->code && !sb->stalled;
	machine_expect(sb, VMM_MS);
	sb->obj.fs->engine->pause(sb->vm, on_paused, sb);
}

void machine_pause(struct sandbox *sb, enum quiesce_why why, done_fn done, void *arg)
{
	step_begin(sb, "pause", done, arg);
	agent_quiesce(sb->agent, why, QUIESCE_MS, on_quiesced, sb);
}

static void on_resume_attached(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;

	if (sb->vm)
		step_end(sb, err);
}

static void resumed(struct sandbox *sb, bool long_pause, const struct err *err)
{
	if (!sb->vm)
		return;
	machine_expect(sb, 0);
	sb->task.continuing = false;
	if (err->code) {
		sb->stalled = sb->task.unstalled;
		step_end(sb, err);
		return;
	}
	sandbox_set_state(sb, SANDBOX_RUNNING);
	room_watch(sb->obj.fs);
	/* It stood by itself: no byte of the channel is missing, so nothing of jobs may be dropped either. */
	if (sb->task.unstalled) {
		agent_unquiesce(sb->agent);
		agent_ping(sb->agent, RESUME_MS, on_resume_attached, sb);
		return;
	}
	if (long_pause || !sb->quiesced) {
		sb->generation++;
		machine_attach(sb, ATTACH_RESUME, !sb->quiesced, RESUME_MS, on_resume_attached);
		return;
	}
	agent_unquiesce(sb->agent);
	step_end(sb, err);
}

static void on_resumed_at_once(void *arg, const struct err *err)
{
	resumed(arg, false, err);
}

static void on_resumed_later(void *arg, const struct err *err)
{
	resumed(arg, true, err);
}

void machine_resume(struct sandbox *sb, bool long_pause, done_fn done, void *arg)
{
	step_begin(sb, "resume", done, arg);
	sb->task.unstalled = sb->task.continuing = sb->stalled;
	sb->stalled = false;
	machine_expect(sb, VMM_MS);
	sb->obj.fs->engine->resume(sb->vm, long_pause ? on_resumed_later : on_resumed_at_once, sb);
}

/* ---- another name */

static void on_renaming(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;

	if (!sb->vm)
		return;
	sb->generation++;
	machine_attach(sb, ATTACH_RESUME, err->code, RENAME_MS, on_resume_attached);
}

void machine_rename(struct sandbox *sb, done_fn done, void *arg)
{
	step_begin(sb, "rename", done, arg);
	agent_name(sb->agent, sb->obj.name);
	agent_quiesce(sb->agent, QUIESCE_PAUSE, RENAME_MS, on_renaming, sb);
}

/* ---- a disk that takes no more */

void machine_stands(struct sandbox *sb, const struct err *err)
{
	object_ref(&sb->obj);
	sb->stalled = true;
	sb->at_limit = room_used(sb) >= room_max(sb);
	sb->quiesced = false; /* it may have been in the middle of a frame */
	sandbox_set_state(sb, SANDBOX_PAUSED);
	object_report(&sb->obj, err);
	agent_give_up(sb->agent, err); /* whatever is under way need not wait for the guest */
	object_unref(&sb->obj);
}

static void on_stopped(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;
	struct err why;

	if (!sb->vm)
		return;
	machine_expect(sb, 0);
	if (err->code || sb->task.answered) {
		task_end(sb, err); /* the next look tries again */
		return;
	}
	why = sb->task.why;
	task_end(sb, err);
	if (sb->vm)
		machine_stands(sb, &why);
}

static void stall_end(void *arg, const struct err *err)
{
	(void)arg;
	(void)err;
}

int machine_stall(struct sandbox *sb, const struct err *why)
{
	const int rc = task_begin(sb, "pause", stall_end, sb, NULL);

	if (rc)
		return rc;
	sb->task.why = *why;
	err_prefix(&sb->task.why, "%s is paused", sb->obj.name);
	log_error("%s", sb->task.why.text);
	machine_expect(sb, VMM_MS);
	sb->obj.fs->engine->pause(sb->vm, on_stopped, sb);
	return 0;
}
