/* SPDX-License-Identifier: MIT */
/*
 * calls.c - what is asked of a guest and has an answer: its tag, its timer, its one end
 *
 * A guest that takes requests and answers none, and users who give up and ask again, make thousands: a call is
 * found by its tag in a table that grows with them, and whoever has to be told of a silence is in a list without
 * those that nobody waits for any more, that would wait longer, or that were told.
 */
#include <errno.h>
#include <stdlib.h>

#include "vm/agent/channel_priv.h"

/* ---- by tag */

void calls_init(struct agent *agent)
{
	list_init(&agent->calls);
	for (unsigned i = 0; i < ASKED_CLASSES; i++)
		list_init(&agent->asked[i]);
	agent->buckets = agent->few;
	agent->nbuckets = CALL_BUCKETS;
}

void calls_release(struct agent *agent)
{
	if (agent->buckets != agent->few)
		free(agent->buckets);
}

static struct agent_call **bucket_of(const struct agent *agent, uint32_t tag)
{
	return &agent->buckets[tag & (agent->nbuckets - 1)];
}

static void put(struct agent_call *call)
{
	struct agent_call **place = bucket_of(call->agent, call->tag);

	call->next = *place;
	call->place = place;
	if (call->next)
		call->next->place = &call->next;
	*place = call;
}

static void take(struct agent_call *call)
{
	if (call->place)
		*call->place = call->next;
	if (call->next)
		call->next->place = call->place;
}

/* Twice as many buckets. Without memory they stay, and are fuller. */
static void grow(struct agent *agent)
{
	const size_t n = agent->nbuckets * 2;
	struct agent_call **buckets = calloc(n, sizeof(struct agent_call *));
	struct agent_call *call;

	if (!buckets)
		return;
	calls_release(agent);
	agent->buckets = buckets;
	agent->nbuckets = n;
	list_for_each (call, &agent->calls, link)
		put(call);
}

void call_expect(struct agent_call *call, uint16_t answer, uint32_t tag)
{
	take(call);
	call->answer = answer;
	call->tag = tag;
	put(call);
}

static void forget(struct agent_call *call)
{
	list_del(&call->link);
	take(call);
	list_del(&call->asked);
	call->agent->ncalls--;
}

/* ---- its end */

/* One half of an introduction is in, or failed, which the first to say so says for both. */
static void introduced(struct agent *agent, const struct err *err)
{
	if (err->code || !--agent->introducing)
		pending_end(&agent->introduced, err);
}

void call_finish(struct agent_call *call, const struct err *err, struct reader *results)
{
	struct reader nothing = reader_init("", 0);
	const struct agent_call c = *call;

	timer_stop(&call->timer);
	forget(call);
	if (call >= c.agent->spare && call < c.agent->spare + SPARE_CALLS)
		call->used = false;
	else
		free(call);
	if (c.half)
		introduced(c.agent, err);
	else if (c.done)
		c.done(c.arg, err);
	else if (c.fs)
		c.fs(c.arg, err->code, results ? results : &nothing);
	else if (c.refused && c.agent->events->job_started)
		c.agent->events->job_started(c.agent->owner, c.tag, err->code, err->text, 0, EXIT_NOT_BEGUN);
}

/* By powers of two: a silence is told to classes as a whole, but for one. */
static unsigned class_of(unsigned timeout_ms)
{
	unsigned class = 0;

	while (class < ASKED_CLASSES - 1 && timeout_ms >> (class + 1))
		class ++;
	return class;
}

void call_has_caller(struct agent_call *call)
{
	list_add(&call->agent->asked[class_of(call->timeout_ms)], &call->asked);
}

