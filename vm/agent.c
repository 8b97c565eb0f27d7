/* SPDX-License-Identifier: MIT */
/*
 * agent.c - the host's end of the agent channel: jobs and files of one guest
 *
 * Frames go out through one buffer, written at once as far as the socket takes it and otherwise when it
 * drains. Between QUIESCE and the next ATTACH or UNQUIESCE nothing may be sent; what callers send meanwhile
 * is held back, encoded, and goes out afterwards with the generation that then holds.
 *
 * A callback may free the agent. Whoever calls one on the way through the received frames therefore leaves a
 * flag on its stack in agent->freed and looks at it before it touches the agent again.
 */
#include "vm/agent.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

#include "util/log.h"

enum {
	READ_BYTES = 64 * 1024,
	DRAINED = 256 * 1024, /* agent_on_drain's threshold */
	/* Of a frame's header (vm/guest/proto.h), for held frames */
	AT_GENERATION = 6,
	AT_LENGTH = 12,
};

/* One request whose answer is awaited. */
struct pending {
	bool active;
	struct timer timer;
	agent_done_fn done;
	void *arg;
};

struct agent_call {
	struct list link;
	struct agent *agent;
	uint32_t tag;
	struct timer timer;
	agent_fs_fn fn; /* NULL: cancelled; the tag stays taken until the reply */
	void *arg;
};

struct agent {
	struct loop *loop;
	int fd;
	struct watch *watch;
	bool want_out, hangup;
	const struct agent_events *events;
	void *owner;
	bool *freed;

	uint16_t generation;
	bool holding; /* between QUIESCE and ATTACH or UNQUIESCE */
	struct buf out, held;
	struct frame_parser parser;
	uint64_t dropped; /* frames that made no sense, or of an older generation */
	void (*on_drain)(void *owner);

	struct pending attach, quiesce, resize, list;
	uint32_t list_tag, next_tag;
	void (*list_each)(void *arg, const struct job_info *info);
	struct list calls;
};

static void set_events(struct agent *agent)
{
	uint32_t events = agent->hangup ? 0 : EPOLLIN;

	if (agent->want_out && !agent->hangup)
		events |= EPOLLOUT;
	watch_set(agent->watch, events);
}

