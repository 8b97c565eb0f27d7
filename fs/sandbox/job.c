/* SPDX-License-Identifier: MIT */
/* job.c - a command in a guest: its life, and what the guest says of it */
#include "fs/sandbox/job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/sandbox/sandbox.h"

struct job *job_of(const struct object *obj)
{
	return container_of(obj, struct job, obj);
}

static void job_free(struct object *obj)
{
	struct job *job = job_of(obj);

	buf_release(&job->cmd);
	buf_release(&job->cwd);
	buf_release(&job->user);
	buf_release(&job->env);
	output_release(&job->out[0]);
	output_release(&job->out[1]);
	input_release(&job->in);
	free(job);
}

struct job *job_new(struct sandbox *sb, const char *name, const struct owner *owner)
{
	struct job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	object_init(&job->obj, OBJECT_JOB, sb->obj.fs, name, owner, job_free);
	job->sb = sb;
	job->nameless = !*name;
	output_init(&job->out[0]);
	output_init(&job->out[1]);
	input_init(&job->in);
	list_init(&job->waiting);
	list_add(&sb->jobs, &job->link);
	return job;
}

/* Whoever waits for it, in one way or another, is answered. */
static void answer_all(struct list *waiting, int err)
{
	struct request *request;

	while ((request = list_first(waiting, struct request, link)))
		request_err(request, err);
}

void job_remove(struct job *job)
{
	if (job->id && job->sb->agent)
		agent_job_forget(job->sb->agent, job->id);
	list_del(&job->link);
	answer_all(&job->waiting, -ENODEV);
	answer_all(&job->out[0].waiting, -ENODEV);
	answer_all(&job->out[1].waiting, -ENODEV);
	answer_all(&job->in.waiting, -ENODEV);
	object_remove(&job->obj);
	files_wake(&job->out[0].files);
	files_wake(&job->out[1].files);
	files_wake(&job->in.files);
	object_unref(&job->obj);
}

void job_status(const struct job *job, struct buf *text)
{
	if (job->phase == JOB_PENDING)
		buf_printf(text, "pending");
	else if (job->state == JOB_RUNNING)
		buf_printf(text, "running");
	else if (job->state == JOB_EXITED)
		buf_printf(text, "exited %u", job->code);
	else if (job->state == JOB_SIGNALED)
		buf_printf(text, "signaled %u", job->code);
	else
		buf_printf(text, "failed %s", job->reason);
}

/* ---- start */

/* A copy of a setting's text, NULL if it is empty; sets *failed when out of memory. */
static char *text_dup(const struct buf *text, bool *failed)
{
	char *copy = NULL;

	if (text->len) {
		copy = strndup((const char *)buf_bytes(text), text->len);
		*failed |= !copy;
	}
	return copy;
}

int job_start(struct job *job, bool merge, struct err *err)
{
	struct sandbox *sb = job->sb;
	struct buf env = { 0 };
	struct job_spec spec = { 0 };
	bool failed = false;
	int rc;

	if (job->phase != JOB_PENDING)
		return err_set(err, -EBUSY, "exec/%s has already been started", job->obj.name);
	rc = sandbox_usable(sb, err);
	if (rc)
		return rc;
	env_merge(&env, (const char *)buf_bytes(&sb->env), sb->env.len);
	env_merge(&env, (const char *)buf_bytes(&job->env), job->env.len);
	snprintf(spec.name, sizeof(spec.name), "%s", job->obj.name);
	spec.cmd = (char *)buf_bytes(&job->cmd);
	spec.cmd_len = job->cmd.len;
	spec.is_argv = job->cmd.len && memchr(spec.cmd, 0, spec.cmd_len);
	spec.cwd = text_dup(&job->cwd, &failed);
	spec.user = text_dup(&job->user, &failed);
	spec.env = env_array(&env);
	spec.tty = job->tty;
	spec.rows = job->rows;
	spec.cols = job->cols;
	spec.merge = merge;
	spec.stdin_open = job->tty || job->in.writers || job->in.data.len;
	if (failed || env.failed || !spec.env || job->cmd.failed) {
		rc = err_sys(err, -ENOMEM, "cannot start the command");
		goto out;
	}
	job->id = sb->next_job++;
	job->phase = JOB_STARTED;
	job->state = JOB_RUNNING;
	agent_job_start(sb->agent, job->id, &spec);
	if (!spec.stdin_open)
		input_break(&job->in,
			    "the command was started without it; have it open before writing cmd, as in "
			    "exec 3> stdin");
	job->in.eof |= !job->in.writers && !job->tty;
	output_want(job, 0);
	output_want(job, 1);
	object_changed(&job->obj);
out:
	free(spec.cwd);
	free(spec.user);
	free(spec.env);
	buf_release(&env);
	return rc;
}

/* ---- what the guest says */

