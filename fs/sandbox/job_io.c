/* SPDX-License-Identifier: MIT */
/*
 * job_io.c - stdin, stdout and stderr of a job
 *
 * Grants are absolute offsets (vm/agent/proto.h): the guest may send output up to `wanted`, and takes input
 * up to `max`. More is asked for when a quarter of the window has been read, so that a reader with a small
 * buffer does not cost a frame a read.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "fs/sandbox/job.h"
#include "fs/sandbox/sandbox.h"

/* ---- output */

void output_init(struct output *out)
{
	list_init(&out->waiting);
	list_init(&out->files);
	out->last = UINT64_MAX;
}

void output_release(struct output *out)
{
	buf_release(&out->data);
}

void output_want(struct job *job, unsigned stream)
{
	struct output *out = &job->out[stream];
	const uint64_t wanted = out->at + STREAM_WINDOW - out->data.len;

	if (!out->readers || out->eof || job->obj.gone || !job->id || !job->sb->agent ||
	    out->data.len > STREAM_WINDOW || wanted < out->wanted + STREAM_WINDOW / 4)
		return;
	out->wanted = wanted;
	agent_job_want(job->sb->agent, job->id, (int)stream + 1, wanted);
}

void output_open(struct job *job, unsigned stream)
{
	job->out[stream].readers++;
	output_want(job, stream);
}

void output_close(struct job *job, unsigned stream)
{
	job->out[stream].readers--;
}

static void keep(struct buf *kept, const uint8_t *data, size_t n)
{
	buf_add(kept, data, n);
	if (kept->len > KEPT_MAX)
		buf_consume(kept, kept->len - KEPT_MAX);
}

/* Answer who waits, as far as there is something to answer with. */
static void serve(struct output *out)
{
	struct request *request;
	size_t n;

	while ((out->data.len || out->eof) && (request = list_first(&out->waiting, struct request, link))) {
		n = out->data.len < request->size ? out->data.len : request->size;
		if (out->kept)
			keep(out->kept, buf_bytes(&out->data), n);
		out->given += n;
		request_data(request, n ? buf_bytes(&out->data) : NULL, n);
		buf_consume(&out->data, n);
	}
}

void output_add(struct output *out, const void *data, size_t n)
{
	/* More than was ever granted: a guest that does not keep the protocol loses its own output. */
	if (out->eof || out->data.len + n > 2 * STREAM_WINDOW)
		return;
	if (n > out->last - out->at)
		n = (size_t)(out->last - out->at);
	buf_add(&out->data, data, n);
	out->at += n;
	out->eof = out->at >= out->last;
	serve(out);
	files_wake(&out->files);
}

void output_end(struct output *out)
{
	out->eof = true;
	serve(out);
	files_wake(&out->files);
}

void output_limit(struct job *job, unsigned stream, uint64_t offset)
{
	struct output *out = &job->out[stream];

	out->last = offset < out->at ? out->at : offset;
	if (out->at >= out->last)
		output_end(out);
	else
		output_want(job, stream);
}

void output_read(struct job *job, unsigned stream, bool nonblock, struct request *request)
{
	struct output *out = &job->out[stream];

	if (nonblock && !out->data.len && !out->eof) {
		request_err(request, -EAGAIN);
		return;
	}
	list_add(&out->waiting, &request->link);
	serve(out);
	output_want(job, stream);
}

unsigned output_poll(const struct output *out)
{
	if (out->data.len)
		return POLLIN | POLLRDNORM;
	return out->eof ? POLLIN | POLLRDNORM | POLLHUP : 0;
}

/* ---- input */

void input_init(struct input *in)
{
	list_init(&in->waiting);
	list_init(&in->files);
}

void input_release(struct input *in)
{
	buf_release(&in->data);
}

static void input_wake(struct job *job)
{
	files_wake(&job->in.files);
	if (job->nameless) /* one file for both ways: it is among the readers */
		files_wake(&job->out[0].files);
}

/* A writer hears that nobody reads, and why. */
static void refuse(struct job *job, struct request *request)
{
	struct err err;

	/* Of a connection it is what its other end has done. */
	if (!job->nameless) {
		err_set(&err, -EPIPE, "stdin of exec/%s: %s", job->obj.name, job->in.broken);
		object_report(&job->obj, &err);
	}
	request_err(request, -EPIPE);
}

void input_break(struct input *in, const char *why)
{
	struct request *request;

	if (!in->broken)
		in->broken = why;
	buf_clear(&in->data);
	while ((request = list_first(&in->waiting, struct request, link)))
		refuse(container_of(in, struct job, in), request);
	input_wake(container_of(in, struct job, in));
}