/* Write what the socket takes. An error is not reported: the machine's end is the engine's to tell. */
static void flush(struct agent *agent)
{
	ssize_t n;
	bool want;

	while (agent->out.len) {
		n = write(agent->fd, buf_bytes(&agent->out), agent->out.len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			buf_clear(&agent->out);
		if (n <= 0)
			break;
		buf_consume(&agent->out, (size_t)n);
	}
	want = agent->out.len;
	if (want != agent->want_out) {
		agent->want_out = want;
		set_events(agent);
	}
}

static void send_frame(struct agent *agent, uint16_t type, uint32_t id, const void *payload, size_t len)
{
	struct buf *to = agent->holding ? &agent->held : &agent->out;

	frame_put(to, type, agent->generation, id, payload, len);
	if (to->failed) {
		/* Out of memory: a stream with a hole is worse than a broken one. */
		log_error("agent channel: out of memory, the channel is closed");
		agent->hangup = true;
		buf_clear(to);
		set_events(agent);
		return;
	}
	if (!agent->holding)
		flush(agent);
}

static void send_buf(struct agent *agent, uint16_t type, uint32_t id, struct buf *payload)
{
	send_frame(agent, type, id, buf_bytes(payload), payload->len);
	buf_release(payload);
}

/* Let go of what was held back, as frames of the present generation. */
static void release_held(struct agent *agent)
{
	const uint16_t generation = htole16(agent->generation);
	size_t at = 0;
	uint32_t len;

	agent->holding = false;
	while (at < agent->held.len) {
		memcpy(&len, buf_bytes(&agent->held) + at + AT_LENGTH, sizeof(len));
		memcpy(buf_bytes(&agent->held) + at + AT_GENERATION, &generation, sizeof(generation));
		at += PROTO_HEADER + le32toh(len) + PROTO_TRAILER;
	}
	buf_add(&agent->out, buf_bytes(&agent->held), agent->held.len);
	buf_clear(&agent->held);
	flush(agent);
}

/* ---- requests with one answer */

static void pending_end(struct pending *pending, const struct err *err)
{
	const agent_done_fn done = pending->done;

	if (!pending->active)
		return;
	pending->active = false;
	timer_stop(&pending->timer);
	done(pending->arg, err);
}

static void pending_timeout(void *arg)
{
	struct err err;

	err_set(&err, -ETIMEDOUT, "the guest's agent does not answer");
	pending_end(arg, &err);
}

static void pending_start(struct agent *agent, struct pending *pending, unsigned timeout_ms,
			  agent_done_fn done, void *arg)
{
	pending->active = true;
	pending->done = done;
	pending->arg = arg;
	timer_start(agent->loop, &pending->timer, (uint64_t)timeout_ms * 1000000, pending_timeout, pending);
}

/* An answer that begins with i32 errno, str reason. */
static void pending_answer(struct agent *agent, struct pending *pending, struct reader *r)
{
	struct err err = { 0 };
	const int32_t code = (int32_t)get_u32(r);
	char reason[ERR_TEXT_MAX];

	get_str(r, reason, sizeof(reason));
	if (r->bad) {
		agent->dropped++;
		return;
	}
	if (code)
		err_set(&err, code > 0 && code < 4096 ? -code : -EIO, "%s", reason);
	pending_end(pending, &err);
}

/* ---- file operations */

static void call_end(struct agent_call *call, int err, struct reader *results)
{
	const agent_fs_fn fn = call->fn;
	void *arg = call->arg;

	timer_stop(&call->timer);
	list_del(&call->link);
	free(call);
	if (fn)
		fn(arg, err, results);
}

static void call_timeout(void *arg)
{
	struct reader none = reader_init("", 0);

	call_end(arg, -ETIMEDOUT, &none);
}

static void fs_reply(struct agent *agent, const struct frame *frame, struct reader *r)
{
	const int32_t code = (int32_t)get_u32(r);
	struct agent_call *call;

	if (r->bad || code < 0 || code >= 4096) {
		agent->dropped++;
		return;
	}
	list_for_each (call, &agent->calls, link)
		if (call->tag == frame->id) {
			call_end(call, -code, r);
			return;
		}
	agent->dropped++;
}

struct agent_call *agent_fs(struct agent *agent, enum fs_op op, const struct buf *args, unsigned timeout_ms,
			    agent_fs_fn fn, void *arg)
{
	struct agent_call *call = calloc(1, sizeof(*call));
	struct buf payload = { 0 };

	if (!call)
		return NULL;
	call->agent = agent;
	call->tag = agent->next_tag++;
	call->fn = fn;
	call->arg = arg;
	list_add(&agent->calls, &call->link);
	timer_start(agent->loop, &call->timer, (uint64_t)timeout_ms * 1000000, call_timeout, call);
	buf_put_u8(&payload, (uint8_t)op);
	buf_add(&payload, buf_bytes(args), args->len);
	send_buf(agent, F_FS, call->tag, &payload);
	return call;
}

void agent_fs_cancel(struct agent_call *call)
{
	call->fn = NULL;
}

/* ---- what the guest says */

static void job_info(struct agent *agent, const struct frame *frame, struct reader *r)
{
	struct job_info info;

	if (!agent->list.active || frame->id != agent->list_tag || job_info_get(r, &info) < 0) {
		agent->dropped++;
		return;
	}
	agent->list_each(agent->list.arg, &info);
	job_spec_release(&info.spec);
}

static void job_frame(struct agent *agent, const struct frame *frame, struct reader *r)
{
	const struct agent_events *events = agent->events;
	char reason[ERR_TEXT_MAX];
	uint64_t offset;
	uint32_t code, pid;
	int32_t err;
	uint8_t how;

	switch (frame->type) {
	case F_JOB_STARTED:
		err = (int32_t)get_u32(r);
		get_str(r, reason, sizeof(reason));
		pid = get_u32(r);
		if (!r->bad && err >= 0 && err < 4096) {
			events->job_started(agent->owner, frame->id, -err, reason, pid);
			return;
		}
		break;
	case F_JOB_STDIN_MAX:
		offset = get_u64(r);
		if (!r->bad) {
			events->job_stdin_max(agent->owner, frame->id, offset);
			return;
		}
		break;
	case F_JOB_STDOUT:
	case F_JOB_STDERR:
		events->job_output(agent->owner, frame->id, frame->type == F_JOB_STDOUT ? 1 : 2,
				   frame->payload, frame->len);
		return;
	case F_JOB_EXIT:
		how = get_u8(r);
		code = get_u32(r);
		if (!r->bad && how <= 1) {
			events->job_exit(agent->owner, frame->id, how, code);
			return;
		}
		break;
	default:
		break;
	}
	agent->dropped++;
}

static void dispatch(struct agent *agent, const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	struct err ok = { 0 };

	/* READY is the first word of a guest that knows no generation yet. */
	if (frame->type == F_READY) {
		if (get_u32(&r) != PROTO_VERSION || r.bad)
			agent->dropped++;
		else
			agent->events->ready(agent->owner);
		return;
	}
	if (frame->generation != agent->generation) {
		agent->dropped++;
		return;
	}
	switch (frame->type) {
	case F_ATTACHED:
		pending_answer(agent, &agent->attach, &r);
		break;
	case F_QUIESCED:
		pending_end(&agent->quiesce, &ok);
		break;
	case F_RESIZED:
		pending_answer(agent, &agent->resize, &r);
		break;
	case F_JOB_INFO:
		job_info(agent, frame, &r);
		break;
	case F_JOB_LIST_END:
		if (frame->id == agent->list_tag)
			pending_end(&agent->list, &ok);
		break;
	case F_FS_REPLY:
		fs_reply(agent, frame, &r);
		break;
	case F_PONG:
		break;
	default:
		job_frame(agent, frame, &r);
	}
}

/* False: the agent was freed by a callback. */
static bool receive(struct agent *agent)
{
	static uint8_t bytes[READ_BYTES]; /* one thread, and nothing below reads into it again */
	struct frame frame;
	bool freed = false;
	ssize_t n;

	n = read(agent->fd, bytes, sizeof(bytes));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n <= 0 || frame_parser_feed(&agent->parser, bytes, (size_t)n) < 0) {
		/* The other end is gone or memory is: stop listening; the engine tells of the machine's end.
		 */
		agent->hangup = true;
		set_events(agent);
		return true;
	}
	agent->freed = &freed;
	while (!freed && frame_parser_next(&agent->parser, &frame) > 0)
		dispatch(agent, &frame);
	if (freed)
		return false;
	agent->freed = NULL;
	return true;
}

