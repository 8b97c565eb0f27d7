/* SPDX-License-Identifier: MIT */
/*
 * fork.c - new sandboxes from snapshots and from sandboxes
 *
 * Three steps: reserve the name (fork_new), find the source, which may mean a capture or a load from disk
 * (source_get), make the machine (fork_run). A fork can be cancelled between and within them. Whatever happens,
 * it ends in one place, fork_end.
 */
#include "fs/fork/fork.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/sandbox/machine.h"

struct fork {
	struct sandbox *sb;    /* a reference */
	struct object *origin; /* a reference */
	struct buf env;        /* of the overrides */
	bool has_net;          /* likewise */
	enum net_mode net;
	struct shape want;
	bool running; /* sb's task is ours */
	bool cancelled;
	fork_fn done; /* NULL: arg is the command that waits */
	void *arg;
	uint64_t began_ns;
};

/* It joins the tree. */
static void be_born(struct fork *fork)
{
	struct sandbox *sb = fork->sb;

	sb->fork_ns = now_mono_ns() - fork->began_ns;
	sb->born = true;
	sb->copy = 0;
	sb->obj.fs->forks_made++;
	timing_add(&sb->obj.fs->fork_times, sb->fork_ns);
	if (!fork->origin->gone) {
		sb->origin = fork->origin;
		list_add(&fork->origin->forks, &sb->fork_link);
	}
}

/* The end of its task, if it came to have one. */
static void fork_end(void *arg, const struct err *err)
{
	struct fork *fork = arg;
	struct sandbox *sb = fork->sb;
	struct err why = *err;

	if (fork->cancelled)
		err_set(&why, -EINTR, "fork: nobody waits for %s any more", sb->obj.name);
	if (why.code)
		sandbox_remove(sb);
	else
		be_born(fork);
	fork->origin->fs->forking--;
	if (fork->done)
		fork->done(fork->arg, &why, why.code ? NULL : sb);
	else if (why.code)
		command_done(fork->arg, &why);
	else
		command_made(fork->arg, &sb->obj, &sandbox_entry, true);
	object_unref(fork->origin);
	object_unref(&sb->obj);
	buf_release(&fork->env);
	free(fork);
}

int fork_new(struct object *origin, const char *name, const struct owner *owner,
	     const struct overrides *overrides, fork_fn done, void *arg, struct fork **ret, struct err *err)
{
	struct fork *fork = calloc(1, sizeof(*fork));
	int rc;

	if (!fork)
		return err_sys(err, -ENOMEM, "cannot fork %s", name);
	rc = sandbox_new(origin->fs, name, owner, &fork->sb, err);
	if (rc) {
		free(fork);
		return rc;
	}
	object_ref(&fork->sb->obj);
	fork->origin = object_ref(origin);
	if (overrides) {
		fork->want = overrides->shape;
		fork->has_net = overrides->has_net;
		fork->net = overrides->net;
		limits_merge(&fork->sb->limits, &overrides->limits);
		fork->sb->rights = overrides->rights;
		life_set_idle(fork->sb, overrides->idle);
		life_set_ttl(fork->sb, overrides->ttl);
		buf_add(&fork->env, buf_bytes(&overrides->env), overrides->env.len);
		fork->env.failed |= overrides->env.failed;
	}
	fork->done = done;
	fork->arg = arg;
	fork->began_ns = now_mono_ns();
	origin->fs->forking++;
	*ret = fork;
	return 0;
}

void fork_number(struct fork *fork, unsigned number)
{
	fork->sb->copy = number;
}

/* It answers; give it what was asked for beyond what its origin had. */
static void on_running(void *arg, const struct err *err)
{
	struct fork *fork = arg;

	if (err->code)
		task_end(fork->sb, err);
	else
		machine_resize(fork->sb, &fork->want, NULL, NULL);
}

void fork_run(struct fork *fork, struct source *source)
{
	const struct shape *had = source_shape(source);
	struct sandbox *sb = fork->sb;
	struct shape shape = *had;
	struct err err = { 0 };
	bool fits;

	if (fork->cancelled || overrides_apply(&fork->want, &shape, &err) ||
	    task_begin(sb, "fork", fork_end, fork, &err)) {
		fork_end(fork, &err);
		return;
	}
	fork->want = shape;
	fork->running = true;
	fits = shape.memory == had->memory && shape.cpus == had->cpus;
	if (network_load(sb, source_network(source), fork->has_net ? &fork->net : NULL, &err) ||
	    source_copy(source, sb, &fork->env, fits ? NULL : on_running, fork, &err))
		task_end(sb, &err);
}

void fork_cancel(void *arg)
{
	struct fork *fork = arg;

	fork->cancelled = true;
	if (fork->running)
		sandbox_remove(fork->sb); /* ends its task */
}

/* ---- for a command */

static void on_source(void *arg, const struct err *err, struct source *source)
{
	struct fork *fork = arg;

	if (source)
		fork_run(fork, source);
	else
		fork_end(fork, err);
	source_free(source);
}

void fork_one(struct object *origin, const char *name, const struct overrides *overrides,
	      struct command *command)
{
	struct source *source;
	struct fork *fork;
	struct err err;

	if (fork_new(origin, name, &command->child, overrides, NULL, command, &fork, &err)) {
		command_done(command, &err);
		return;
	}
	command->cancel = fork_cancel;
	command->arg = fork;
	source = source_get(origin, on_source, fork, &err);
	if (source || err.code)
		on_source(fork, &err, source);
}
