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

#include "fs/guest/guest_names.h"
#include "fs/sandbox/admission.h"
#include "fs/sandbox/job.h"
#include "fs/sandbox/sandbox.h"

/* ---- how much there is of them */

static size_t output_size(const struct output *out)
{
	const uint64_t ahead = out->eof || out->taken < out->at ? 0 : out->taken - out->at;

	return out->data.len + (size_t)ahead + (out->kept ? out->kept->len : 0);
}

void streams_count(struct job *job)
{
	size_t now;

	if (job->obj.gone && !job->streamed)
		return;
	now = job->obj.gone ? 0 : output_size(&job->out[0]) + output_size(&job->out[1]) + job->in.data.len;
	job->sb->streams += now - job->streamed;
	job->streamed = now;
	sandbox_count(job->sb);
}

/* How much of a stream there may be ahead of who takes it, at most `most`: less the less room there is. */
static size_t ahead(const struct job *job, size_t most)
{
	const uint64_t room = job->obj.gone ? 0 : admit_streams(job->sb) / 8;

	if (room < STREAM_LEAST)
		return STREAM_LEAST;
	return room < most ? (size_t)room : most;
}

/* ---- output */

void output_init(struct output *out, struct job *job)
{
	out->job = job;
	if (!job->nameless)
		out->kept = &out->again;
	list_init(&out->waiting);
	list_init(&out->files);
	out->last = UINT64_MAX;
}

void output_release(struct output *out)
{
	buf_release(&out->data);
	buf_release(&out->again);
}

/* What a guest that is stored is told by and by must not be lost where it cannot be brought back: it waits here. */
static bool reachable(const struct job *job)
{
	return job->sb->agent && !job->sb->life.asleep;
}

