/* SPDX-License-Identifier: MIT */
/*
 * capture.c - turn a sandbox's machine into a template
 *
 *   running: sync the guest's disk if that is wanted; have the engine copy ahead, where the sandbox is to go on; quiesce
 *            the channel, stop the vCPUs
 *   make an overlay on the disk's layer, engine->capture
 *   frozen:  the layer is complete, and the overlay is the disk from here on; a sandbox that shall go on is resumed
 *            at once
 *   done:    the template gets the frozen layer
 *
 * One that fails before it is frozen leaves the machine on its layer, which is not frozen then: it is written to.
 *
 * It ends when the template is complete and the sandbox goes on, in whichever order that happens. Should the
 * machine end meanwhile, the task is ended, which ends the capture: no callback of the engine comes after
 * that.
 *
 * A VMM that stands still is not waited for without an end: the caller is told, and what comes of the capture when
 * the VMM goes on is dropped.
 */
#include "fs/sandbox/capture.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "fs/sandbox/admission.h"
#include "fs/sandbox/machine.h"
#include "fs/sandbox/pause.h"
#include "util/log.h"

/* A guest that takes longer is captured as it is: its memory has all there is. */
enum { SYNC_MS = 2000 };
/* All of the RAM of the largest machine is copied in less. */
enum { CAPTURE_MS = 60000 };

struct capture {
	struct sandbox *sb;
	bool was_running, go_on;
	enum quiesce_why why;
	struct layer *next; /* overlay to be; NULL once it is the sandbox's disk */
	struct layer *disk; /* the captured layer, from `frozen` on */
	struct template *template;
	struct shape shape;  /* as it is at the capture */
	uint32_t generation; /* of the channel, and whether it was empty, at the capture */
	bool quiesced;
	bool resuming, captured;
	bool ahead;   /* the engine has been asked to prepare, and was not told yet what comes of it */
	bool went_on; /* it was, or is being, resumed */
	uint64_t began_ns;
	struct err err; /* why it failed, while the sandbox is resumed */
	capture_fn done;
	void *arg;
};

/* The task's end. */
static void capture_end(void *arg, const struct err *err)
{
	struct capture *c = arg;

	if (c->ahead && c->sb->vm)
		c->sb->obj.fs->engine->forget(c->sb->vm);
	layer_unref(c->next);
	layer_unref(c->disk);
	c->sb->obj.fs->layer_frozen(c->sb->obj.fs);
	if (!err->code)
		timing_add(&c->sb->obj.fs->capture_times, now_mono_ns() - c->began_ns);
	if (err->code || !c->done) {
		template_unref(c->template);
		c->template = NULL;
	}
	if (c->done)
		c->done(c->arg, err, c->template);
	free(c);
}

/* The VMM does not answer. Should it do so later, the machine goes on. */
static void capture_late(void *arg, const struct err *err)
{
	struct capture *c = arg;

	c->done(c->arg, err, NULL);
	c->done = NULL;
	c->go_on = true;
}

static void finish(struct capture *c)
{
	if (c->captured && !c->resuming)
		task_end(c->sb, &c->err);
}

static void on_resumed(void *arg, const struct err *err)
{
	struct capture *c = arg;

	/* The capture is good even when the guest is silent afterwards; that it failed to go on is worse. */
	if (err->code && err->code != -ETIMEDOUT && !c->err.code)
		c->err = *err;
	c->resuming = false;
	if (!c->captured)
		machine_expect(c->sb, CAPTURE_MS);
	finish(c);
}

static void go_on(struct capture *c)
{
	c->resuming = c->went_on = true;
	machine_resume(c->sb, false, on_resumed, c);
}

static void on_frozen(void *arg)
{
	struct capture *c = arg;

	room_frozen(c->sb);
	c->disk = c->sb->disk;
	layer_freeze(c->disk);
	c->sb->disk = c->next;
	c->next = NULL;
	if (c->go_on && c->was_running)
		go_on(c);
}

static void on_captured(void *arg, const struct err *err, struct template *template)
{
	struct capture *c = arg;

	c->captured = true;
	if (!c->resuming)
		machine_expect(c->sb, 0);
	if (!template) {
		c->err = *err;
		/* One that is to go on was `running` all the time. */
		if (c->was_running && !c->went_on)
			go_on(c);
	} else {
		/* The engine knows the machine it started; the guest was given other sizes since. */
		template->shape = c->shape;
		template->disk = layer_ref(c->disk);
		template->generation = c->generation;
		template->quiesced = c->quiesced;
		c->template = template;
		log_debug("%s: %" PRIu64 " pages were copied ahead, and %" PRIu64 " in a pause of %" PRIu64
			  " us",
			  c->sb->obj.name, template->pages_ahead, template->pages_stopped,
			  template->pause_ns / 1000);
	}
	finish(c);
}

