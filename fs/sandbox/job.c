/* SPDX-License-Identifier: MIT */
/* job.c - a command in a guest: its life, and what the guest says of it */
#include "fs/sandbox/job.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/guest/guest_names.h"
#include "fs/sandbox/sandbox.h"

struct job *job_of(const struct object *obj)
{
	return container_of(obj, struct job, obj);
}

static void job_free(struct object *obj)
{
	struct job *job = job_of(obj);

	timer_stop(&job->timer);
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
	job->linger = *name;
	output_init(&job->out[0], job);
	output_init(&job->out[1], job);
	input_init(&job->in);
	list_init(&job->waiting);
	list_add(&sb->jobs, &job->link);
	if (!job->nameless)
		object_enter(&sb->job_names, &job->obj);
	sb->njobs++;
	sandbox_count(sb);
	return job;
}

/* Whoever waits for it, in one way or another, is answered. */
static void answer_all(struct list *waiting, int err)
{
	struct request *request;

	while ((request = list_first(waiting, struct request, link)))
		request_err(request, err);
}

static void count_as(struct job *job, size_t bytes)
{
	job->sb->texts += bytes - job->counted;
	job->counted = bytes;
	sandbox_count(job->sb);
}

void job_number(struct job *job, uint32_t id)
{
	struct index *numbers = &job->sb->job_numbers;

	index_remove(numbers, &job->by_number);
	job->id = id;
	snprintf(job->number, sizeof(job->number), "%" PRIx32, id);
	if (id)
		index_add(numbers, &job->by_number, job->number);
}

void job_remove(struct job *job)
{
	struct err err;

	err_set(&err, -ENODEV, "it was removed");
	pending_end(&job->begun, &err);
	if (job->id && job->sb->agent)
		agent_job_forget(job->sb->agent, job->id);
	list_del(&job->link);
	index_remove(&job->sb->job_numbers, &job->by_number);
	object_leave(&job->obj);
	job->sb->njobs--;
	count_as(job, 0);
	timer_stop(&job->timer);
	answer_all(&job->waiting, -ENODEV);
	answer_all(&job->out[0].waiting, -ENODEV);
	answer_all(&job->out[1].waiting, -ENODEV);
	answer_all(&job->in.waiting, -ENODEV);
	output_forget(&job->out[0]);
	output_forget(&job->out[1]);
	object_remove(&job->obj);
	streams_count(job);
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

int job_room(const struct job *job, const struct buf *old, size_t n, struct err *err)
{
	const size_t more = n > old->len ? n - old->len : 0;

	if (more && job->sb->texts + more > JOBS_TEXT_MAX)
		return err_set(err, -ENOMEM,
			       "the commands and environments in exec/ have at most %dM together; rmdir jobs "
			       "that have ended",
			       JOBS_TEXT_MAX >> 20);
	return more ? admit_texts(job->sb, more, err) : 0;
}

void job_count(struct job *job)
{
	if (!job->obj.gone)
		count_as(job, job->cmd.len + job->cwd.len + job->user.len + job->env.len);
}

/*
 * Linux takes no longer word than this, as an argument or in an environment (MAX_ARG_STRLEN of
 * include/uapi/linux/binfmts.h, with the NUL at its end). A shell line is one word of `sh -c`.
 */
enum { WORD_MAX = 32 * 4096 - 1 };

static int check_words(const struct buf *text, char end, const char *what, struct err *err)
{
	const char *p = (const char *)buf_bytes(text), *stop;
	size_t left = text->len, n;

	for (; left; p += n, left -= n) {
		stop = memchr(p, end, left);
		n = stop ? (size_t)(stop - p) : left;
		if (n > WORD_MAX)
			return err_set(err, -E2BIG, "%s of %zu bytes: Linux takes at most %d in one piece",
				       what, n, WORD_MAX);
		n += !!stop;
	}
	return 0;
}

static int check_lengths(const struct job *job, bool is_argv, const struct buf *env, struct err *err)
{
	int rc;

	if (!is_argv && job->cmd.len > WORD_MAX)
		return err_set(
			err, -E2BIG,
			"a shell line of %zu bytes: Linux takes at most %d; write it to the stdin of sh, or "
			"to a file",
			job->cmd.len, WORD_MAX);
	rc = is_argv ? check_words(&job->cmd, 0, "an argument", err) : 0;
	return rc ? rc : check_words(env, '\n', "a value of env", err);
}

static void on_timeout(void *arg);

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
	rc = check_lengths(job, spec.is_argv, &env, err);
	if (rc)
		goto out;
	job_number(job, sb->next_job++);
	job->phase = JOB_STARTED;
	job->state = JOB_RUNNING;
	guestfs_let_go(&sb->files);
	agent_job_start(sb->agent, job->id, &spec);
	if (!spec.stdin_open)
		input_break(&job->in,
			    "the command was started without it; have it open before writing cmd, as in "
			    "exec 3> stdin");
	job->in.eof |= !job->in.writers && !job->tty;
	output_want(job, 0);
	output_want(job, 1);
	if (job->timeout)
		timer_start(sb->obj.fs->loop, &job->timer, job->timeout * 1000000000ull, on_timeout, job);
	object_changed(&job->obj);
out:
	free(spec.cwd);
	free(spec.user);
	free(spec.env);
	buf_release(&env);
	return rc;
}