void output_want(struct job *job, unsigned stream)
{
	struct output *out = &job->out[stream];
	const size_t window = ahead(job, STREAM_WINDOW);
	const uint64_t wanted = out->at + window - out->data.len;

	if (!out->readers || out->eof || job->obj.gone || !job->id || !reachable(job) ||
	    out->data.len > window || wanted < out->wanted + window / 4)
		return;
	out->wanted = wanted;
	if (out->taken < wanted)
		out->taken = wanted;
	streams_count(job);
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

void output_forget(struct output *out)
{
	if (!out->again.len)
		return;
	list_del(&out->link);
	out->job->sb->outputs_kept -= out->again.len;
	buf_release(&out->again);
	streams_count(out->job);
}

static void keep(struct output *out, const uint8_t *data, size_t n)
{
	struct sandbox *sb = out->job->sb;
	struct buf *kept = out->kept;
	const size_t before = kept->len, most = ahead(out->job, KEPT_MAX);
	struct output *oldest;

	buf_add(kept, data, n);
	if (kept->failed) /* a text with a hole is none */
		buf_release(kept);
	if (kept->len > most)
		buf_consume(kept, kept->len - most);
	if (kept != &out->again)
		return;
	if (before)
		list_del(&out->link);
	if (kept->len)
		list_add(&sb->outputs, &out->link);
	sb->outputs_kept += kept->len - before;
	while (sb->outputs_kept > JOBS_KEPT_MAX && (oldest = list_first(&sb->outputs, struct output, link)))
		output_forget(oldest);
}

/* Answer who waits, as far as there is something to answer with. */
static void serve(struct output *out)
{
	struct request *request;
	size_t n;

	while ((out->data.len || out->eof) && (request = list_first(&out->waiting, struct request, link))) {
		n = out->data.len < request->size ? out->data.len : request->size;
		if (!n && out->lost) {
			request_err(request, -ENOMEM);
			continue;
		}
		if (out->kept && n)
			keep(out, buf_bytes(&out->data), n);
		out->given += n;
		out->job->sb->life.outdated |= n > 0;
		request_data(request, n ? buf_bytes(&out->data) : NULL, n);
		buf_consume(&out->data, n);
	}
	streams_count(out->job);
}

/* What was received before is read, then its reader hears that this is not all. */
static void lose(struct output *out)
{
	struct job *job = out->job;
	struct err err;

	out->data.failed = false;
	out->lost = out->eof = true;
	err_set(&err, -ENOMEM, "%s%s: output was lost, the daemon has no memory for it",
		job->nameless ? "a command" : "exec/", job->obj.name);
	object_report(job->nameless ? &job->sb->obj : &job->obj, &err);
}

void output_add(struct output *out, const void *data, size_t n)
{
	/* More than was granted: a guest that does not keep the protocol loses its own output. */
	if (out->eof || out->at >= out->taken)
		return;
	if (n > out->taken - out->at)
		n = (size_t)(out->taken - out->at);
	if (n > out->last - out->at)
		n = (size_t)(out->last - out->at);
	buf_add(&out->data, data, n);
	if (out->data.failed) {
		lose(out);
	} else {
		out->at += n;
		out->eof = out->at >= out->last;
	}
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
	if (!list_empty(&out->waiting))
		job_wake(job);
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
	streams_count(container_of(in, struct job, in));
	while ((request = list_first(&in->waiting, struct request, link)))
		refuse(container_of(in, struct job, in), request);
	input_wake(container_of(in, struct job, in));
}

static size_t input_room(const struct input *in)
{
	const size_t most = ahead(container_of(in, const struct job, in), STDIN_BUFFER);

	return in->data.len < most ? most - in->data.len : 0;
}

/* Take from writers what there is room for. */
static void fill(struct input *in)
{
	struct request *request;
	size_t n, room;

	while ((room = input_room(in)) && (request = list_first(&in->waiting, struct request, link))) {
		n = request->size - request->partial;
		if (n > room)
			n = room;
		buf_add(&in->data, (const char *)request->data + request->partial, n);
		if (in->data.failed) {
			in->data.failed = false;
			if (!request->partial) {
				request_err(request, -ENOMEM);
				continue;
			}
			request->size = request->partial; /* it was given that much */
		} else {
			request->partial += n;
		}
		if (request->partial == request->size)
			request_written(request);
		streams_count(container_of(in, struct job, in));
	}
}

void input_pump(struct job *job)
{
	struct input *in = &job->in;
	size_t n;

	if (in->broken)
		return;
	fill(in);
	while (in->data.len && job->id && reachable(job) && in->at < in->max) {
		n = in->data.len < PROTO_DATA_MAX ? in->data.len : PROTO_DATA_MAX;
		if (n > in->max - in->at)
			n = in->max - in->at;
		guestfs_let_go(&job->sb->files);
		agent_job_stdin(job->sb->agent, job->id, buf_bytes(&in->data), n);
		buf_consume(&in->data, n);
		in->at += n;
		fill(in);
	}
	if (in->eof && !in->eof_sent && !in->data.len && job->id && reachable(job)) {
		in->eof_sent = true;
		agent_job_stdin_eof(job->sb->agent, job->id);
		/* Who opens it again finds nobody that reads. */
		input_break(in, "its end was given already, by the last writer's close or the verb eof");
	}
	streams_count(job);
	if (input_room(in))
		input_wake(job);
}

void input_end(struct job *job)
{
	struct sandbox *sb = job->sb;

	job->in.eof = true;
	input_pump(job);
	if (!input_end_waits(&job->in))
		return;
	/* The next daemon is to tell the guest, if this one does not. */
	if (sb->state == SANDBOX_SUSPENDED)
		life_setting_changed(sb);
	else
		sb->life.outdated = true;
}

bool input_end_waits(const struct input *in)
{
	return in->eof && !in->eof_sent && !in->broken;
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
	input_end(job);
}

void input_write(struct job *job, const char *data, bool nonblock, struct request *request)
{
	struct input *in = &job->in;
	struct err err;
	size_t room;

	if (in->broken) {
		refuse(job, request);
		return;
	}
	if (nonblock) {
		room = input_room(in);
		if (!room) {
			request_err(request, -EAGAIN);
			return;
		}
		if (request->size > room)
			request->size = room;
	}
	if (request_keep(request, data, &err)) {
		object_report(&job->obj, &err);
		request_err(request, err.code);
		return;
	}
	list_add(&in->waiting, &request->link);
	job_wake(job);
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
	return input_room(in) ? POLLOUT | POLLWRNORM : 0;
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

/* Of a file that was opened when all had been read: how much of what is kept it has read. */
struct again {
	size_t at;
};

static int out_open(struct file *file, int flags)
{
	struct job *job = job_of(file->obj);
	struct output *out = &job->out[stream_of(file)];

	(void)flags;
	if (out->eof && !out->data.len && out->again.len) {
		file->priv = calloc(1, sizeof(struct again));
		if (!file->priv)
			return -ENOMEM;
	}
	list_add(&out->files, &file->link);
	output_open(job, stream_of(file));
	return 0;
}

static void out_release(struct file *file)
{
	free(file->priv);
	output_close(job_of(file->obj), stream_of(file));
}

static void read_again(const struct buf *kept, struct again *again, struct request *request)
{
	/* It may have been forgotten meanwhile. */
	size_t n = again->at < kept->len ? kept->len - again->at : 0;
	const uint8_t *data = n ? buf_bytes(kept) + again->at : NULL;

	n = n < request->size ? n : request->size;
	again->at += n;
	request_data(request, data, n);
}

static void out_read(struct file *file, uint64_t offset, bool nonblock, struct request *request)
{
	struct job *job = job_of(file->obj);

	(void)offset;
	if (file->priv)
		read_again(&job->out[stream_of(file)].again, file->priv, request);
	else
		output_read(job, stream_of(file), nonblock, request);
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
