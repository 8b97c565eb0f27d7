/* SPDX-License-Identifier: MIT */
/*
 * run.c - the file `run`: each open is a channel for one command
 *
 * Write a command line, read its output, stdout and stderr in one, until the command ends; what it leaves in the
 * background goes on, and `wait` at the end of the line waits for that too. Closing it before kills the command.
 *
 * It has a position, for programs that ask: Python opens nothing "r+" that refuses lseek(2). Whoever reads ahead
 * and then goes back to where he wants to continue (bash's `read` does, where lseek succeeds) gets what he read
 * once more; further back than KEPT_MAX there is nothing.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "fs/dirs/dirs.h"
#include "fs/sandbox/admission.h"
#include "fs/sandbox/job.h"
#include "fs/sandbox/sandbox.h"
#include "fs/tree/file.h"

/* One open of the file. */
struct run {
	struct job *job; /* a reference */
	struct buf kept; /* output that was read, for who goes back */
	uint64_t start;  /* position at which the output begins; RUN_UNREAD: nothing was read yet */
};

#define RUN_UNREAD UINT64_MAX

static void run_release(struct file *file)
{
	struct run *run = file->priv;

	if (!run)
		return;
	list_del(&file->link);
	run->job->out[0].kept = NULL;
	output_close(run->job, 0);
	if (!run->job->obj.gone)
		job_remove(run->job);
	object_unref(&run->job->obj);
	buf_release(&run->kept);
	free(run);
}

static int make_run(struct file *file, struct job *job, struct err *err)
{
	struct run *run = calloc(1, sizeof(*run));

	if (!run)
		return err_sys(err, -ENOMEM, "run");
	run->job = job;
	run->start = RUN_UNREAD;
	file->priv = run;
	return 0;
}

static int start(struct file *file, const char *text, size_t n, struct err *err)
{
	struct sandbox *sb = sandbox_of(file->obj);
	struct job *job;
	int rc;

	if (file->priv)
		return err_set(err, -EBUSY,
			       "run: this open file has had its command; open it again for another");
	if (n > LONG_WRITE_MAX)
		return err_set(err, -E2BIG, "run: a command has at most %d bytes", LONG_WRITE_MAX);
	rc = sandbox_usable(sb, err);
	if (rc)
		return rc;
	if (text[n - 1] == '\n' && !memchr(text, 0, n))
		n--;
	if (!n)
		return err_set(err, -EINVAL, "run: the command is empty");
	rc = admit_job(sb, err);
	if (rc)
		return rc;
	job = job_new(sb, "", &sb->obj.owner);
	if (!job)
		return err_sys(err, -ENOMEM, "run");
	rc = job_room(job, &job->cmd, n, err);
	buf_add(&job->cmd, text, rc ? 0 : n);
	job_count(job);
	if (!rc)
		rc = make_run(file, job, err);
	if (!rc)
		rc = job_start(job, true, err);
	if (rc) {
		free(file->priv);
		file->priv = NULL;
		job_remove(job);
		return rc;
	}
	object_ref(&job->obj);
	job->out[0].kept = &((struct run *)file->priv)->kept;
	list_add(&job->out[0].files, &file->link);
	output_open(job, 0);
	return 0;
}

static void run_write(struct file *file, const char *data, bool nonblock, struct request *request)
{
	struct err err = { 0 };

	(void)nonblock;
	start(file, data, request->size, &err);
	object_report(file->obj, &err);
	if (err.code)
		request_err(request, err.code);
	else
		request_written(request);
}

static void run_read(struct file *file, uint64_t offset, bool nonblock, struct request *request)
{
	struct run *run = file->priv;
	const struct output *out = run ? &run->job->out[0] : NULL;
	uint64_t back;
	size_t n;

	if (!run || run->job->obj.gone) {
		request_data(request, NULL, 0);
		return;
	}
	/* What was written moved the position too. */
	if (run->start == RUN_UNREAD)
		run->start = offset;
	back = offset >= run->start && offset - run->start < out->given ? out->given - (offset - run->start)
									: 0;
	if (back && back <= run->kept.len) {
		n = back < request->size ? (size_t)back : request->size;
		request_data(request, buf_bytes(&run->kept) + run->kept.len - back, n);
		return;
	}
	output_read(run->job, 0, nonblock, request);
}

static unsigned run_poll(const struct file *file)
{
	const struct run *run = file->priv;

	return run ? output_poll(&run->job->out[0]) : POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM;
}

const struct stream_ops run_ops = {
	.release = run_release,
	.read = run_read,
	.write = run_write,
	.poll = run_poll,
};