void call_note_silence(const struct agent_call *silent, unsigned waited_ms)
{
	const unsigned last = class_of(waited_ms);
	struct agent *agent = silent->agent;
	struct agent_call *call, *next;
	unsigned class;

	if (agent->answered_ns >= silent->sent_ns || agent->holding)
		return;
	if (agent->silent_ms < waited_ms)
		agent->silent_ms = waited_ms;
	agent->retry_ns = now_mono_ns() + RETRY_MS * 1000000ull;
	/* Of those of the last class some may wait longer. */
	for (class = 0; class <= last; class ++)
		list_for_each_safe (call, next, &agent->asked[class], asked) {
			if (call == silent || call->timeout_ms > waited_ms)
				continue;
			call->doomed = true;
			list_del(&call->asked); /* once is enough */
			timer_start(agent->loop, &call->timer, 0, call_expired, call);
		}
}

void call_expired(void *arg)
{
	struct agent_call *call = arg;
	const struct err err = call->err;
	struct reader nothing = reader_init("", 0);
	const agent_fs_fn fs = call->fs;

	if (!fs || !call->answer) {
		call_finish(call, &err, NULL);
		return;
	}
	if (!call->doomed)
		call_note_silence(call, call->timeout_ms);
	/* It may still be answered, with a handle that is to be closed. */
	agent_fs_cancel(call);
	fs(call->arg, err.code, &nothing);
}

/* Ends with call->err, soon. */
void call_fail_soon(struct agent_call *call, int code, const char *text)
{
	call->answer = 0;
	err_set(&call->err, code, "%s", text);
	timer_start(call->agent->loop, &call->timer, 0, call_expired, call);
}

static struct agent_call *call_init(struct agent_call *call, struct agent *agent, uint16_t answer,
				    unsigned timeout_ms)
{
	call->agent = agent;
	list_init(&call->asked);
	if (agent->ncalls++ >= agent->nbuckets * 2)
		grow(agent);
	list_add(&agent->calls, &call->link);
	call_expect(call, answer, ++agent->last_tag);
	if (agent->lost) {
		call_fail_soon(call, -EHOSTDOWN, "the guest is gone");
	} else {
		err_set(&call->err, -ETIMEDOUT, "the guest's agent is silent");
		timer_start(agent->loop, &call->timer, timeout_ms * 1000000ull, call_expired, call);
	}
	return call;
}

struct agent_call *call_new(struct agent *agent, uint16_t answer, unsigned timeout_ms)
{
	struct agent_call *call = agent->freed ? NULL : calloc(1, sizeof(*call));

	return call ? call_init(call, agent, answer, timeout_ms) : NULL;
}

/* One that only says, soon, that memory is out. NULL: there are none left. */
struct agent_call *call_spare(struct agent *agent)
{
	for (struct agent_call *call = agent->spare; call < agent->spare + SPARE_CALLS; call++) {
		if (call->used)
			continue;
		*call = (struct agent_call){ .used = true };
		call_init(call, agent, 0, 0);
		call_fail_soon(call, -ENOMEM, "out of memory");
		return call;
	}
	return NULL;
}

/* NULL: it will say itself that it failed. */
struct agent_call *call_for(struct agent *agent, uint16_t answer, unsigned timeout_ms, done_fn done,
			    void *arg)
{
	const struct err err = { -ENOMEM, "out of memory" };
	struct agent_call *call = call_new(agent, answer, timeout_ms), *spare = NULL;

	if (call) {
		call->done = done;
		call->arg = arg;
		call->half = agent->corked;
		return call;
	}
	if (agent->freed)
		return NULL;
	spare = call_spare(agent);
	if (spare) {
		spare->done = done;
		spare->arg = arg;
		spare->half = agent->corked;
	} else if (agent->corked) {
		introduced(agent, &err);
	} else if (done) {
		done(arg, &err);
	}
	return NULL;
}

struct agent_call *call_find(struct agent *agent, uint16_t answer, uint32_t tag)
{
	struct agent_call *call;

	for (call = *bucket_of(agent, tag); call; call = call->next)
		if (call->answer == answer && call->tag == tag)
			return call;
	return NULL;
}