/* The machine is stopped. */
static void take(struct capture *c)
{
	struct sandbox *sb = c->sb;
	const struct vm_capture calls = { on_frozen, on_captured, c };
	struct err err = { 0 };

	c->shape = sb->shape;
	c->generation = sb->generation;
	c->quiesced = sb->quiesced;
	if (layer_next(sb->obj.fs->store, sb->disk, &c->next, &err)) {
		on_captured(c, &err, NULL);
		return;
	}
	machine_expect(sb, CAPTURE_MS);
	c->ahead = false;
	sb->obj.fs->engine->capture(sb->vm, layer_path(c->next), &calls);
}

/* What the guest has written and the disk has no room for is in the VMM, where no capture finds it. */
static int refuse_stalled(const struct sandbox *sb, struct err *err)
{
	return err_set(err, -ENOSPC, "%s is paused, since %s", sb->obj.name, sandbox_stall_reason(sb));
}

static void on_paused(void *arg, const struct err *err)
{
	struct capture *c = arg;
	struct err full;

	if (err->code) {
		task_end(c->sb, err);
		return;
	}
	if (c->sb->stalled) {
		refuse_stalled(c->sb, &full);
		task_end(c->sb, &full);
		return;
	}
	if (!c->go_on)
		sandbox_set_state(c->sb, SANDBOX_PAUSED);
	take(c);
}

static void on_ahead(void *arg, const struct err *err)
{
	static bool said;
	struct capture *c = arg;
	const struct err late = { .code = -ETIMEDOUT };

	if (err->code && !said)
		log_warn("%s: it stands for as long as its capture takes: %s", c->sb->obj.name, err->text);
	said |= err->code;
	log_debug("%s: copied ahead%s%s", c->sb->obj.name, err->code ? ": " : "", err->code ? err->text : "");
	if (c->sb->task.answered)
		task_end(c->sb, &late);
	else
		machine_pause(c->sb, c->why, on_paused, c);
}

/* It shall stand for a short time only: what can be done before is done first. */
static void pause_soon(struct capture *c)
{
	const struct engine *engine = c->sb->obj.fs->engine;

	if (!c->go_on || !engine->ahead) {
		machine_pause(c->sb, c->why, on_paused, c);
		return;
	}
	c->ahead = true;
	machine_ahead(c->sb, CAPTURE_MS, on_ahead, c);
}

/*
 * Files that a guest has written and its kernel not yet are in its memory, and so in every fork, but a
 * snapshot's fs/ is read from the disk. The guest runs on meanwhile: this is no part of the pause.
 */
static void on_synced(void *arg, int err, struct reader *results)
{
	struct capture *c = arg;

	(void)err;
	(void)results;
	if (c->sb->vm)
		pause_soon(c);
}

static bool sync_disk(struct capture *c)
{
	const struct buf none = { 0 };

	return agent_fs(c->sb->agent, FS_SYNC, &none, SYNC_MS, on_synced, c);
}

int capture(struct sandbox *sb, const char *verb, unsigned flags, capture_fn done, void *arg, struct err *err)
{
	struct capture *c;
	int rc;

	if (sb->state == SANDBOX_SUSPENDED)
		return life_capture(sb, verb, done, arg, err);
	if ((sb->state != SANDBOX_RUNNING && sb->state != SANDBOX_PAUSED) || !sb->vm)
		return err_set(err, -EHOSTDOWN, "%s: %s is not running, it is %s", verb, sb->obj.name,
			       sandbox_state_name(sb->state));
	if (sb->stalled)
		return refuse_stalled(sb, err);
	rc = admit_files(sb->obj.fs, &sb->obj.owner, TEMPLATE_FILES, err);
	if (rc)
		return rc;
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_sys(err, -ENOMEM, "%s", verb);
	*c = (struct capture){ .sb = sb,
			       .was_running = sb->state == SANDBOX_RUNNING,
			       .go_on = flags & CAPTURE_GO_ON,
			       .why = flags & CAPTURE_ANYHOW ? QUIESCE_PAUSE : QUIESCE_CAPTURE,
			       .done = done,
			       .arg = arg };
	rc = task_begin(sb, verb, capture_end, c, err);
	if (rc) {
		free(c);
		return rc;
	}
	c->began_ns = now_mono_ns();
	sb->task.late = capture_late;
	if (!c->was_running)
		take(c);
	else if (!(flags & CAPTURE_SYNC) || !sync_disk(c))
		pause_soon(c);
	return 0;
}
