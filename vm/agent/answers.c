/* SPDX-License-Identifier: MIT */
/* answers.c - what a guest says over its agent channel, checked before anybody hears it */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/log.h"
#include "vm/agent/channel_priv.h"

enum {
	ERRNO_LAST = EHWPOISON, /* the last one Linux has; a guest may send anything */
};

/* A guest that asks and takes no answers is not heard once it left so many bytes of them. */
static const size_t answers_max = 64 << 10;
/* How much longer than without hooks a capture waits, which have five seconds. */
static const uint64_t hooks_ns = 6000000000;

/* The guest's wall clock is wrong by less than this, but for a host that is busy for longer at each try. */
static const uint64_t clock_late_ns = 20000000;

static int errno_in(uint32_t code)
{
	return !code ? 0 : code <= ERRNO_LAST ? -(int)code : -EIO;
}

/* i32 errno, str reason. The reason will be shown as one line of a file. */
static void result_get(struct reader *r, struct err *err)
{
	const int code = errno_in(get_u32(r));
	size_t n;
	const uint8_t *text = get_bytes(r, &n);

	*err = (struct err){ 0 };
	if (r->bad) {
		err_set(err, -EPROTO, "the guest's answer is malformed");
		return;
	}
	if (!code)
		return;
	err_set(err, code, "%.*s", n < ERR_TEXT_MAX ? (int)n : ERR_TEXT_MAX - 1, (const char *)text);
	if (!err->text[0])
		err_sys(err, code, "the guest's agent");
}

/*
 * The clock is behind by as long as the time was on its way to the guest: on a busy host long enough to be
 * noticed. So the time is sent until an answer is quick, or patience ends.
 */
static void send_clock(struct agent_call *call)
{
	struct buf payload = { 0 };

	call_expect(call, F_CLOCKED, ++call->agent->last_tag);
	call->clocks--;
	call->sent_ns = now_mono_ns();
	buf_put_u64(&payload, now_real_ns());
	channel_send_call(call, F_CLOCK, &payload);
	buf_release(&payload);
}

static bool on_done(struct agent *agent, const struct frame *frame)
{
	/* ATTACHED needs no tag, its generation is one. */
	struct agent_call *call =
		call_find(agent, frame->type, frame->type == F_ATTACHED ? agent->generation : frame->id);
	struct reader r = reader_init(frame->payload, frame->len);
	struct err err = { 0 };

	if (!call)
		return false;
	if (frame->type == F_ATTACHED || frame->type == F_RESIZED)
		result_get(&r, &err);
	if (call->incomplete)
		err_set(&err, -ENOMEM, "out of memory");
	if (!err.code && call->clocks && now_mono_ns() - call->sent_ns > clock_late_ns)
		send_clock(call);
	else
		call_finish(call, &err, NULL);
	return true;
}

/* Hooks run before the guest is quiet. It says so once. */
static bool on_hooks(struct agent *agent, const struct frame *frame)
{
	struct agent_call *call = call_find(agent, F_QUIESCED, frame->id);

	if (!call || !call->hooks || call->hooks_run)
		return false;
	call->hooks_run = true;
	timer_start(agent->loop, &call->timer, hooks_ns, call_expired, call);
	return true;
}

/* Whoever only wants to pause it is not refused that. */
static bool on_quiesced(struct agent *agent, const struct frame *frame)
{
	struct agent_call *call = call_find(agent, F_QUIESCED, frame->id);
	struct reader r = reader_init(frame->payload, frame->len);
	struct err err = { 0 };

	if (!call)
		return false;
	if (call->hooks && frame->len)
		result_get(&r, &err);
	if (err.code) {
		err.code = -EBUSY;
		channel_release_held(agent);
	}
	call_finish(call, &err, NULL);
	return true;
}

static bool on_guest_ask(struct agent *agent, const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	const uint8_t verb = get_u8(&r);
	const uint32_t number = get_u32(&r);
	char name[PROTO_NAME_MAX + 1];

	get_str(&r, name, sizeof(name));
	if (r.bad || !guest_verb_name(verb) || agent_backlog(agent) > answers_max)
		return false;
	if (agent->events->guest_asked)
		agent->events->guest_asked(agent->owner, frame->id, (enum guest_verb)verb, number, name);
	return true;
}

static bool on_fs_reply(struct agent *agent, const struct frame *frame)
{
	struct agent_call *call = call_find(agent, F_FS_REPLY, frame->id);
	struct reader r = reader_init(frame->payload, frame->len);
	struct err err = { 0 };
	struct buf args = { 0 };
	uint32_t code;

	if (!call)
		return false;
	agent->answered_ns = now_mono_ns();
	agent->silent_ms = 0;
	code = get_u32(&r);
	err.code = errno_in(code);
	/* These are what this side says of a guest. */
	if (err.code == -ETIMEDOUT || err.code == -EHOSTDOWN || err.code == -ESTALE)
		err.code = -EIO;
	if (code == PROTO_STALE)
		err.code = -ESTALE;
	if (r.bad)
		err.code = -EPROTO;
	if (!call->fs && !err.code &&
	    (call->op == FS_OPEN || call->op == FS_CREATE || call->op == FS_OPENDIR)) {
		buf_put_u8(&args, FS_CLOSE);
		buf_put_u32(&args, get_u32(&r));
		if (!r.bad && !args.failed)
			(void)channel_send(agent, F_FS, ++agent->last_tag, buf_bytes(&args), args.len);
		buf_release(&args);
	}
	call_finish(call, &err, &r);
	return true;
}