/* ---- what the guest says */

struct job *job_find(struct sandbox *sb, uint32_t id)
{
	struct index_node *node;
	char number[9];

	snprintf(number, sizeof(number), "%" PRIx32, id);
	node = index_find(&sb->job_numbers, number);
	return node ? container_of(node, struct job, by_number) : NULL;
}

static void on_left(void *arg)
{
	job_remove(arg);
}

void job_leave(struct job *job)
{
	job->left = true;
	job->in.eof = true;
	input_pump(job);
	timer_start(job->obj.fs->loop, &job->timer, job->phase == JOB_ENDED ? 0 : JOB_LEFT_MS * 1000000ull,
		    on_left, job);
}

static void end(struct job *job, enum job_state state, uint32_t code, uint8_t shell)
{
	struct buf text = { 0 };
	struct request *request;

	if (job->phase != JOB_STARTED)
		return;
	job->phase = JOB_ENDED;
	job->state = state;
	job->code = code;
	job->shell = shell;
	timer_stop(&job->timer);
	if (job->left)
		timer_start(job->obj.fs->loop, &job->timer, 0, on_left, job);
	job_status(job, &text);
	buf_add(&text, "\n", 1);
	while ((request = list_first(&job->waiting, struct request, link))) {
		if (text.failed)
			request_err(request, -ENOMEM);
		else
			request_data(request, buf_bytes(&text),
				     text.len < request->size ? text.len : request->size);
	}
	buf_release(&text);
	object_changed(&job->obj);
}

static void end_failed(struct job *job, const char *why, uint8_t shell)
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
	end(job, JOB_FAILED, 0, shell);
	input_break(&job->in, "the command could not be run, or its machine ended; see status");
}

static void end_outputs(struct job *job)
{
	output_end(&job->out[0]);
	output_end(&job->out[1]);
}

static void fail(struct job *job, const char *why, uint8_t shell)
{
	end_failed(job, why, shell);
	end_outputs(job);
}

/* A guest that has killed it says what there is of output; from one that is silent nothing more comes. */
static void on_timeout_kill(void *arg, const struct err *err)
{
	struct job *job = arg;

	if (err->code)
		end_outputs(job);
	object_unref(&job->obj);
}

/* Whatever the guest does, and whether it does anything: the wait ends now. */
static void on_timeout(void *arg)
{
	struct job *job = arg;
	char why[64];

	snprintf(why, sizeof(why), "it took longer than %u s", job->timeout);
	job->linger = false;
	end_failed(job, why, SHELL_TIMED_OUT);
	if (!job->id || sandbox_usable(job->sb, NULL)) {
		if (job->id && job->sb->agent) /* heard when it goes on */
			agent_job_kill(job->sb->agent, job->id, SIGKILL, JOB_KILL_MS, on_timeout_kill,
				       object_ref(&job->obj));
		end_outputs(job);
		return;
	}
	agent_job_kill(job->sb->agent, job->id, SIGKILL, JOB_KILL_MS, on_timeout_kill, object_ref(&job->obj));
}

void job_started(struct sandbox *sb, uint32_t id, int err, const char *reason, uint8_t shell)
{
	struct job *job = job_find(sb, id);

	struct err why = { 0 };

	if (!job)
		return;
	if (err)
		err_set(&why, err, "%s", *reason ? reason : strerror(-err));
	pending_end(&job->begun, &why);
	if (err)
		fail(job, why.text, shell);
}

void job_output(struct sandbox *sb, uint32_t id, int stream, const void *data, size_t n)
{
	struct job *job = job_find(sb, id);

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
	struct job *job = job_find(sb, id);

	if (!job)
		return;
	if (offset == UINT64_MAX) {
		input_break(&job->in, "the command has closed it, or ended");
	} else if (offset > job->in.max) {
		job->in.max = offset;
		input_pump(job);
	}
}

