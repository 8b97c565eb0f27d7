/* SPDX-License-Identifier: MIT */
/*
 * machine.c - a sandbox's machine: started, resized, ended
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
#include "fs/sandbox/pause.h"
#include "util/log.h"

enum {
	RESIZE_MS = 30000, /* a guest that shrinks moves pages, and may have to write some out */
};

void step_begin(struct sandbox *sb, const char *name, done_fn done, void *arg)
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

void step_end(struct sandbox *sb, const struct err *err)
{
	const struct step step = sb->task.step;

	sb->task.step = (struct step){ 0 };
	timer_stop(&sb->task.timer);
	go_on(sb, &step, err);
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
	if (!vm && !agent)
		return;
	sb->vm = NULL;
	sb->life.asleep = false;
	sandbox_count(sb);
	sb->agent = NULL;
	sb->epoch++;
	if (!sb->asking.begun)
		sb->asking = (struct question){ 0 };
	agent_free(agent);
	console_detach(&sb->console);
	network_detach(sb);
	engine->destroy(vm);
	jobs_lost(sb, "the machine ended");
}

/* What leads into the machine ends, and it, but nothing of what is known of it. */
static void part(struct sandbox *sb)
{
	struct vm *vm = sb->vm;

	timer_stop(&sb->task.timer);
	timer_stop(&sb->task.limit);
	sb->stalled = sb->at_limit = false;
	sb->vm = NULL;
	sandbox_count(sb);
	if (sb->agent)
		agent_detach(sb->agent);
	console_detach(&sb->console);
	network_sleep(sb);
	sb->obj.fs->engine->destroy(vm);
}

void machine_stored(struct sandbox *sb)
{
	sb->task.step = (struct step){ 0 };
	part(sb);
}

/* The machine cannot be brought up: the sandbox has none, and the task fails with what the console said
 * last. One that was stored still is. */
