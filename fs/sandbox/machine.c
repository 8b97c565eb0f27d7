/* SPDX-License-Identifier: MIT */
/*
 * machine.c - a sandbox's machine: started, paused, resumed, ended
 *
 * The step under way is kept in the task; a machine that is dropped forgets it, and the callbacks that come
 * while it is torn down (agent_free answers all that is pending) find no machine and do nothing.
 */
#include "fs/sandbox/machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/guest/guest_names.h"
#include "fs/sandbox/admission.h"
#include "fs/sandbox/job.h"
#include "util/log.h"

enum {
	QUIESCE_MS =
		1000, /* a guest that answers does so in one round trip; one that does not is paused anyway */
	RESUME_MS = 10000,
	VMM_MS = 10000,    /* a VMM stops or continues its CPUs in milliseconds; on a busy host in a second */
	RESIZE_MS = 30000, /* a guest that shrinks moves pages, and may have to write some out */
};

static void step_begin(struct sandbox *sb, const char *name, done_fn done, void *arg)
{
	sb->task.step = (struct step){ .name = name, .then = { done, arg } };
	log_debug("%s: step %s begins", sb->obj.name, name);
}

/* The task goes on, or ends where this was its last. Nothing happens where no step is under way. */
static void go_on(struct sandbox *sb, const struct step *step, const struct err *err)
{
	struct pending then = step->then;

	if (!step->name)
		return;
	log_debug("%s: step %s ends%s%s", sb->obj.name, step->name, err->code ? ": " : "",
		  err->code ? err->text : "");
	if (then.done)
		pending_end(&then, err);
	else
		task_end(sb, err);
}

static void step_end(struct sandbox *sb, const struct err *err)
{
	const struct step step = sb->task.step;

	sb->task.step = (struct step){ 0 };
	timer_stop(&sb->task.timer);
	go_on(sb, &step, err);
}

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

void machine_drop(struct sandbox *sb)
{
	const struct engine *engine = sb->obj.fs->engine;
	struct vm *vm = sb->vm;
	struct agent *agent = sb->agent;

	sb->task.step = (struct step){ 0 };
	timer_stop(&sb->task.timer);
	timer_stop(&sb->task.limit);
	sb->stalled = sb->at_limit = false;
	if (!vm)
		return;
	sb->vm = NULL;
	sandbox_count(sb);
	sb->agent = NULL;
	sb->epoch++;
	agent_free(agent);
	console_detach(&sb->console);
	network_detach(sb);
	engine->destroy(vm);
	jobs_lost(sb, "the machine ended");
}

/* The machine cannot be brought up: the sandbox has none, and the task fails with what the console said
 * last. */
static void fail_start(struct sandbox *sb, const struct err *why)
{
	struct err err = *why;
	char line[100];
	const struct step step = sb->task.step;

	machine_drop(sb);
	console_last_line(&sb->console, line, sizeof(line));
	if (*line)
		err_set(&err, why->code, "%.120s; the console ends with: %s", why->text, line);
	if (!sb->task.starting) /* it may boot yet */
		sandbox_set_state(sb, SANDBOX_CRASHED);
	go_on(sb, &step, &err);
}

static void on_start_timeout(void *arg)
{
	struct sandbox *sb = arg;
	struct err err;

	err_set(&err, -ETIMEDOUT, "%s: the guest did not answer in time", sb->obj.name);
	fail_start(sb, &err);
}

static void on_exited(void *owner, bool clean, const char *why)
{
	struct sandbox *sb = owner;
	struct err err = { 0 };
	const bool asked = sb->task.verb && !strcmp(sb->task.verb, "stop");

	if (sb->task.starting && sb->task.step.name) {
		err_set(&err, -EHOSTDOWN, "%s: %s", sb->obj.name, why);
		fail_start(sb, &err);
		return;
	}
	object_ref(&sb->obj);
	machine_drop(sb);
	sandbox_set_state(sb, clean || asked ? SANDBOX_STOPPED : SANDBOX_CRASHED);
	if (!asked)
		err_set(&err, -EHOSTDOWN, "%s: %s", sb->obj.name, why);
	if (sb->task.verb)
		task_end(sb, &err);
	else if (!clean)
		object_report(&sb->obj, &err);
	object_unref(&sb->obj);
}

/* The machine stands, and its disk takes no more. */
static void stalled(struct sandbox *sb, const struct err *err)
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

/*
 * The guest wrote more than the store has room for. Failing its writes would lose data that it believes written:
 * the machine stands still instead, and repeats them when it is resumed.
 */
