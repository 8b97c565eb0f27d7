/* SPDX-License-Identifier: MIT */
/*
 * batch.c - many forks of one origin
 *
 * The source is found once. A few children are made at a time: more would only share the same CPUs, and all
 * be late. A child that fails has its line in `error`, and the batch the errno of the first.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/fork/fork.h"

enum { AT_ONCE = 4 };

struct batch {
	struct command *command;
	struct object *origin; /* a reference */
	struct source *source;
	struct owner owner;
	struct overrides overrides;
	char prefix[STORE_NAME_MAX + 1];
	unsigned n, next, active;
	struct err first; /* why the first that failed did */
	struct buf lines;
	bool filling;
};

static void fill(struct batch *batch);

static void batch_end(struct batch *batch)
{
	struct command *command = batch->command;
	struct object *origin = batch->origin;
	const bool guest = command->kind == COMMAND_GUEST;
	const struct err err = batch->first;

	object_ref(origin);
	origin->fs->forking--;
	command_done(command, &err);
	/* In place of its one sentence, one for each child. */
	if (err.code && !guest)
		object_report_lines(origin, &batch->lines);
	object_unref(origin);
	source_free(batch->source);
	object_unref(batch->origin);
	overrides_release(&batch->overrides);
	buf_release(&batch->lines);
	free(batch);
}

static void note(struct batch *batch, const char *name, const struct err *err)
{
	if (!batch->first.code)
		batch->first = *err;
	if (batch->overrides.failed)
		++*batch->overrides.failed;
	buf_printf(&batch->lines, "%s: %s\n", name, err->text);
}

/* arg of a child's callback: which of the batch it is */
struct child {
	struct batch *batch;
	char name[STORE_NAME_MAX + 16];
};

static void on_child(void *arg, const struct err *err, struct sandbox *sb)
{
	struct child *child = arg;
	struct batch *batch = child->batch;

	(void)sb;
	if (err->code)
		note(batch, child->name, err);
	batch->active--;
	free(child);
	fill(batch);
}

static void start_child(struct batch *batch, unsigned number)
{
	struct child *child = calloc(1, sizeof(*child));
	struct err err = { 0 };
	struct fork *fork;

	if (!child) {
		err_sys(&err, -ENOMEM, "cannot fork");
		note(batch, batch->prefix, &err);
		return;
	}
	child->batch = batch;
	snprintf(child->name, sizeof(child->name), "%s%u", batch->prefix, batch->overrides.first + number);
	if (fork_new(batch->origin, child->name, &batch->owner, &batch->overrides, on_child, child, &fork,
		     &err)) {
		note(batch, child->name, &err);
		free(child);
		return;
	}
	if (batch->overrides.copies)
		fork_number(fork, number);
	batch->active++;
	fork_run(fork, batch->source);
}

static void fill(struct batch *batch)
{
	if (batch->filling)
		return;
	batch->filling = true;
	while (batch->next <= batch->n && batch->active < AT_ONCE)
		start_child(batch, batch->next++);
	batch->filling = false;
	if (batch->next > batch->n && !batch->active)
		batch_end(batch);
}

static void on_source(void *arg, const struct err *err, struct source *source)
{
	struct batch *batch = arg;

	batch->source = source;
	if (err->code) {
		batch->first = *err;
		buf_printf(&batch->lines, "%s\n", err->text);
		batch_end(batch);
		return;
	}
	fill(batch);
}

void fork_batch(struct object *origin, unsigned n, const char *prefix, const struct overrides *overrides,
		struct command *command)
{
	struct batch *batch = calloc(1, sizeof(*batch));
	struct source *source;
	struct err err;

	if (!batch) {
		err_sys(&err, -ENOMEM, "fork");
		command_done(command, &err);
		return;
	}
	batch->command = command;
	batch->origin = object_ref(origin);
	origin->fs->forking++; /* also while none of its children is under way: the source comes first */
	batch->owner = command->child;
	batch->overrides = *overrides;
	batch->overrides.env = (struct buf){ 0 };
	buf_add(&batch->overrides.env, buf_bytes(&overrides->env), overrides->env.len);
	snprintf(batch->prefix, sizeof(batch->prefix), "%s", prefix);
	batch->n = n;
	batch->next = 1;
	source = source_get(origin, on_source, batch, &err);
	if (source || err.code)
		on_source(batch, &err, source);
}
