/* SPDX-License-Identifier: MIT */
/*
 * fork.c - new sandboxes from snapshots and from sandboxes
 *
 * Three steps: reserve the name (fork_new), find the source, which may mean a capture or a load from disk
 * (source_get), make the machine (fork_run). A fork can be cancelled between and within them.
 */
#include "fs/fork/fork.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/pool/pool.h"
#include "fs/sandbox/capture.h"
#include "fs/sandbox/machine.h"
#include "fs/snapshot/snapshot.h"
#include "util/size.h"

/* ---- sources */

struct source {
	unsigned refs;
	struct object *origin; /* a reference */
	struct template *template;
	struct snapshot_meta meta;
	char path[2 * STORE_NAME_MAX + 32]; /* for `parent` in info */
	char named[STORE_NAME_MAX + 1];     /* the named snapshot it goes back to, or "" */
	bool keep;                          /* it stays after this fork: worth a pool */
	source_fn done;
	void *arg;
};

void source_unref(struct source *source)
{
	if (!source || --source->refs)
		return;
	object_unref(source->origin);
	template_unref(source->template);
	snapshot_meta_release(&source->meta);
	free(source);
}

static void source_end(struct source *source, const struct err *err)
{
	if (err->code) {
		source->done(source->arg, err, NULL);
		source_unref(source);
	} else {
		source->done(source->arg, err, source);
	}
}

static bool is_sandbox(const struct object *obj)
{
	return obj->kind == OBJECT_SANDBOX;
}

static void on_capture(void *arg, const struct err *err, struct template *template)
{
	struct source *source = arg;
	struct sandbox *sb = sandbox_of(source->origin);
	struct err failed = *err;

	if (!failed.code) {
		source->template = template;
		if (snapshot_meta_of(sb, template, &source->meta))
			err_sys(&failed, -ENOMEM, "cannot fork %s", sb->obj.name);
		snprintf(source->path, sizeof(source->path), "%s", sb->obj.name);
		snprintf(source->named, sizeof(source->named), "%s", sb->parent_named);
	}
	source_end(source, &failed);
}

static void on_template(void *arg, const struct err *err)
{
	struct source *source = arg;
	struct snapshot *snap = snapshot_of(source->origin);
	struct err failed = *err;

	if (!failed.code && snap->obj.gone)
		err_set(&failed, -ENOENT, "the snapshot was removed");
	if (!failed.code) {
		source->template = template_ref(snap->template);
		source->meta = snap->meta;
		source->meta.env = (struct buf){ 0 };
		source->meta.requires = (struct buf){ 0 };
		buf_add(&source->meta.env, buf_bytes(&snap->meta.env), snap->meta.env.len);
		buf_add(&source->meta.requires, buf_bytes(&snap->meta.requires), snap->meta.requires.len);
		snapshot_path(snap, source->path, sizeof(source->path));
		snprintf(source->named, sizeof(source->named), "%s",
			 snap->named ? snap->obj.name : snap->meta.parent);
		source->keep = true;
	}
	source_end(source, &failed);
}

void source_get(struct object *origin, source_fn done, void *arg)
{
	struct source *source = calloc(1, sizeof(*source));
	struct err err = { 0 };

	if (!source) {
		err_sys(&err, -ENOMEM, "cannot fork %s", origin->name);
		done(arg, &err, NULL);
		return;
	}
	source->refs = 1;
	source->origin = object_ref(origin);
	source->done = done;
	source->arg = arg;
	if (!is_sandbox(origin))
		snapshot_template(snapshot_of(origin), on_template, source);
	else if (capture(sandbox_of(origin), "fork", CAPTURE_GO_ON, on_capture, source, &err))
		source_end(source, &err);
}

/* ---- one fork */

struct fork {
	struct sandbox *sb;    /* a reference */
	struct object *origin; /* a reference */
	struct buf env;        /* of the overrides */
	struct shape want;
	bool running; /* sb's task is ours */
	bool cancelled;
	fork_fn done;
	void *arg;
	uint64_t began_ns;
};

