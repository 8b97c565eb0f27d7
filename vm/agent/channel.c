/* SPDX-License-Identifier: MIT */
/*
 * channel.c - the host's end of the agent channel
 *
 * Frames are queued in one buffer and written as the guest takes them. Whatever has an answer is a struct
 * agent_call with a tag and a timer (calls.c). A call ends once, through call_finish(), whether by its answer, its timer or the end of the channel; one that fails at once ends by its
 * timer too, so that a callback never comes from inside the function that was called.
 *
 * Between QUIESCE and UNQUIESCE or ATTACH the guest hears nothing else. What callers send meanwhile is held
 * back, as frames, and follows with the generation that then holds.
 *
 * Callbacks may free the agent. Only receive_and_send() and end_channel() go on after one, and they look.
 *
 * When memory is out, a call that must end takes one of the agent's spare ones, and fails. A frame that nobody
 * waits for cannot be left out and the next sent, a stream would have a hole: the channel ends.
 */
#include "vm/agent/channel.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "util/log.h"
#include "vm/agent/channel_priv.h"

enum {
	DRAINED = 256 * 1024,
	READ_MAX = 64 * 1024,
	KEPT_MAX = 1 << 20, /* of an empty buffer */
	LATER_MS = 2,
};

/* ---- the end */

static void deferred_now(struct agent *agent)
{
	void (*const fn)(void *arg) = agent->deferred.fn;

	agent->deferred.fn = NULL;
	if (fn)
		fn(agent->deferred.arg);
}

static void channel_lose(struct agent *agent)
{
	const struct err err = { -EHOSTDOWN, "the guest is gone" };
	struct agent_call *call;

	agent->lost = true;
	deferred_now(agent);
	timer_stop(&agent->ending);
	timer_stop(&agent->later);
	watch_free(agent->watch);
	agent->watch = NULL;
	buf_clear(&agent->out);
	while ((call = list_first(&agent->calls, struct agent_call, link)) && !agent->freed)
		call_finish(call, &err, NULL);
}

void channel_destroy(struct agent *agent)
{
	if (agent->dropped || agent->in.skipped)
		log_debug("agent channel: %llu frames and %llu bytes were dropped",
			  (unsigned long long)agent->dropped, (unsigned long long)agent->in.skipped);
	frame_parser_release(&agent->in);
	record_clear(&agent->record);
	buf_release(&agent->out);
	buf_release(&agent->held);
	calls_release(agent);
	free(agent);
}

/* ---- sending */

void channel_write(struct agent *agent)
{
	ssize_t n;

	if (!agent->deferred.fn)
		timer_stop(&agent->later);
	while (agent->out.len) {
		n = write(agent->fd, buf_bytes(&agent->out), agent->out.len);
		if (n < 0 && errno == EINTR)
			continue;
		/* A broken channel is found out by the watch, outside of whoever called us. */
		if (n <= 0)
			break;
		buf_consume(&agent->out, (size_t)n);
	}
	if (!agent->out.len && agent->out.size > KEPT_MAX)
		buf_release(&agent->out);
	if (agent->writing != (agent->out.len > 0)) {
		agent->writing = agent->out.len > 0;
		watch_set(agent->watch, EPOLLIN | (agent->writing ? EPOLLOUT : 0));
	}
}

void agent_name(struct agent *agent, const char *name)
{
	snprintf(agent->name, sizeof(agent->name), "%s", name);
}

void channel_tell(const struct agent *agent, const char *way, uint16_t type, uint32_t id, size_t len)
{
	if (log_verbose())
		log_debug("%s: %s guest: %s %" PRIu32 ", %zu bytes", agent->name, way, frame_name(type), id,
			  len);
}

static bool is_control(uint16_t type)
{
	return type == F_ATTACH || type == F_QUIESCE || type == F_UNQUIESCE || type == F_POWEROFF ||
	       type == F_CLOCK || type == F_JOB_LIST; /* the last two are parts of an introduction */
}