static uint8_t shell_code(bool signaled, uint32_t code)
{
	return (uint8_t)(signaled ? 128 + code : code);
}

void job_exit(struct sandbox *sb, uint32_t id, bool signaled, uint32_t code, const uint64_t written[2])
{
	struct job *job = job_find(sb, id);
	unsigned i;

	if (!job)
		return;
	end(job, signaled ? JOB_SIGNALED : JOB_EXITED, code, shell_code(signaled, code));
	for (i = 0; i < 2 && !job->linger; i++)
		output_limit(job, i, written[i]);
}

void jobs_lost(struct sandbox *sb, const char *why)
{
	struct job *job;

	struct err err;

	err_set(&err, -EHOSTDOWN, "%s", why);
	list_for_each (job, &sb->jobs, link) {
		if (!job->id)
			continue;
		job_number(job, 0); /* the next machine's job may have this one's */
		pending_end(&job->begun, &err);
		fail(job, why, EXIT_NOT_BEGUN);
	}
}

void job_wake(const struct job *job)
{
	if (job->phase == JOB_STARTED || job->id)
		life_touch(job->sb);
}

void jobs_go_on(struct sandbox *sb)
{
	struct job *job;

	list_for_each (job, &sb->jobs, link) {
		if (!job->id)
			continue;
		input_pump(job);
		output_want(job, 0);
		output_want(job, 1);
	}
}

void jobs_settle(struct sandbox *sb)
{
	struct job *job;

	list_for_each (job, &sb->jobs, link) {
		if (!job->remembered)
			continue;
		job->remembered = false;
		job_number(job, 0);
		job->phase = JOB_STARTED;
		fail(job, "the machine that came back does not know it", EXIT_NOT_BEGUN);
	}
}

void jobs_unbegun(struct sandbox *sb, uint32_t first, const char *why)
{
	struct err err;
	struct job *job;

	err_set(&err, -EHOSTDOWN, "%s", why);
	list_for_each (job, &sb->jobs, link) {
		if (job->id < first || !job->id)
			continue;
		job_number(job, 0);
		pending_end(&job->begun, &err);
		fail(job, why, EXIT_NOT_BEGUN);
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
	/* One that comes back has jobs already. */
	struct job *job = job_find(sb, info->id);
	bool remembered;
	char **env;
	int i;

	if (info->id >= sb->next_job)
		sb->next_job = info->id + 1;
	if (job && !job->remembered)
		return; /* begun while the machine was brought back, or named twice */
	/* A `run` ends with the file that was open, and nobody here has it open. */
	if (!name_valid(spec->name) || (!job && !(job = job_new(sb, spec->name, &owner)))) {
		agent_job_forget(sb->agent, info->id);
		return;
	}
	remembered = job->remembered;
	if (remembered) {
		job->remembered = false;
		buf_clear(&job->cmd);
		buf_clear(&job->env);
		buf_clear(&job->cwd);
		buf_clear(&job->user);
	}
	job_number(job, info->id);
	job->phase = info->state == JOB_RUNNING ? JOB_STARTED : JOB_ENDED;
	job->state = info->state;
	job->code = info->code;
	job->shell =
		info->state == JOB_FAILED ? info->shell : shell_code(info->state == JOB_SIGNALED, info->code);
	if (info->state == JOB_FAILED)
		snprintf(job->reason, sizeof(job->reason), "%s", strerror((int)info->code));
	buf_add(&job->cmd, spec->cmd, spec->cmd_len);
	set_text(&job->cwd, spec->cwd);
	set_text(&job->user, spec->user);
	for (env = spec->env; env && *env; env++)
		env_add(&job->env, *env);
	job_count(job);
	job->tty = spec->tty;
	job->rows = spec->rows;
	job->cols = spec->cols;
	job->out[0].at = job->out[0].wanted = info->stdout_at;
	job->out[1].at = job->out[1].wanted = info->stderr_at;
	for (i = 0; i < 2; i++)
		job->out[i].taken = job->out[i].at + (remembered ? STREAM_WINDOW : 0);
	job->out[0].eof = info->stdout_eof;
	job->out[1].eof = info->stderr_eof;
	job->in.at = info->stdin_at;
	job->in.max = info->stdin_max;
	/* What an earlier daemon was given of it and the guest was not told waits in job->in. */
	job->in.eof_sent = info->stdin_eof;
	job->in.eof = info->stdin_eof || (remembered && job->in.eof);
	if (!spec->stdin_open || info->stdin_max == UINT64_MAX || info->stdin_eof)
		input_break(&job->in, "the command does not read it, or has ended");
	streams_count(job);
}
