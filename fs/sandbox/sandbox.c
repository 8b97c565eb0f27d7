/* SPDX-License-Identifier: MIT */
/* sandbox.c - a sandbox: a name, settings, a disk, and while it runs a machine */
#include "fs/sandbox/sandbox.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/sandbox/admission.h"
#include "fs/sandbox/job.h"
#include "fs/sandbox/machine.h"
#include "util/log.h"

struct sandbox *sandbox_of(const struct object *obj)
{
	return container_of(obj, struct sandbox, obj);
}

struct sandbox *sandbox_find(struct fs *fs, const char *name)
{
	const struct object *obj = object_named(&fs->sandbox_names, name);

	return obj ? sandbox_of(obj) : NULL;
}

int sandbox_name_check(struct fs *fs, const char *name, struct err *err)
{
	const struct entry *entry;

	if (name_check(name, err))
		return -EINVAL;
	for (entry = root_entry.dir->entries; entry->name; entry++)
		if (!strcmp(entry->name, name))
			return err_set(err, -EEXIST, "the name %s is reserved: the tree uses it", name);
	if (sandbox_find(fs, name))
		return err_set(err, -EEXIST, "there is already a sandbox %s", name);
	return 0;
}

static void sandbox_free(struct object *obj)
{
	struct sandbox *sb = sandbox_of(obj);

	console_release(&sb->console);
	network_release(sb);
	layer_unref(sb->disk);
	buf_release(&sb->env);
	buf_release(&sb->requires);
	free(sb);
}

int sandbox_new(struct fs *fs, const char *name, const struct owner *owner, struct sandbox **ret,
		struct err *err)
{
	struct sandbox *sb;
	int rc = sandbox_name_check(fs, name, err);

	if (rc)
		return rc;
	sb = calloc(1, sizeof(*sb));
	if (!sb)
		return err_sys(err, -ENOMEM, "cannot make the sandbox %s", name);
	object_init(&sb->obj, OBJECT_SANDBOX, fs, name, owner, sandbox_free);
	gauge_init(&sb->memory, &sb->obj, sb);
	sb->obj.to_root = "../../";
	snprintf(sb->image, sizeof(sb->image), "base");
	sb->shape = fs->options.shape;
	sb->limits = fs->options.limits;
	sb->next_job = 1;
	sb->next_snapshot = 1;
	console_init(&sb->console);
	network_init(sb);
	list_init(&sb->jobs);
	list_init(&sb->outputs);
	list_init(&sb->ports);
	list_init(&sb->snapshots);
	list_init(&sb->fork_link);
	list_init(&sb->life.change);
	rc = admit_sandbox(sb, err);
	if (rc) {
		object_unref(&sb->obj);
		return rc;
	}
	list_add(&fs->sandboxes, &sb->link);
	object_enter(&fs->sandbox_names, &sb->obj);
	*ret = sb;
	return 0;
}

void sandbox_remove(struct sandbox *sb)
{
	struct object *part;
	struct sandbox *child;
	struct job *job;
	struct err err;

	if (sb->ending)
		return;
	sb->ending = true;
	object_ref(&sb->obj);
	err_set(&err, -ENODEV, "the sandbox %s was removed", sb->obj.name);
	machine_drop(sb);
	task_end(sb, &err);
	life_end(sb);
	while ((job = list_first(&sb->jobs, struct job, link)))
		job_remove(job);
	while ((part = list_first(&sb->ports, struct object, siblings))) {
		list_del(&part->siblings);
		object_leave(part);
		object_remove(part);
	}
	object_unref(sb->last_port);
	sb->last_port = NULL;
	while ((part = list_first(&sb->snapshots, struct object, siblings)))
		part->drop(part);
	while ((child = list_first(&sb->obj.forks, struct sandbox, fork_link))) {
		list_del(&child->fork_link);
		child->origin = NULL;
	}
	list_del(&sb->fork_link);
	sb->origin = NULL;
	list_del(&sb->link);
	object_leave(&sb->obj);
	network_leave(sb);
	admission_leave(sb->obj.fs, &sb->counted);
	object_remove(&sb->obj);
	layer_unref(sb->disk);
	sb->disk = NULL;
	object_unref(&sb->obj);
	object_unref(&sb->obj); /* the tree's */
}

void sandbox_count(struct sandbox *sb)
{
	const struct tally now = { .sandboxes = 1,
				   .jobs = sb->njobs,
				   .texts = sb->texts,
				   .streams = sb->streams,
				   .files = (sb->vm ? MACHINE_FILES : 0) +
					    (sb->network.published.open ? sb->network.published.ports.n : 0),
				   .memory = sb->vm ? sb->shape.memory : 0 };

	admission_count(sb->obj.fs, &sb->counted, &now);
}