static void on_stalled(void *owner, const char *why)
{
	struct sandbox *sb = owner;
	const bool up = sb->state == SANDBOX_RUNNING || sb->state == SANDBOX_PAUSED;
	struct err err;

	/* Of before: the engine tries again only when it has answered. */
	if (sb->task.continuing)
		return;
	err_set(&err, -ENOSPC, "%s: %s; %s", sb->obj.name, why,
		up ? "it is paused: make room, then resume it" : "it could not start");
	log_error("%s", err.text);
	if (!up) {
		fail_start(sb, &err);
		return;
	}
	stalled(sb, &err);
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
		stalled(sb, &why);
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

void machine_end(struct sandbox *sb, const struct err *why)
{
	object_ref(&sb->obj);
	machine_drop(sb);
	sandbox_set_state(sb, SANDBOX_CRASHED);
	task_end(sb, why);
	object_report(&sb->obj, why);
	object_unref(&sb->obj);
}

static const struct vm_events vm_events = { .exited = on_exited, .stalled = on_stalled };

/* ---- the agent */

/* What a machine that starts was waited for; the last of it is the end of its step. */
static void on_answer(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;

	if (!sb->vm)
		return;
	if (err->code) {
		fail_start(sb, err);
		return;
	}
	if (--sb->task.awaited)
		return;
	sandbox_set_state(sb, SANDBOX_RUNNING);
	room_watch(sb->obj.fs);
	step_end(sb, err);
}

static void on_attached(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;

	if (sb->vm && !err->code)
		sb->boot_ns = now_mono_ns() - sb->began_ns;
	on_answer(sb, err);
}

/* Its identity, as an attachment of this kind says it. */
static struct identity identity_of(const struct sandbox *sb, enum attach_kind kind, bool resync)
{
	return (struct identity){
		.name = sb->obj.name,
		.generation = sb->generation,
		.kind = kind,
		.resync = resync,
	};
}

static void attach(struct sandbox *sb, enum attach_kind kind, bool resync, unsigned timeout_ms, done_fn done)
{
	const struct identity identity = identity_of(sb, kind, resync);

	agent_attach(sb->agent, &identity, timeout_ms, done, sb);
}

static void on_agent_ready(void *owner)
{
	struct sandbox *sb = owner;

	if (sb->state == SANDBOX_RUNNING || sb->state == SANDBOX_PAUSED)
		return; /* an agent says so once, after a boot: not believed later */
	sb->generation++;
	attach(sb, ATTACH_BOOT, false, sb->obj.fs->options.boot_timeout_ms, on_attached);
}

static void on_job_started(void *owner, uint32_t job, int err, const char *reason, uint32_t pid,
			   uint8_t shell)
{
	(void)pid;
	job_started(owner, job, err, reason, shell);
}

static void on_job_output(void *owner, uint32_t job, int stream, const void *data, size_t n)
{
	struct sandbox *sb = owner;

	guestfs_changed(&sb->files);
	job_output(sb, job, stream, data, n);
}

static void on_job_stdin_max(void *owner, uint32_t job, uint64_t offset)
{
	job_stdin_max(owner, job, offset);
}

static void on_job_exit(void *owner, uint32_t job, bool signaled, uint32_t code, const uint64_t written[2])
{
	struct sandbox *sb = owner;

	guestfs_changed(&sb->files);
	job_exit(sb, job, signaled, code, written);
}

static const struct agent_events agent_events = {
	.ready = on_agent_ready,
	.job_started = on_job_started,
	.job_output = on_job_output,
	.job_stdin_max = on_job_stdin_max,
	.job_exit = on_job_exit,
};

static int connect_machine(struct sandbox *sb, struct err *err)
{
	const struct fs *fs = sb->obj.fs;
	const struct vm_ends ends = fs->engine->ends(sb->vm);

	sb->agent = agent_new(fs->loop, ends.agent, &agent_events, sb);
	if (sb->agent)
		agent_name(sb->agent, sb->obj.name);
	if (!sb->agent || console_attach(&sb->console, fs->loop, ends.console))
		return err_set(err, -ENOMEM, "no memory for the machine of %s", sb->obj.name);
	return network_attach(sb, ends.net, err);
}

/* The machine that was made, if rc says so, is held to the sandbox's limits and connected; or there is none. */
static int take_up(struct sandbox *sb, int rc, struct err *err)
{
	sandbox_count(sb);
	if (!rc)
		rc = limits_apply(sb, sb->obj.fs->engine->pid(sb->vm), err);
	if (!rc)
		rc = connect_machine(sb, err);
	if (rc)
		machine_drop(sb);
	return rc;
}

/* ---- boot */

static int make_disk(struct sandbox *sb, struct err *err)
{
	struct fs *fs = sb->obj.fs;
	struct image image;
	int rc;

	if (sb->disk)
		return 0;
	rc = image_get(fs->store, sb->image, &image, err);
	if (rc)
		return rc;
	rc = layer_overlay(fs->store, image.disk, &sb->disk, err);
	image_release(&image);
	return rc;
}

static void on_booted(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;

	/* The guest runs; its agent will tell when it is up. */
	if (sb->vm && err->code)
		fail_start(sb, err);
}

int machine_boot(struct sandbox *sb, done_fn done, void *arg, struct err *err)
{
	struct fs *fs = sb->obj.fs;
	int rc = admit_memory(sb, sb->shape.memory, err);

	if (!rc)
		rc = admit_files(fs, &sb->obj.owner, MACHINE_FILES, err);
	if (!rc)
		rc = make_disk(sb, err);
	if (rc)
		return rc;
	sb->began_ns = now_mono_ns();
	rc = fs->engine->boot(&fs->env, &sb->shape, layer_path(sb->disk), &vm_events, sb, on_booted, sb,
			      &sb->vm, err);
	if (rc)
		return rc;
	rc = take_up(sb, 0, err);
	if (rc)
		return rc;
	sb->task.awaited = 1;
	step_begin(sb, "boot", done, arg);
	timer_start(fs->loop, &sb->task.timer, fs->options.boot_timeout_ms * 1000000ull, on_start_timeout,
		    sb);
	return 0;
}

/* ---- fork */

/* Who it is, and which jobs it has. */
static void introduce(struct sandbox *sb)
{
	struct identity identity =
		identity_of(sb, sb->task.starting ? ATTACH_BOOT : ATTACH_FORK, !sb->quiesced);
	/* For its hooks. Commands get theirs when they are started, so that a line that was taken out of `env`
	 * does not linger in the guest. */
	char **env = sb->task.starting ? NULL : env_array(&sb->env);

	identity.env = env;
	identity.copied = true;
	agent_introduce(sb->agent, &identity, sb->obj.fs->options.fork_timeout_ms, job_inherit, on_answer,
			sb);
	free(env);
}

static void on_unloaded_started(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;

	if (sb->vm && !err->code) {
		/* Again: a thread that was being made when it was told first may have missed it. */
		sb->obj.fs->engine->background(sb->vm, false);
		introduce(sb);
	}
	on_answer(arg, err);
}

int machine_fork(struct sandbox *sb, struct template *template, struct vm *vm, bool loaded, done_fn done,
		 void *arg, struct err *err)
{
	struct fs *fs = sb->obj.fs;
	int rc = admit_memory(sb, template->shape.memory, err);

	if (!rc)
		rc = admit_files(fs, &sb->obj.owner, MACHINE_FILES, err);
	sb->shape = template->shape;
	sb->generation = template->generation + 1;
	sb->quiesced = template->quiesced;
	sb->vm = vm;
	if (!rc && !vm) {
		rc = layer_overlay(fs->store, template->disk, &sb->disk, err);
		if (!rc)
			rc = fs->engine->prepare(&fs->env, template, layer_path(sb->disk), NULL, NULL, NULL,
						 NULL, &sb->vm, err);
	}
	rc = take_up(sb, rc, err);
	if (rc)
		return rc;
	step_begin(sb, "fork", done, arg);
	timer_start(fs->loop, &sb->task.timer, fs->options.fork_timeout_ms * 1000000ull, on_start_timeout,
		    sb);
	sb->task.awaited = 2;
	/* What a loaded machine is told before it runs is there when it looks. */
	if (loaded)
		introduce(sb);
	fs->engine->start(sb->vm, &vm_events, sb, loaded ? on_answer : on_unloaded_started, sb);
	return 0;
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

static void on_quiesced(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;

	if (!sb->vm)
		return;
	sb->quiesced = !err->code && !sb->stalled;
	machine_expect(sb, VMM_MS);
	sb->obj.fs->engine->pause(sb->vm, on_paused, sb);
}

void machine_pause(struct sandbox *sb, done_fn done, void *arg)
{
	step_begin(sb, "pause", done, arg);
	agent_quiesce(sb->agent, QUIESCE_MS, on_quiesced, sb);
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
		attach(sb, ATTACH_RESUME, !sb->quiesced, RESUME_MS, on_resume_attached);
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

/* ---- resize */

static void on_resized(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;

	if (!sb->vm)
		return;
	if (!err->code) {
		sb->shape.memory = sb->task.want.memory;
		sb->shape.cpus = sb->task.want.cpus;
		sandbox_count(sb);
	}
	step_end(sb, err);
}

void machine_resize(struct sandbox *sb, const struct shape *want, done_fn done, void *arg)
{
	struct err err;

	step_begin(sb, "resize", done, arg);
	if (want->memory > sb->shape.memory && admit_memory(sb, want->memory, &err)) {
		step_end(sb, &err);
		return;
	}
	sb->task.want = *want;
	agent_resize(sb->agent, want->cpus, want->memory, RESIZE_MS, on_resized, sb);
}

/* ---- stop */

static void on_stop_timeout(void *arg)
{
	struct sandbox *sb = arg;
	const struct err ok = { 0 };
	const struct step step = sb->task.step;

	machine_drop(sb);
	sandbox_set_state(sb, SANDBOX_STOPPED);
	go_on(sb, &step, &ok);
}

void machine_stop(struct sandbox *sb, done_fn done, void *arg)
{
	const struct fs *fs = sb->obj.fs;
	unsigned ms = fs->options.stop_timeout_ms;

	step_begin(sb, "stop", done, arg);
	if (sb->state == SANDBOX_RUNNING)
		agent_poweroff(sb->agent);
	else
		ms = 0; /* a paused guest cannot be asked */
	timer_start(fs->loop, &sb->task.timer, ms * 1000000ull, on_stop_timeout, sb);
}