/* Whoever asked keeps what comes: a list that is longer than any machine's ends here, and not well. */
static bool list_too_long(struct agent_call *call)
{
	const struct err err = { -EPROTO, "the guest lists more jobs than a machine may have" };

	if (call->jobs <= AGENT_JOBS_MAX && call->job_bytes <= AGENT_JOBS_BYTES)
		return false;
	record_clear(&call->agent->record);
	call_finish(call, &err, NULL);
	return true;
}

static bool on_job_info(struct agent *agent, const struct frame *frame)
{
	struct agent_call *call = call_find(agent, F_JOB_LIST_END, frame->id);
	struct job_info info;
	struct reader r;
	int rc;

	if (call) {
		call->jobs++;
		call->job_bytes += frame->len;
		if (list_too_long(call))
			return false;
	}
	rc = call ? record_end(&agent->record, frame, &r) : -EPROTO;
	if (!rc)
		rc = job_info_get(&r, &info);
	record_clear(&agent->record);
	if (rc) {
		if (call)
			call->incomplete |= rc == -ENOMEM;
		return false;
	}
	call->each(call->arg, &info);
	job_spec_release(&info.spec);
	return true;
}

static bool on_job_part(struct agent *agent, const struct frame *frame)
{
	struct agent_call *call = call_find(agent, F_JOB_LIST_END, frame->id);

	if (!call)
		return false;
	call->job_bytes += frame->len;
	if (list_too_long(call))
		return false;
	record_part(&agent->record, frame);
	return true;
}

static bool on_job_started(struct agent *agent, const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	struct err err;
	uint32_t pid;
	uint8_t shell;

	result_get(&r, &err);
	pid = get_u32(&r);
	shell = get_u8(&r);
	if (r.bad && !err.code)
		return false;
	if (r.bad || shell < EXIT_NOT_BEGUN || shell > EXIT_NOT_FOUND)
		shell = EXIT_NOT_BEGUN;
	if (agent->events->job_started)
		agent->events->job_started(agent->owner, frame->id, err.code, err.text, pid, shell);
	return true;
}

static bool on_stdin_max(struct agent *agent, const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	const uint64_t max = get_u64(&r);

	if (!r.bad && agent->events->job_stdin_max)
		agent->events->job_stdin_max(agent->owner, frame->id, max);
	return !r.bad;
}

static bool on_job_exit(struct agent *agent, const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	const uint8_t how = get_u8(&r);
	const uint32_t code = get_u32(&r);
	uint64_t written[2];

	written[0] = get_u64(&r);
	written[1] = get_u64(&r);
	if (r.bad || how > 1)
		return false;
	if (agent->events->job_exit)
		agent->events->job_exit(agent->owner, frame->id, how, code, written);
	return true;
}

static bool on_ready(struct agent *agent)
{
	/* The guest boots once. */
	if (agent->generation)
		return false;
	if (agent->events->ready)
		agent->events->ready(agent->owner);
	return true;
}

/* False: not what the protocol allows here. */
bool channel_answer(struct agent *agent, const struct frame *frame)
{
	channel_tell(agent, "from", frame->type, frame->id, frame->len);
	if (frame->generation != (uint16_t)agent->generation)
		return false;
	switch (frame->type) {
	case F_READY:
		return on_ready(agent);
	case F_ATTACHED:
	case F_RESIZED:
	case F_CLOCKED:
	case F_PONG:
	case F_JOB_LIST_END:
		return on_done(agent, frame);
	case F_HOOKS:
		return on_hooks(agent, frame);
	case F_QUIESCED:
		return on_quiesced(agent, frame);
	case F_GUEST_ASK:
		return on_guest_ask(agent, frame);
	case F_JOB_PART:
		return on_job_part(agent, frame);
	case F_FS_REPLY:
		return on_fs_reply(agent, frame);
	case F_JOB_INFO:
		return on_job_info(agent, frame);
	case F_JOB_STARTED:
		return on_job_started(agent, frame);
	case F_JOB_STDIN_MAX:
		return on_stdin_max(agent, frame);
	case F_JOB_STDOUT:
	case F_JOB_STDERR:
		if (agent->events->job_output)
			agent->events->job_output(agent->owner, frame->id,
						  frame->type == F_JOB_STDOUT ? 1 : 2, frame->payload,
						  frame->len);
		return true;
	case F_JOB_EXIT:
		return on_job_exit(agent, frame);
	case F_MODULES:
		return channel_piece_asked(agent, frame);
	default:
		return false;
	}
}
