/* SPDX-License-Identifier: MIT */
/*
 * run.c - the file `run`: each open is a channel for one command
 *
 * Write a command line, read its output, stdout and stderr in one, to the end. Closing it before kills the
 * command.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "fs/sandbox/job.h"
#include "fs/sandbox/sandbox.h"
#include "fs/tree/file.h"

static void run_release(struct file *file)
{
	struct job *job = file->priv;

	if (!job)
		return;
	list_del(&file->link);
	output_close(job, 0);
	if (!job->obj.gone)
		job_remove(job);
	object_unref(&job->obj);
}

static int start(struct file *file, const char *text, size_t n, struct err *err)
{
	struct sandbox *sb = sandbox_of(file->obj);
	struct job *job;
	int rc;

	if (file->priv)
		return err_set(err, -EBUSY,
			       "run: this open file has had its command; open it again for another");
	if (n > WRITE_MAX)
		return err_set(err, -E2BIG, "run: a command has at most %d bytes", WRITE_MAX);
	rc = sandbox_usable(sb, err);
	if (rc)
		return rc;
	if (text[n - 1] == '\n' && !memchr(text, 0, n))
		n--;
	if (!n)
		return err_set(err, -EINVAL, "run: the command is empty");
	job = job_new(sb, "", &sb->obj.owner);
	if (!job)
		return err_sys(err, -ENOMEM, "run");
	buf_add(&job->cmd, text, n);
	rc = job_start(job, true, err);
	if (rc) {
		job_remove(job);
		return rc;
	}
	object_ref(&job->obj);
	file->priv = job;
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
	struct job *job = file->priv;

	(void)offset;
	if (job && !job->obj.gone)
		output_read(job, 0, nonblock, request);
	else
		request_data(request, NULL, 0);
}

static unsigned run_poll(const struct file *file)
{
	const struct job *job = file->priv;

	return job ? output_poll(&job->out[0]) : POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM;
}

const struct stream_ops run_ops = {
	.release = run_release,
	.read = run_read,
	.write = run_write,
	.poll = run_poll,
};