static void on_event(void *arg, uint32_t events)
{
	struct agent *agent = arg;
	size_t before;

	if (events & EPOLLOUT) {
		before = agent->out.len;
		flush(agent);
		if (agent->on_drain && before >= DRAINED && agent->out.len < DRAINED)
			agent->on_drain(agent->owner);
		return; /* on_drain may have freed us; level triggering brings the rest */
	}
	receive(agent);
}

/* ---- life */

struct agent *agent_new(struct loop *loop, int fd, const struct agent_events *events, void *owner)
{
	struct agent *agent = calloc(1, sizeof(*agent));

	if (!agent)
		return NULL;
	agent->loop = loop;
	agent->fd = fd;
	agent->events = events;
	agent->owner = owner;
	agent->next_tag = 1;
	list_init(&agent->calls);
	agent->watch = watch_new(loop, fd, EPOLLIN, on_event, agent);
	if (!agent->watch) {
		free(agent);
		return NULL;
	}
	return agent;
}

void agent_free(struct agent *agent)
{
	struct reader none = reader_init("", 0);
	struct agent_call *call;
	struct err err;

	if (!agent)
		return;
	if (agent->freed)
		*agent->freed = true;
	watch_free(agent->watch);
	err_set(&err, -EHOSTDOWN, "the guest is gone");
	pending_end(&agent->attach, &err);
	pending_end(&agent->quiesce, &err);
	pending_end(&agent->resize, &err);
	pending_end(&agent->list, &err);
	while ((call = list_first(&agent->calls, struct agent_call, link)))
		call_end(call, -EHOSTDOWN, &none);
	frame_parser_release(&agent->parser);
	buf_release(&agent->out);
	buf_release(&agent->held);
	free(agent);
}