static void fork_free(struct fork *fork)
{
	fork->origin->fs->forking--;
	object_unref(fork->origin);
	object_unref(&fork->sb->obj);
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
		buf_add(&fork->env, buf_bytes(&overrides->env), overrides->env.len);
	}
	fork->done = done;
	fork->arg = arg;
	fork->began_ns = now_mono_ns();
	origin->fs->forking++;
	*ret = fork;
	return 0;
}

void fork_fail(struct fork *fork, const struct err *err)
{
	const fork_fn done = fork->done;
	void *arg = fork->arg;
	const bool cancelled = fork->cancelled;
	const struct err copy = *err;

	sandbox_remove(fork->sb);
	fork_free(fork);
	if (!cancelled)
		done(arg, &copy, NULL);
}

/* The sandbox's task is done: it answers, or the machine failed. */
static void on_machine(void *arg, const struct err *err)
{
	struct fork *fork = arg;
	struct sandbox *sb = fork->sb;
	const fork_fn done = fork->done;
	void *done_arg = fork->arg;
	const struct err copy = *err;

	fork->running = false;
	if (fork->cancelled) {
		fork_free(fork); /* fork_cancel removes the sandbox */
		return;
	}
	if (err->code) {
		fork_fail(fork, err);
		return;
	}
	sb->fork_ns = now_mono_ns() - fork->began_ns;
	sb->born = true;
	sb->obj.fs->forks_made++;
	if (!fork->origin->gone) {
		sb->origin = fork->origin;
		list_add(&fork->origin->forks, &sb->fork_link);
	}
	fork_free(fork);
	done(done_arg, &copy, sb);
}

static void on_fitted(void *arg, const struct err *err)
{
	task_end(((struct fork *)arg)->sb, err);
}

/* It answers; give it what was asked for beyond what its origin had. */
static void on_running(void *arg, const struct err *err)
{
	struct fork *fork = arg;
	struct sandbox *sb = fork->sb;

	if (!err->code && (fork->want.memory != sb->shape.memory || fork->want.cpus != sb->shape.cpus))
		machine_resize(sb, &fork->want, on_fitted, fork);
	else
		task_end(sb, err);
}

int source_machine(struct source *source, struct sandbox *sb, const struct buf *env, done_fn done, void *arg,
		   struct err *err)
{
	const struct snapshot_meta *meta = &source->meta;
	struct fs *fs = sb->obj.fs;
	struct pooled pooled = { 0 };

	buf_clear(&sb->requires);
	buf_add(&sb->requires, buf_bytes(&meta->requires), meta->requires.len);
	buf_clear(&sb->env);
	env_merge(&sb->env, (const char *)buf_bytes(&meta->env), meta->env.len);
	if (env)
		env_merge(&sb->env, (const char *)buf_bytes(env), env->len);
	if (sb->env.failed || sb->requires.failed)
		return err_sys(err, -ENOMEM, "cannot fork %s", sb->obj.name);
	sb->next_job = meta->next_job;
	snprintf(sb->image, sizeof(sb->image), "%s", meta->image);
	snprintf(sb->parent, sizeof(sb->parent), "%s", source->path);
	snprintf(sb->parent_named, sizeof(sb->parent_named), "%s", source->named);
	sb->began_ns = now_mono_ns();
	if (pool_take(fs, source->template, &pooled))
		sb->disk = pooled.disk;
	if (source->keep)
		pool_want(fs, source->template);
	return machine_fork(sb, source->template, pooled.vm, pooled.loaded, done, arg, err);
}

void fork_run(struct fork *fork, struct source *source)
{
	struct sandbox *sb = fork->sb;
	struct shape shape = source->template->shape;
	struct err err = { 0 };

	if (fork->cancelled || overrides_apply(&fork->want, &shape, &err) ||
	    task_begin(sb, "fork", on_machine, fork, &err)) {
		fork_fail(fork, &err);
		return;
	}
	fork->want = shape;
	fork->running = true;
	if (source_machine(source, sb, &fork->env, on_running, fork, &err))
		task_end(sb, &err);
}

