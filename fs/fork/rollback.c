/* SPDX-License-Identifier: MIT */
/*
 * rollback.c - put an earlier state of a sandbox back under the same name
 *
 * The earlier state is found first, which may mean loading it. Then the sandbox is captured, and the capture
 * kept as an unnamed snapshot: what is replaced is not lost. Only then does its machine end, and a fork of
 * the earlier state takes its place. Should that fork fail, the sandbox goes on as a fork of what was just
 * captured; one that was suspended stays so.
 */
#include "fs/fork/rollback.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/fork/fork.h"
#include "fs/sandbox/capture.h"
#include "fs/sandbox/job.h"
#include "fs/sandbox/machine.h"
#include "fs/snapshot/snapshot.h"

struct rollback {
	struct sandbox *sb; /* a reference */
	struct command *command;
	mode_t umask;
	struct source *target;
	struct source *replaced; /* the state before, to go back to */
	bool slept;              /* that state is in the store, too, until this has gone well */
	struct err err;          /* why the target could not be brought up */
};

static void rollback_end(void *arg, const struct err *err)
{
	struct rollback *r = arg;

	r->sb->obj.fs->forking--;
	command_done(r->command, err);
	source_free(r->target);
	source_free(r->replaced);
	object_unref(&r->sb->obj);
	free(r);
}

static void on_restored(void *arg, const struct err *err)
{
	struct rollback *r = arg;
	struct err failed = r->err;

	/* Whether or not it is back where it was, the rollback itself failed. */
	if (err->code)
		err_set(&failed, r->err.code, "%.100s; nor could it go on as it was: %.100s", r->err.text,
			err->text);
	task_end(r->sb, &failed);
}

/* Take the machine, its disk and its jobs away, and start a fork of `source` instead. */
static int replace(struct rollback *r, struct source *source, done_fn done, struct err *err)
{
	struct sandbox *sb = r->sb;
	struct job *job;

	machine_drop(sb);
	while ((job = list_first(&sb->jobs, struct job, link))) {
		job->obj.stale = true;
		tree_attr_changed(&job->obj);
		job_remove(job);
	}
	layer_unref(sb->disk);
	sb->disk = NULL;
	room_begin(sb);
	sb->task.returning = source == r->target;
	return source_copy(source, sb, NULL, done, r, err);
}

static void on_machine(void *arg, const struct err *err)
{
	struct rollback *r = arg;
	struct err failed;

	if (!err->code) {
		life_replaced(r->sb);
		task_end(r->sb, err);
		return;
	}
	if (r->slept) {
		life_sleep_on(r->sb);
		task_end(r->sb, err);
		return;
	}
	r->err = *err;
	if (replace(r, r->replaced, on_restored, &failed))
		task_end(r->sb, err);
}

static void on_replaced(void *arg, const struct err *err, struct source *replaced)
{
	struct rollback *r = arg;
	struct err failed = *err;

	r->replaced = replaced;
	r->slept = r->sb->state == SANDBOX_SUSPENDED;
	if (!failed.code && !task_begin(r->sb, "rollback", rollback_end, r, &failed)) {
		if (replace(r, r->target, on_machine, &failed))
			on_machine(r, &failed);
		return;
	}
	rollback_end(r, &failed);
}

static void on_captured(void *arg, const struct err *err, struct template *template)
{
	struct rollback *r = arg;
	struct snapshot *snap = NULL;
	struct err failed = *err;

	if (!failed.code && !snapshot_new(r->sb, template, r->umask, &snap, &failed)) {
		snapshot_keep(snap);
		on_replaced(r, &failed, source_get(&snap->obj, NULL, NULL, &failed));
		return;
	}
	rollback_end(r, &failed);
}

static void on_target(void *arg, const struct err *err, struct source *target)
{
	struct rollback *r = arg;
	struct err failed = *err;

	r->target = target;
	if (failed.code || capture(r->sb, "rollback", CAPTURE_SYNC | CAPTURE_ANYHOW, on_captured, r, &failed))
		rollback_end(r, &failed);
}

static struct snapshot *find_target(struct sandbox *sb, const char *name)
{
	struct snapshot *snap;

	if (!strcmp(name, "latest") && !list_empty(&sb->snapshots))
		return list_entry(sb->snapshots.prev, struct snapshot, obj.siblings);
	snap = snapshot_find(&sb->snapshot_names, name);
	return snap ? snap : snapshot_find(&sb->obj.fs->snapshot_names, name);
}

void rollback_verb(struct object *obj, const struct words *words, struct command *command)
{
	struct sandbox *sb = sandbox_of(obj);
	struct snapshot *target = find_target(sb, words->word[1]);
	struct rollback *r = NULL;
	struct source *found;
	struct err err = { 0 };

	/* It is a fork of the target, and nobody forks what is not theirs by way of a machine that is. */
	if (!target)
		err_set(&err, -ENOENT, "rollback: neither %s nor the store has a snapshot %.80s", obj->name,
			words->word[1]);
	else if (!tree_may_make(&command->caller, &target->obj, "forks", &err) &&
		 !(r = calloc(1, sizeof(*r))))
		err_sys(&err, -ENOMEM, "rollback");
	if (!r) {
		command_done(command, &err);
		return;
	}
	r->sb = sandbox_of(object_ref(obj));
	r->sb->obj.fs->forking++;
	r->command = command;
	r->umask = command_umask(command);
	found = source_get(&target->obj, on_target, r, &err);
	if (found || err.code)
		on_target(r, &err, found);
}