/* Take from writers what there is room for. */
static void fill(struct input *in)
{
	struct request *request;
	size_t n;

	while (in->data.len < STDIN_BUFFER && (request = list_first(&in->waiting, struct request, link))) {
		n = request->size - request->partial;
		if (n > STDIN_BUFFER - in->data.len)
			n = STDIN_BUFFER - in->data.len;
		buf_add(&in->data, (const char *)request->data + request->partial, n);
		request->partial += n;
		if (request->partial == request->size)
			request_written(request);
	}
}

void input_pump(struct job *job)
{
	struct input *in = &job->in;
	size_t n;

	if (in->broken)
		return;
	fill(in);
	while (in->data.len && job->id && job->sb->agent && in->at < in->max) {
		n = in->data.len < PROTO_DATA_MAX ? in->data.len : PROTO_DATA_MAX;
		if (n > in->max - in->at)
			n = in->max - in->at;
		agent_job_stdin(job->sb->agent, job->id, buf_bytes(&in->data), n);
		buf_consume(&in->data, n);
		in->at += n;
		fill(in);
	}
	if (in->eof && !in->eof_sent && !in->data.len && job->id && job->sb->agent) {
		in->eof_sent = true;
		agent_job_stdin_eof(job->sb->agent, job->id);
		/* Who opens it again finds nobody that reads. */
		input_break(in, "its end was given already, by the last writer's close or the verb eof");
	}
	if (in->data.len < STDIN_BUFFER)
		input_wake(job);
}

static int stdin_open(struct file *file, int flags)
{
	struct input *in = &job_of(file->obj)->in;

	if ((flags & O_ACCMODE) == O_RDONLY)
		return -EINVAL;
	list_add(&in->files, &file->link);
	in->writers++;
	return 0;
}

/* The rule of a FIFO: when the last writer closes, the command reads the end. Before the start it is none,
 * for another may open it still. */
static void stdin_release(struct file *file)
{
	struct job *job = job_of(file->obj);

	if (--job->in.writers || job->obj.gone || job->phase == JOB_PENDING)
		return;
	job->in.eof = true;
	input_pump(job);
}

void input_write(struct job *job, const char *data, bool nonblock, struct request *request)
{
	struct input *in = &job->in;

	if (in->broken) {
		refuse(job, request);
		return;
	}
	if (nonblock) {
		if (in->data.len >= STDIN_BUFFER) {
			request_err(request, -EAGAIN);
			return;
		}
		if (request->size > STDIN_BUFFER - in->data.len)
			request->size = STDIN_BUFFER - in->data.len;
	}
	request->data = malloc(request->size);
	if (!request->data) {
		request_err(request, -ENOMEM);
		return;
	}
	memcpy(request->data, data, request->size);
	list_add(&in->waiting, &request->link);
	input_pump(job);
}

static void stdin_write(struct file *file, const char *data, bool nonblock, struct request *request)
{
	input_write(job_of(file->obj), data, nonblock, request);
}

unsigned input_poll(const struct input *in)
{
	if (in->broken)
		return POLLOUT | POLLWRNORM | POLLERR;
	return in->data.len < STDIN_BUFFER ? POLLOUT | POLLWRNORM : 0;
}

static unsigned stdin_poll(const struct file *file)
{
	return input_poll(&job_of(file->obj)->in);
}

const struct stream_ops stdin_ops = {
	.open = stdin_open,
	.release = stdin_release,
	.write = stdin_write,
	.poll = stdin_poll,
};

/* ---- the files stdout and stderr */

static unsigned stream_of(const struct file *file)
{
	return file->entry->stream == &stderr_ops;
}

static int out_open(struct file *file, int flags)
{
	struct job *job = job_of(file->obj);

	(void)flags;
	list_add(&job->out[stream_of(file)].files, &file->link);
	output_open(job, stream_of(file));
	return 0;
}

static void out_release(struct file *file)
{
	output_close(job_of(file->obj), stream_of(file));
}

static void out_read(struct file *file, uint64_t offset, bool nonblock, struct request *request)
{
	(void)offset;
	output_read(job_of(file->obj), stream_of(file), nonblock, request);
}

static unsigned out_poll(const struct file *file)
{
	return output_poll(&job_of(file->obj)->out[stream_of(file)]);
}

const struct stream_ops stdout_ops = {
	.open = out_open,
	.release = out_release,
	.read = out_read,
	.poll = out_poll,
};

/* The same functions; which stream it is, is told by the table. */
const struct stream_ops stderr_ops = {
	.open = out_open,
	.release = out_release,
	.read = out_read,
	.poll = out_poll,
};
