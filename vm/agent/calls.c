/* SPDX-License-Identifier: MIT */
/* calls.c - what is asked of a guest and has an answer: its tag, its timer, its one end */
#include <errno.h>
#include <stdlib.h>

#include "vm/agent/channel_priv.h"

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
	list_del(&call->link);
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

void call_note_silence(const struct agent_call *silent, unsigned waited_ms)
{
	struct agent *agent = silent->agent;
	struct agent_call *call;

	if (agent->answered_ns >= silent->sent_ns || agent->holding)
		return;
	if (agent->silent_ms < waited_ms)
		agent->silent_ms = waited_ms;
	agent->retry_ns = now_mono_ns() + RETRY_MS * 1000000ull;
	list_for_each (call, &agent->calls, link)
		if (call != silent && call->fs && call->answer && call->timeout_ms <= waited_ms)
			timer_start(agent->loop, &call->timer, 0, call_expired, call);
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
	call->answer = answer;
	call->tag = ++agent->last_tag;
	list_add(&agent->calls, &call->link);
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

	list_for_each (call, &agent->calls, link)
		if (call->answer == answer && call->tag == tag)
			return call;
	return NULL;
}