int channel_send(struct agent *agent, uint16_t type, uint32_t id, const void *payload, size_t len)
{
	struct buf *to = agent->holding && !is_control(type) ? &agent->held : &agent->out;
	size_t before;

	deferred_now(agent);
	before = to->len;
	if (agent->lost || agent->freed)
		return -EHOSTDOWN;
	if (len > PROTO_PAYLOAD_MAX)
		return -E2BIG;
	frame_put(to, type, (uint16_t)agent->generation, id, payload, len);
	if (to->failed) {
		to->len = before;
		to->failed = false;
		return -ENOMEM;
	}
	channel_tell(agent, to == &agent->held ? "held for" : "to", type, id, len);
	if (agent->out.len >= DRAINED)
		agent->full = true;
	if (!agent->writing && !agent->corked)
		channel_write(agent);
	return 0;
}

/* Ends what waits; the caller's callers may be what waits. */
static void end_channel(void *arg)
{
	struct agent *agent = arg;

	agent->busy = true;
	channel_lose(agent);
	agent->busy = false;
	if (agent->freed)
		channel_destroy(agent);
}

void channel_end_soon(struct agent *agent)
{
	log_error("out of memory: the channel to a guest's agent ends");
	agent->lost = true;
	timer_start(agent->loop, &agent->ending, 0, end_channel, agent);
}

bool channel_send_or_end(struct agent *agent, uint16_t type, uint32_t id, const void *payload, size_t len)
{
	const int rc = channel_send(agent, type, id, payload, len);

	if (rc == -ENOMEM)
		channel_end_soon(agent);
	return !rc;
}

int channel_send_record(struct agent *agent, uint16_t type, uint32_t id, const struct buf *record)
{
	const uint8_t *p = buf_bytes(record);
	size_t left = record->len;
	int rc = 0;

	for (; left > PROTO_PAYLOAD_MAX && !rc; p += PROTO_PAYLOAD_MAX, left -= PROTO_PAYLOAD_MAX)
		rc = channel_send(agent, F_JOB_PART, id, p, PROTO_PAYLOAD_MAX);
	return rc ? rc : channel_send(agent, type, id, p, left);
}

void channel_release_held(struct agent *agent)
{
	struct frame_parser parser = { .buf = agent->held };
	struct frame frame;

	agent->holding = false;
	agent->held = (struct buf){ 0 };
	while (frame_parser_next(&parser, &frame))
		if (!channel_send_or_end(agent, frame.type, frame.id, frame.payload, frame.len))
			break;
	frame_parser_release(&parser);
	channel_piece_send(agent);
}

void channel_send_call(struct agent_call *call, uint16_t type, const struct buf *payload)
{
	const int rc = payload->failed
			       ? -ENOMEM
			       : channel_send(call->agent, type, call->tag, buf_bytes(payload), payload->len);

	if (rc && rc != -EHOSTDOWN) /* that end is already on its way */
		call_fail_soon(call, rc, rc == -E2BIG ? "too large for the guest's agent" : "out of memory");
}

static void write_now(void *arg)
{
	struct agent *agent = arg;

	deferred_now(agent);
	if (agent->watch && !agent->lost && !agent->writing)
		channel_write(agent);
}

/* A guest that is woken for it alone makes half a dozen system calls more. */
void channel_send_later(struct agent_call *call, uint16_t type, const struct buf *payload)
{
	struct agent *agent = call->agent;
	const bool corked = agent->corked, first = !agent->out.len;

	agent->corked = true;
	channel_send_call(call, type, payload);
	agent->corked = corked;
	if (first && agent->out.len)
		timer_start(agent->loop, &agent->later, LATER_MS * 1000000ull, write_now, agent);
}

void agent_before_next(struct agent *agent, void (*fn)(void *arg), void *arg)
{
	deferred_now(agent);
	agent->deferred.fn = fn;
	agent->deferred.arg = arg;
	timer_start(agent->loop, &agent->later, LATER_MS * 1000000ull, write_now, agent);
}

void channel_send_numbers(struct agent *agent, uint16_t type, uint32_t id, uint64_t v, unsigned size)
{
	const uint64_t bytes = htole64(v); /* the first of them are the smaller number */

	(void)channel_send_or_end(agent, type, id, &bytes, size);
}