void agent_attach(struct agent *agent, const struct identity *identity, unsigned timeout_ms,
		  agent_done_fn done, void *arg)
{
	uint8_t entropy[IDENTITY_ENTROPY], machine_id[IDENTITY_MACHINE_ID];
	struct buf payload = { 0 };
	uint32_t i, nenv = 0;

	while (identity->env && identity->env[nenv])
		nenv++;
	/* Neither call can fail or be short once the kernel's generator is seeded (getrandom(2)). */
	(void)!getrandom(entropy, sizeof(entropy), 0);
	(void)!getrandom(machine_id, sizeof(machine_id), 0);

	agent->generation = (uint16_t)identity->generation;
	agent->holding = false;
	if (identity->resync) {
		/* What is still here of the old stream is its cut end. */
		buf_clear(&agent->out);
		frame_parser_release(&agent->parser);
		memset(&agent->parser, 0, sizeof(agent->parser));
		if (buf_reserve(&agent->out, PROTO_RESYNC)) {
			memset(buf_bytes(&agent->out), 0, PROTO_RESYNC);
			buf_grow(&agent->out, PROTO_RESYNC);
		}
	}
	buf_put_u32(&payload, PROTO_VERSION);
	buf_put_u32(&payload, identity->generation);
	buf_put_u8(&payload, (uint8_t)identity->kind);
	buf_put_str(&payload, identity->name);
	buf_put_u64(&payload, now_real_ns());
	buf_put_bytes(&payload, entropy, sizeof(entropy));
	buf_put_bytes(&payload, machine_id, sizeof(machine_id));
	buf_put_u32(&payload, nenv);
	for (i = 0; i < nenv; i++)
		buf_put_str(&payload, identity->env[i]);
	pending_start(agent, &agent->attach, timeout_ms, done, arg);
	send_buf(agent, F_ATTACH, 0, &payload);
	explicit_bzero(entropy, sizeof(entropy));
	release_held(agent);
}

void agent_quiesce(struct agent *agent, unsigned timeout_ms, agent_done_fn done, void *arg)
{
	pending_start(agent, &agent->quiesce, timeout_ms, done, arg);
	send_frame(agent, F_QUIESCE, 0, NULL, 0);
	agent->holding = true;
}

void agent_unquiesce(struct agent *agent)
{
	agent->holding = false;
	send_frame(agent, F_UNQUIESCE, 0, NULL, 0);
	release_held(agent);
}

void agent_poweroff(struct agent *agent)
{
	send_frame(agent, F_POWEROFF, 0, NULL, 0);
}

/* ---- jobs */

void agent_job_start(struct agent *agent, uint32_t job, const struct job_spec *spec)
{
	struct buf payload = { 0 };

	job_spec_put(&payload, spec);
	send_buf(agent, F_JOB_START, job, &payload);
}

void agent_job_stdin(struct agent *agent, uint32_t job, const void *data, size_t n)
{
	const uint8_t *p = data;
	size_t part;

	for (; n; p += part, n -= part) {
		part = n < PROTO_DATA_MAX ? n : PROTO_DATA_MAX;
		send_frame(agent, F_JOB_STDIN, job, p, part);
	}
}

void agent_job_stdin_eof(struct agent *agent, uint32_t job)
{
	send_frame(agent, F_JOB_STDIN_EOF, job, NULL, 0);
}

void agent_job_want(struct agent *agent, uint32_t job, int stream, uint64_t offset)
{
	struct buf payload = { 0 };

	buf_put_u64(&payload, offset);
	send_buf(agent, stream == 1 ? F_JOB_STDOUT_MAX : F_JOB_STDERR_MAX, job, &payload);
}

void agent_job_kill(struct agent *agent, uint32_t job, uint32_t signal)
{
	struct buf payload = { 0 };

	buf_put_u32(&payload, signal);
	send_buf(agent, F_JOB_KILL, job, &payload);
}

void agent_job_resize(struct agent *agent, uint32_t job, uint16_t rows, uint16_t cols)
{
	struct buf payload = { 0 };

	buf_put_u16(&payload, rows);
	buf_put_u16(&payload, cols);
	send_buf(agent, F_JOB_RESIZE, job, &payload);
}

void agent_job_forget(struct agent *agent, uint32_t job)
{
	send_frame(agent, F_JOB_FORGET, job, NULL, 0);
}

void agent_job_list(struct agent *agent, void (*each)(void *arg, const struct job_info *info),
		    agent_done_fn done, void *arg)
{
	enum { LIST_TIMEOUT_MS = 30000 };

	agent->list_tag = agent->next_tag++;
	agent->list_each = each;
	pending_start(agent, &agent->list, LIST_TIMEOUT_MS, done, arg);
	send_frame(agent, F_JOB_LIST, agent->list_tag, NULL, 0);
}

void agent_resize(struct agent *agent, uint32_t cpus, uint64_t memory, unsigned timeout_ms,
		  agent_done_fn done, void *arg)
{
	struct buf payload = { 0 };

	buf_put_u32(&payload, cpus);
	buf_put_u64(&payload, memory);
	pending_start(agent, &agent->resize, timeout_ms, done, arg);
	send_buf(agent, F_RESIZE, 0, &payload);
}

size_t agent_backlog(const struct agent *agent)
{
	return agent->out.len + agent->held.len;
}

void agent_on_drain(struct agent *agent, void (*fn)(void *owner))
{
	agent->on_drain = fn;
}
