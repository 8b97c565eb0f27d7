/* SPDX-License-Identifier: MIT */
/* source.c - what forks are made of: a template, and what goes with it */
#include "fs/fork/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/pool/pool.h"
#include "fs/sandbox/capture.h"
#include "fs/sandbox/machine.h"
#include "fs/sandbox/settings.h"
#include "fs/snapshot/snapshot.h"

struct source {
	struct object *origin; /* a reference */
	struct template *template;
	struct snapshot_meta meta;
	char path[2 * STORE_NAME_MAX + 32]; /* for `parent` in info */
	char named[STORE_NAME_MAX + 1];     /* the named snapshot it goes back to, or "" */
	bool keep;                          /* it stays after this fork: worth a pool */
	source_fn done;
	void *arg;
};

void source_free(struct source *source)
{
	if (!source)
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
		source_free(source);
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

/* The snapshot's template is in memory. */
static void take_template(struct source *source)
{
	struct snapshot *snap = snapshot_of(source->origin);

	source->template = template_ref(snap->template);
	source->meta = snap->meta;
	source->meta.env = (struct buf){ 0 };
	source->meta.requires = (struct buf){ 0 };
	source->meta.net = (struct buf){ 0 };
	source->meta.record = (struct buf){ 0 };
	buf_add(&source->meta.net, buf_bytes(&snap->meta.net), snap->meta.net.len);
	buf_add(&source->meta.env, buf_bytes(&snap->meta.env), snap->meta.env.len);
	buf_add(&source->meta.requires, buf_bytes(&snap->meta.requires), snap->meta.requires.len);
	snapshot_path(snap, source->path, sizeof(source->path));
	snprintf(source->named, sizeof(source->named), "%s",
		 snap->named ? snap->obj.name : snap->meta.parent);
	source->keep = true;
}

static void on_loaded(void *arg, const struct err *err)
{
	struct source *source = arg;
	struct err failed = *err;

	if (!failed.code && source->origin->gone)
		err_set(&failed, -ENOENT, "the snapshot was removed");
	if (!failed.code)
		take_template(source);
	source_end(source, &failed);
}

struct source *source_get(struct object *origin, source_fn done, void *arg, struct err *err)
{
	struct source *source = calloc(1, sizeof(*source));

	*err = (struct err){ 0 };
	if (!source) {
		err_sys(err, -ENOMEM, "cannot fork %s", origin->name);
		return NULL;
	}
	source->origin = object_ref(origin);
	source->done = done;
	source->arg = arg;
	if (is_sandbox(origin)) {
		if (capture(sandbox_of(origin), "fork", CAPTURE_GO_ON, on_capture, source, err))
			source_free(source);
		return NULL;
	}
	if (snapshot_of(origin)->template) {
		take_template(source);
		return source;
	}
	snapshot_template(snapshot_of(origin), on_loaded, source);
	return NULL;
}

const struct shape *source_shape(const struct source *source)
{
	return &source->template->shape;
}

const struct buf *source_network(const struct source *source)
{
	return &source->meta.net;
}

int source_machine(struct source *source, struct sandbox *sb, done_fn done, void *arg, struct err *err)
{
	const struct buf *requires = &source->meta.requires;
	struct fs *fs = sb->obj.fs;
	struct pooled pooled = { 0 };

	buf_clear(&sb->requires);
	buf_add(&sb->requires, buf_bytes(requires), requires->len);
	if (sb->requires.failed)
		return err_sys(err, -ENOMEM, "cannot fork %s", sb->obj.name);
	if (pool_take(fs, source->template, &pooled))
		sb->disk = pooled.disk;
	if (source->keep)
		pool_want(fs, source->template, pooled.loaded);
	return machine_fork(sb, source->template, pooled.vm, pooled.loaded, done, arg, err);
}

int source_copy(struct source *source, struct sandbox *sb, const struct buf *env, done_fn done, void *arg,
		struct err *err)
{
	const struct snapshot_meta *meta = &source->meta;

	buf_clear(&sb->env);
	env_merge(&sb->env, (const char *)buf_bytes(&meta->env), meta->env.len);
	if (env)
		env_merge(&sb->env, (const char *)buf_bytes(env), env->len);
	if (sb->env.failed || meta->env.failed || meta->requires.failed || (env && env->failed))
		return err_sys(err, -ENOMEM, "cannot fork %s", sb->obj.name);
	if (env_fits(&sb->env, err))
		return err->code;
	sb->next_job = meta->next_job;
	snprintf(sb->image, sizeof(sb->image), "%s", meta->image);
	snprintf(sb->parent, sizeof(sb->parent), "%s", source->path);
	snprintf(sb->parent_named, sizeof(sb->parent_named), "%s", source->named);
	sb->began_ns = now_mono_ns();
	return source_machine(source, sb, done, arg, err);
}