int sandbox_chown(struct object *obj, const struct owner *owner, struct err *err)
{
	const int rc = life_chown(sandbox_of(obj), owner, err);

	return rc ? rc : admission_chown(obj->fs, &sandbox_of(obj)->counted, owner->uid, err);
}

int sandbox_set_image(struct sandbox *sb, const char *name, struct err *err)
{
	struct image image;
	int rc;

	if (sb->task.starting)
		return err_set(err, -EBUSY, "image: %s is being started", sb->obj.name);
	if (sb->disk)
		return err_set(err, -EBUSY, "image: %s already has a disk, made from %s", sb->obj.name,
			       sb->image);
	if (name_check(name, err)) {
		err_prefix(err, "image");
		return -EINVAL;
	}
	rc = image_get(sb->obj.fs->store, name, &image, err);
	if (rc)
		return rc;
	image_release(&image);
	snprintf(sb->image, sizeof(sb->image), "%s", name);
	return 0;
}

const char *sandbox_state_name(enum sandbox_state state)
{
	static const char *const names[] = {
		"created", "running", "paused", "stopped", "crashed", "suspended"
	};

	return names[state];
}

void sandbox_counts(const struct fs *fs, struct sandbox_counts *ret)
{
	const struct sandbox *sb;

	*ret = (struct sandbox_counts){ 0 };
	list_for_each (sb, &fs->sandboxes, link) {
		if (!sb->born)
			continue;
		ret->states[sb->state]++;
		ret->stalled += sb->stalled;
		if (sb->vm)
			ret->memory += sb->shape.memory;
	}
}

void sandbox_set_state(struct sandbox *sb, enum sandbox_state state)
{
	if (sb->state == state)
		return;
	sb->state = state;
	object_changed(&sb->obj);
}

const char *sandbox_stall_reason(const struct sandbox *sb)
{
	return sb->at_limit ? "its disk is full up to its limit; allow it more (limits), then resume it"
			    : "the store is full; make room, then resume it";
}

int sandbox_usable(struct sandbox *sb, struct err *err)
{
	if (sb->obj.gone)
		return err_set(err, -ENODEV, "the sandbox was removed");
	if (life_touch(sb))
		return sb->agent ? 0 : err_sys(err, -ENOMEM, "%s cannot be resumed", sb->obj.name);
	if (sb->state == SANDBOX_PAUSED && sb->stalled)
		return err_set(err, -EAGAIN, "%s is paused, since %s", sb->obj.name,
			       sandbox_stall_reason(sb));
	if (sb->state == SANDBOX_PAUSED)
		return err_set(err, -EAGAIN, "%s is paused; resume it first", sb->obj.name);
	if (sb->state != SANDBOX_RUNNING || !sb->agent)
		return err_set(err, -EHOSTDOWN, "%s is not running, it is %s", sb->obj.name,
			       sandbox_state_name(sb->state));
	return 0;
}

int task_begin(struct sandbox *sb, const char *verb, done_fn done, void *arg, struct err *err)
{
	if (sb->task.answered)
		return err_set(err, -EBUSY,
			       "%s: %s is under way, and the VMM does not answer; stop ends the machine",
			       verb, sb->task.verb);
	if (sb->task.verb)
		return err_set(err, -EBUSY, "%s: %s is under way", verb, sb->task.verb);
	sb->task = (struct task){ .verb = verb, .done = done, .arg = arg };
	if (log_verbose())
		sb->task.began_ns = now_mono_ns();
	log_debug("%s: task %s begins", sb->obj.name, verb);
	object_ref(&sb->obj);
	return 0;
}

void task_answer(struct sandbox *sb, const struct err *err)
{
	struct task *task = &sb->task;

	if (!task->verb || task->answered)
		return;
	task->answered = true;
	if (task->late)
		task->late(task->arg, err);
	else
		task->done(task->arg, err);
}

void task_end(struct sandbox *sb, const struct err *err)
{
	const struct task task = sb->task;
	const struct err copy = *err;

	if (!task.verb)
		return;
	if (log_verbose())
		log_debug("%s: task %s ends after %.3f ms%s%s", sb->obj.name, task.verb,
			  (double)(now_mono_ns() - task.began_ns) * 1e-6, err->code ? ": " : "",
			  err->code ? err->text : "");
	timer_stop(&sb->task.timer);
	timer_stop(&sb->task.limit);
	sb->task = (struct task){ 0 };
	if (!task.answered || task.late)
		task.done(task.arg, &copy);
	if (sb->obj.fs->asked_go_on)
		sb->obj.fs->asked_go_on(sb);
	life_task_ended(sb);
	object_unref(&sb->obj);
}