void fork_cancel(void *arg)
{
	struct fork *fork = arg;

	fork->cancelled = true;
	/* A fork whose source is still awaited ends when that comes. */
	if (fork->running)
		sandbox_remove(fork->sb);
}

/* ---- mkdir and the verb */

/* Either a mkdir's request or a verb's call waits. */
struct asked {
	struct fork *fork;
	struct object *origin; /* a reference */
	struct request *request;
	struct command *command;
};

static void asked_free(struct asked *asked)
{
	object_unref(asked->origin);
	free(asked);
}

static void answer(struct asked *asked, const struct err *err, struct sandbox *sb)
{
	if (asked->command)
		command_done(asked->command, err);
	else if (err->code)
		tree_refuse(asked->request, asked->origin, err);
	else
		tree_made(asked->request, &sb->obj, &sandbox_entry, true);
	asked_free(asked);
}

static void on_fork(void *arg, const struct err *err, struct sandbox *sb)
{
	answer(arg, err, sb);
}

/* The caller was interrupted. */
static void on_cancel(void *arg)
{
	struct asked *asked = arg;
	const struct err ok = { 0 };

	fork_cancel(asked->fork);
	if (asked->command)
		command_done(asked->command, &ok);
	asked_free(asked);
}

static void on_source(void *arg, const struct err *err, struct source *source)
{
	struct fork *fork = arg;

	if (!source)
		fork_fail(fork, err);
	else
		fork_run(fork, source);
	source_unref(source);
}

static void fork_one(struct object *origin, const char *name, const struct owner *owner,
		     const struct overrides *overrides, struct request *request, struct command *command)
{
	struct asked *asked = calloc(1, sizeof(*asked));
	struct err err = { 0 };

	if (!asked) {
		err_sys(&err, -ENOMEM, "cannot fork %s", name);
		if (command)
			command_done(command, &err);
		else
			tree_refuse(request, origin, &err);
		return;
	}
	asked->origin = object_ref(origin);
	asked->request = request;
	asked->command = command;
	if (fork_new(origin, name, owner, overrides, on_fork, asked, &asked->fork, &err)) {
		answer(asked, &err, NULL);
		return;
	}
	if (command) {
		command->cancel = on_cancel;
		command->arg = asked;
	} else {
		request->cancel = on_cancel;
		request->arg = asked;
	}
	source_get(origin, on_source, asked->fork);
}

void fork_mkdir(struct object *origin, const char *name, const struct owner *owner, struct request *request)
{
	fork_one(origin, name, owner, NULL, request, NULL);
}

void fork_verb(struct object *origin, const struct words *words, struct command *command)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(command->request->req);
	const struct owner owner = { ctx->uid, ctx->gid, 0755 };
	struct overrides overrides = { 0 };
	struct err err = { 0 };
	uint64_t n;
	const bool batch = !number_parse(words->word[1], &n);

	if (batch && (words->n < 3 || strchr(words->word[2], '=')))
		err_set(&err, -EINVAL, "usage: fork W [k=v ...] or fork N PREFIX [k=v ...]");
	else if (batch && !n)
		err_set(&err, -EINVAL, "fork: 0 is no number of children");
	else if (batch && n > BATCH_MAX)
		err_set(&err, -ERANGE, "fork: at most %d children at once", BATCH_MAX);
	else if (!batch || name_valid(words->word[2]))
		overrides_parse(words->word + (batch ? 3 : 2), false, &overrides, &err);
	else
		err_set(&err, -EINVAL, "\"%.80s\" is not the beginning of a name", words->word[2]);
	if (err.code)
		command_done(command, &err);
	else if (batch)
		fork_batch(origin, (unsigned)n, words->word[2], &overrides, command);
	else
		fork_one(origin, words->word[1], &owner, &overrides, NULL, command);
	overrides_release(&overrides);
}