static struct job *find(struct sandbox *sb, uint32_t id)
{
	struct job *job;

	list_for_each (job, &sb->jobs, link)
		if (job->id == id)
			return job;
	return NULL;
}

static void end(struct job *job, enum job_state state, uint32_t code)
{
	struct buf text = { 0 };
	struct request *request;

	if (job->phase != JOB_STARTED)
		return;
	job->phase = JOB_ENDED;
	job->state = state;
	job->code = code;
	job_status(job, &text);
	buf_add(&text, "\n", 1);
	while ((request = list_first(&job->waiting, struct request, link)))
		request_data(request, buf_bytes(&text), text.len < request->size ? text.len : request->size);
	buf_release(&text);
	object_changed(&job->obj);
}

static void fail(struct job *job, const char *why)
{
	struct err err;
	char *p;

	snprintf(job->reason, sizeof(job->reason), "%s", why);
	for (p = job->reason; *p; p++) /* one line, whatever the guest wrote */
		if ((unsigned char)*p < ' ')
			*p = ' ';
	if (job->phase == JOB_STARTED) {
		err_set(&err, -EIO, "exec/%s: %s", job->obj.name, job->reason);
		object_report(&job->obj, &err);
	}
	end(job, JOB_FAILED, 0);
	output_end(&job->out[0]);
	output_end(&job->out[1]);
	input_break(&job->in, "the command could not be run, or its machine ended; see status");
}

void job_started(struct sandbox *sb, uint32_t id, int err, const char *reason)
{
	struct job *job = find(sb, id);

	if (job && err)
		fail(job, *reason ? reason : strerror(-err));
}

void job_output(struct sandbox *sb, uint32_t id, int stream, const void *data, size_t n)
{
	struct job *job = find(sb, id);

	if (!job || stream < 1 || stream > 2)
		return;
	if (!n)
		output_end(&job->out[stream - 1]);
	else
		output_add(&job->out[stream - 1], data, n);
	output_want(job, (unsigned)stream - 1);
}

void job_stdin_max(struct sandbox *sb, uint32_t id, uint64_t offset)
{
	struct job *job = find(sb, id);

	if (!job)
		return;
	if (offset == UINT64_MAX) {
		input_break(&job->in, "the command has closed it, or ended");
	} else if (offset > job->in.max) {
		job->in.max = offset;
		input_pump(job);
	}
}

void job_exit(struct sandbox *sb, uint32_t id, bool signaled, uint32_t code)
{
	struct job *job = find(sb, id);

	if (job)
		end(job, signaled ? JOB_SIGNALED : JOB_EXITED, code);
}

void jobs_lost(struct sandbox *sb, const char *why)
{
	struct job *job;

	list_for_each (job, &sb->jobs, link) {
		if (!job->id)
			continue;
		job->id = 0; /* the next machine's job may have this number */
		fail(job, why);
	}
}

static void set_text(struct buf *text, const char *value)
{
	if (value)
		buf_add(text, value, strlen(value));
}

void job_inherit(void *arg, const struct job_info *info)
{
	struct sandbox *sb = arg;
	const struct job_spec *spec = &info->spec;
	const struct owner owner = { sb->obj.owner.uid, sb->obj.owner.gid, 0700 };
	struct job *job;
	char **env;

	if (info->id >= sb->next_job)
		sb->next_job = info->id + 1;
	/* A `run` ends with the file that was open, and nobody here has it open. */
	if (!name_valid(spec->name) || !(job = job_new(sb, spec->name, &owner))) {
		agent_job_forget(sb->agent, info->id);
		return;
	}
	job->id = info->id;
	job->phase = info->state == JOB_RUNNING ? JOB_STARTED : JOB_ENDED;
	job->state = info->state;
	job->code = info->code;
	if (info->state == JOB_FAILED)
		snprintf(job->reason, sizeof(job->reason), "%s", strerror((int)info->code));
	buf_add(&job->cmd, spec->cmd, spec->cmd_len);
	set_text(&job->cwd, spec->cwd);
	set_text(&job->user, spec->user);
	for (env = spec->env; env && *env; env++) {
		set_text(&job->env, *env);
		buf_add(&job->env, "\n", 1);
	}
	job->tty = spec->tty;
	job->rows = spec->rows;
	job->cols = spec->cols;
	job->out[0].at = job->out[0].wanted = info->stdout_at;
	job->out[1].at = job->out[1].wanted = info->stderr_at;
	job->out[0].eof = info->stdout_eof;
	job->out[1].eof = info->stderr_eof;
	job->in.at = info->stdin_at;
	job->in.max = info->stdin_max;
	job->in.eof = job->in.eof_sent = info->stdin_eof;
	if (!spec->stdin_open || info->stdin_max == UINT64_MAX || info->stdin_eof)
		input_break(&job->in, "the command does not read it, or has ended");
}