/* False when the channel has ended. */
static bool receive(struct agent *agent)
{
	uint8_t bytes[READ_MAX];
	struct frame frame;
	ssize_t n = read(agent->fd, bytes, sizeof(bytes));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n <= 0)
		return false;
	if (frame_parser_feed(&agent->in, bytes, (size_t)n)) {
		log_error("out of memory: the channel to a guest's agent ends");
		return false;
	}
	while (!agent->freed && frame_parser_next(&agent->in, &frame))
		if (!channel_answer(agent, &frame))
			agent->dropped++;
	return true;
}

static void receive_and_send(void *arg, uint32_t events)
{
	struct agent *agent = arg;
	bool alive = true;

	agent->busy = true;
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		alive = receive(agent);
	if (!agent->freed && !alive)
		channel_lose(agent);
	if (!agent->freed && !agent->lost && events & EPOLLOUT)
		channel_write(agent);
	if (!agent->freed && agent->full && agent->out.len < DRAINED) {
		agent->full = false;
		if (agent->drain)
			agent->drain(agent->owner);
	}
	channel_piece_send(agent);
	agent->busy = false;
	if (agent->freed)
		channel_destroy(agent);
}

/* ---- the channel */

static struct agent *make(struct loop *loop, const struct agent_events *events, void *owner)
{
	struct agent *agent = calloc(1, sizeof(*agent));

	if (!agent)
		return NULL;
	agent->loop = loop;
	agent->fd = -1;
	agent->events = events;
	agent->owner = owner;
	calls_init(agent);
	return agent;
}

struct agent *agent_new(struct loop *loop, int fd, const struct agent_events *events, void *owner)
{
	struct agent *agent = make(loop, events, owner);

	if (agent && agent_rejoin(agent, fd)) {
		free(agent);
		return NULL;
	}
	return agent;
}

struct agent *agent_new_detached(struct loop *loop, const struct agent_events *events, void *owner)
{
	struct agent *agent = make(loop, events, owner);

	if (agent)
		agent->holding = true;
	return agent;
}

int agent_rejoin(struct agent *agent, int fd)
{
	agent->fd = fd;
	agent->watch = watch_new(agent->loop, fd, EPOLLIN, receive_and_send, agent);
	return agent->watch ? 0 : -ENOMEM;
}

void agent_detach(struct agent *agent)
{
	deferred_now(agent);
	watch_free(agent->watch);
	agent->watch = NULL;
	agent->fd = -1;
	timer_stop(&agent->ending);
	timer_stop(&agent->later);
	agent->lost = false;
	agent->writing = false;
	agent->holding = true;
	/* What a silent guest left untaken is cut off; whoever takes the channel up again says so (identity.resync). */
	buf_release(&agent->out);
	frame_parser_release(&agent->in);
	agent->in = (struct frame_parser){ 0 };
	record_clear(&agent->record);
}

void agent_release(struct agent *agent)
{
	channel_release_held(agent);
}

void agent_fail(struct agent *agent, const struct err *err)
{
	const bool busy = agent->busy;
	const struct err copy = *err;
	struct agent_call *call;

	buf_release(&agent->held);
	agent->busy = true; /* a callback may free it */
	while (!agent->freed && (call = list_first(&agent->calls, struct agent_call, link)))
		call_finish(call, &copy, NULL);
	agent->busy = busy;
	if (agent->freed && !busy)
		channel_destroy(agent);
}

void agent_free(struct agent *agent)
{
	const struct err err = { -EHOSTDOWN, "the guest is gone" };
	struct agent_call *call;

	if (!agent || agent->freed)
		return;
	agent->freed = true;
	deferred_now(agent);
	timer_stop(&agent->ending);
	timer_stop(&agent->later);
	/* Now, not when a callback returns: the number of the descriptor may be another's by then. */
	watch_free(agent->watch);
	agent->watch = NULL;
	while ((call = list_first(&agent->calls, struct agent_call, link)))
		call_finish(call, &err, NULL);
	if (!agent->busy)
		channel_destroy(agent);
}

bool agent_idle(const struct agent *agent)
{
	return list_empty(&agent->calls);
}

size_t agent_backlog(const struct agent *agent)
{
	return agent->out.len + agent->held.len;
}

void agent_on_drain(struct agent *agent, void (*fn)(void *owner))
{
	agent->drain = fn;
}