static void fail_start(struct sandbox *sb, const struct err *why)
{
	struct err err = *why;
	char line[100];
	const struct step step = sb->task.step;

	if (sb->task.waking) {
		sb->task.step = (struct step){ 0 };
		part(sb);
		go_on(sb, &step, &err);
		return;
	}
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

	if ((sb->task.starting || sb->task.waking) && sb->task.step.name) {
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
	machine_stands(sb, &err);
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

void machine_attach(struct sandbox *sb, enum attach_kind kind, bool resync, unsigned timeout_ms, done_fn done)
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
	machine_attach(sb, ATTACH_BOOT, false, sb->obj.fs->options.boot_timeout_ms, on_attached);
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

static void on_guest_asked(void *owner, uint32_t id, enum guest_verb verb, uint32_t number, const char *name)
{
	struct sandbox *sb = owner;

	sb->obj.fs->asked(sb, id, verb, number, name);
}

static const struct agent_events agent_events = {
	.ready = on_agent_ready,
	.job_started = on_job_started,
	.job_output = on_job_output,
	.job_stdin_max = on_job_stdin_max,
	.job_exit = on_job_exit,
	.guest_asked = on_guest_asked,
};

static int connect_machine(struct sandbox *sb, struct err *err)
{
	const struct fs *fs = sb->obj.fs;
	const struct vm_ends ends = fs->engine->ends(sb->vm);

	if (sb->agent && agent_rejoin(sb->agent, ends.agent))
		return err_set(err, -ENOMEM, "no memory for the machine of %s", sb->obj.name);
	if (!sb->agent)
		sb->agent = agent_new(fs->loop, ends.agent, &agent_events, sb);
	if (sb->agent) {
		agent_name(sb->agent, sb->obj.name);
		agent_offer_modules(sb->agent, fs->modules);
	}
	if (!sb->agent || console_attach(&sb->console, fs->loop, ends.console))
		return err_set(err, -ENOMEM, "no memory for the machine of %s", sb->obj.name);
	return network_attach(sb, ends.net, err);
}

/* The machine that was made, if rc says so, is held to the sandbox's limits and connected; or there is none. */
static int take_up(struct sandbox *sb, int rc, struct err *err)
{
	sandbox_count(sb);
	if (!rc && limits_any(&sb->limits))
		rc = limits_apply(sb, sb->obj.fs->engine->pid(sb->vm), err);
	if (!rc)
		rc = connect_machine(sb, err);
	if (rc && sb->task.waking)
		part(sb);
	else if (rc)
		machine_drop(sb);
	return rc;
}

int machine_listen(struct sandbox *sb)
{
	if (!sb->agent)
		sb->agent = agent_new_detached(sb->obj.fs->loop, &agent_events, sb);
	return sb->agent ? 0 : -ENOMEM;
}

/* ---- starts */

static int admit_machine(struct sandbox *sb, uint64_t memory, struct err *err)
{
	const int rc = admit_memory(sb, memory, err);

	return rc ? rc : admit_files(sb->obj.fs, &sb->obj.owner, MACHINE_FILES, err);
}

/* A machine of the template, on sb->disk or, where that is NULL, a new layer on the template's. */
static int prepare(struct sandbox *sb, struct template *template, struct err *err)
{
	struct fs *fs = sb->obj.fs;
	int rc = 0;

	if (!sb->disk)
		rc = layer_overlay(fs->store, template->disk, &sb->disk, err);
	return rc ? rc
		  : fs->engine->prepare(&fs->env, template, layer_path(sb->disk), NULL, NULL, NULL, NULL,
					&sb->vm, err);
}

/* The step of one that starts, which has so long. */
static void step_start(struct sandbox *sb, const char *name, unsigned ms, done_fn done, void *arg)
{
	step_begin(sb, name, done, arg);
	timer_start(sb->obj.fs->loop, &sb->task.timer, ms * 1000000ull, on_start_timeout, sb);
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
	int rc = admit_machine(sb, sb->shape.memory, err);

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
	step_start(sb, "boot", fs->options.boot_timeout_ms, done, arg);
	return 0;
}

/* ---- fork */

/* Who it is, and which jobs it has. */
static void introduce(struct sandbox *sb)
{
	const enum attach_kind kind = sb->task.starting    ? ATTACH_BOOT
				      : sb->task.returning ? ATTACH_RETURN
							   : ATTACH_FORK;
	struct identity identity = identity_of(sb, kind, !sb->quiesced);
	/* For its hooks. Commands get theirs when they are started, so that a line that was taken out of `env`
	 * does not linger in the guest. */
	char **env = sb->task.starting ? NULL : env_array(&sb->env);

	identity.env = env;
	identity.copied = true;
	identity.copy = sb->copy;
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
	int rc = admit_machine(sb, template->shape.memory, err);

	sb->shape = template->shape;
	sb->generation = template->generation + 1;
	sb->quiesced = template->quiesced;
	sb->vm = vm;
	if (!rc && !vm)
		rc = prepare(sb, template, err);
	rc = take_up(sb, rc, err);
	if (rc)
		return rc;
	step_start(sb, "fork", fs->options.fork_timeout_ms, done, arg);
	sb->task.awaited = 2;
	/* What a loaded machine is told before it runs is there when it looks. */
	if (loaded)
		introduce(sb);
	fs->engine->start(sb->vm, &vm_events, sb, loaded ? on_answer : on_unloaded_started, sb);
	return 0;
}

/* ---- a machine that was stored */

static void on_woken(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;
	const unsigned ms = sb->obj.fs->options.fork_timeout_ms;
	struct identity identity =
		identity_of(sb, sb->life.anew ? ATTACH_WAKE_ANEW : ATTACH_WAKE, !sb->quiesced);

	identity.hold = true;
	if (sb->vm && !err->code) {
		sb->obj.fs->engine->background(sb->vm, false);
		if (sb->life.anew)
			agent_introduce(sb->agent, &identity, ms, job_inherit, on_answer, sb);
		else
			agent_attach(sb->agent, &identity, ms, on_answer, sb);
	}
	on_answer(arg, err);
}

int machine_wake(struct sandbox *sb, struct template *template, done_fn done, void *arg, struct err *err)
{
	struct fs *fs = sb->obj.fs;
	int rc = admit_machine(sb, template->shape.memory, err);

	sb->task.waking = true;
	sb->shape = template->shape;
	if (sb->generation < template->generation)
		sb->generation = template->generation;
	sb->generation++;
	sb->quiesced = template->quiesced;
	if (!rc)
		rc = prepare(sb, template, err);
	if (!rc)
		rc = take_up(sb, rc, err);
	if (rc)
		return rc;
	step_start(sb, "wake", fs->options.fork_timeout_ms, done, arg);
	sb->task.awaited = 2;
	fs->engine->start(sb->vm, &vm_events, sb, on_woken, sb);
	return 0;
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
