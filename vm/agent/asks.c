/* SPDX-License-Identifier: MIT */
/* asks.c - what the host asks of a guest: identity, pause, sizes, jobs, files */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "vm/agent/channel_priv.h"

/* It may be asked before the identity is confirmed, which hooks delay. */
static const unsigned list_timeout_ms = 60000;
/* How long a reply nobody waits for is still expected. */
static const unsigned orphan_timeout_ms = 60000;
/* A file request is refused while the guest leaves more than this untaken: some 1,000 writes of the kernel's. */
static const size_t backlog_max = 64u << 20;
/* And while it leaves more than this unanswered; closing is always asked. */
enum { CALLS_MAX = 16384 };

/* The identity as F_ATTACH has it; 0, or a negative errno. */
static int put_identity(struct buf *buf, const struct identity *identity)
{
	uint8_t entropy[IDENTITY_ENTROPY], machine_id[IDENTITY_MACHINE_ID];
	uint32_t n = 0, i;

	while (identity->env && identity->env[n])
		n++;
	if (n > IDENTITY_ENV_MAX)
		return -E2BIG;
	if (getrandom(entropy, sizeof(entropy), 0) != sizeof(entropy) ||
	    getrandom(machine_id, sizeof(machine_id), 0) != sizeof(machine_id))
		return -EIO;
	buf_put_u32(buf, PROTO_VERSION);
	buf_put_u32(buf, identity->generation);
	buf_put_u8(buf, identity->kind);
	buf_put_str(buf, identity->name);
	buf_put_u64(buf, now_real_ns());
	buf_put_bytes(buf, entropy, sizeof(entropy));
	buf_put_bytes(buf, machine_id, sizeof(machine_id));
	buf_put_u32(buf, n);
	for (i = 0; i < n; i++)
		buf_put_str(buf, identity->env[i]);
	buf_put_u32(buf, identity->copy);
	explicit_bzero(entropy, sizeof(entropy));
	return buf->failed ? -ENOMEM : 0;
}

void agent_attach(struct agent *agent, const struct identity *identity, unsigned timeout_ms, done_fn done,
		  void *arg)
{
	static const uint8_t zeros[PROTO_RESYNC];
	struct agent_call *call;
	struct buf payload = { 0 };
	int rc;

	agent->generation = identity->generation;
	record_clear(&agent->record);
	agent->piece.open = false;
	call = call_for(agent, F_ATTACHED, timeout_ms, done, arg);
	if (!call || agent->lost)
		return;
	call_expect(call, F_ATTACHED, identity->generation);
	call->sent_ns = now_mono_ns();
	if ((identity->kind != ATTACH_BOOT && identity->kind != ATTACH_REHEARSE) || identity->copied)
		call->clocks = CLOCKS;
	if (identity->resync)
		buf_add(&agent->out, zeros, sizeof(zeros));
	rc = agent->out.failed ? -ENOMEM : put_identity(&payload, identity);
	agent->out.failed = false;
	if (rc)
		call_fail_soon(call, rc, "the identity cannot be sent to the guest");
	else
		channel_send_call(call, F_ATTACH, &payload);
	if (!identity->hold)
		channel_release_held(agent);
	if (payload.data)
		explicit_bzero(payload.data, payload.size);
	buf_release(&payload);
}

void agent_quiesce(struct agent *agent, enum quiesce_why why, unsigned timeout_ms, done_fn done, void *arg)
{
	struct agent_call *call = call_for(agent, F_QUIESCED, timeout_ms, done, arg);
	struct buf payload = { 0 };

	if (call && !agent->lost) {
		call->hooks = why == QUIESCE_CAPTURE;
		buf_put_u8(&payload, (uint8_t)why);
		channel_send_call(call, F_QUIESCE, &payload);
		buf_release(&payload);
	}
	agent->holding = true;
}

void agent_unquiesce(struct agent *agent)
{
	channel_send_numbers(agent, F_UNQUIESCE, 0, now_real_ns(), 8);
	channel_release_held(agent);
}

void agent_ping(struct agent *agent, unsigned timeout_ms, done_fn done, void *arg)
{
	struct agent_call *call = call_for(agent, F_PONG, timeout_ms, done, arg);
	const struct buf nothing = { 0 };

	if (call && !agent->lost)
		channel_send_call(call, F_PING, &nothing);
}

static struct agent_call *first_control(struct agent *agent)
{
	struct agent_call *call;

	list_for_each (call, &agent->calls, link)
		if (call->answer == F_ATTACHED || call->answer == F_QUIESCED || call->answer == F_PONG)
			return call;
	return NULL;
}

void agent_give_up(struct agent *agent, const struct err *err)
{
	const bool busy = agent->busy;
	struct agent_call *call;

	agent->busy = true; /* a callback may free it */
	while (!agent->freed && (call = first_control(agent)))
		call_finish(call, err, NULL);
	agent->busy = busy;
	if (agent->freed && !busy)
		channel_destroy(agent);
}

void agent_poweroff(struct agent *agent)
{
	(void)channel_send_or_end(agent, F_POWEROFF, 0, NULL, 0);
}

void agent_guest_begun(struct agent *agent, uint32_t id)
{
	(void)channel_send_or_end(agent, F_GUEST_BEGUN, id, NULL, 0);
}

void agent_guest_done(struct agent *agent, uint32_t id, const struct err *err)
{
	struct buf payload = { 0 };

	buf_put_u32(&payload, (uint32_t)-err->code);
	buf_put_str(&payload, err->code ? err->text : "");
	if (payload.failed)
		channel_end_soon(agent);
	else
		(void)channel_send_or_end(agent, F_GUEST_DONE, id, buf_bytes(&payload), payload.len);
	buf_release(&payload);
}

void agent_resize(struct agent *agent, uint32_t cpus, uint64_t memory, unsigned timeout_ms, done_fn done,
		  void *arg)
{
	struct agent_call *call = call_for(agent, F_RESIZED, timeout_ms, done, arg);
	struct buf payload = { 0 };

	if (!call || agent->lost)
		return;
	buf_put_u32(&payload, cpus);
	buf_put_u64(&payload, memory);
	channel_send_call(call, F_RESIZE, &payload);
	buf_release(&payload);
}

/* ---- jobs */

void agent_job_start(struct agent *agent, uint32_t job, const struct job_spec *spec)
{
	struct buf payload = { 0 };
	struct agent_call *call;

	int rc = 0;

	job_spec_put(&payload, spec);
	if (!payload.failed && payload.len > PROTO_SPEC_MAX)
		rc = -E2BIG;
	else
		rc = payload.failed ? -ENOMEM : channel_send_record(agent, F_JOB_START, job, &payload);
	buf_release(&payload);
	if (rc != -E2BIG && rc != -ENOMEM)
		return;
	call = call_new(agent, 0, 0);
	if (call)
		call_fail_soon(call, rc,
			       rc == -E2BIG ? "the command and its environment are too large"
					    : "out of memory");
	else
		call = call_spare(agent);
	if (!call) {
		channel_end_soon(agent);
		return;
	}
	call->refused = true;
	call->tag = job;
}

void agent_job_stdin(struct agent *agent, uint32_t job, const void *data, size_t n)
{
	const uint8_t *p = data;
	size_t part;

	for (; n; p += part, n -= part) {
		part = n < PROTO_DATA_MAX ? n : PROTO_DATA_MAX;
		if (!channel_send_or_end(agent, F_JOB_STDIN, job, p, part))
			return;
	}
}

void agent_job_stdin_eof(struct agent *agent, uint32_t job)
{
	(void)channel_send_or_end(agent, F_JOB_STDIN_EOF, job, NULL, 0);
}

void agent_job_want(struct agent *agent, uint32_t job, int stream, uint64_t offset)
{
	channel_send_numbers(agent, stream == 1 ? F_JOB_STDOUT_MAX : F_JOB_STDERR_MAX, job, offset, 8);
}

void agent_job_kill(struct agent *agent, uint32_t job, uint32_t signal, unsigned timeout_ms, done_fn done,
		    void *arg)
{
	struct agent_call *call = call_for(agent, F_PONG, timeout_ms, done, arg);
	const struct buf nothing = { 0 };

	if (!call || agent->lost)
		return;
	/* The answer to what comes behind it tells that it was heard. */
	channel_send_numbers(agent, F_JOB_KILL, job, signal, 4);
	channel_send_call(call, F_PING, &nothing);
}

void agent_job_resize(struct agent *agent, uint32_t job, uint16_t rows, uint16_t cols)
{
	/* Two little-endian 16-bit numbers are one of 32. */
	channel_send_numbers(agent, F_JOB_RESIZE, job, rows | (uint32_t)cols << 16, 4);
}

void agent_job_forget(struct agent *agent, uint32_t job)
{
	(void)channel_send_or_end(agent, F_JOB_FORGET, job, NULL, 0);
}

void agent_job_list(struct agent *agent, void (*each)(void *arg, const struct job_info *info), done_fn done,
		    void *arg)
{
	struct agent_call *call = call_for(agent, F_JOB_LIST_END, list_timeout_ms, done, arg);
	const struct buf nothing = { 0 };

	if (!call || agent->lost)
		return;
	call->each = each;
	channel_send_call(call, F_JOB_LIST, &nothing);
}

void agent_introduce(struct agent *agent, const struct identity *identity, unsigned timeout_ms,
		     void (*each)(void *arg, const struct job_info *info), done_fn done, void *arg)
{
	const bool busy = agent->busy;

	agent->introduced = (struct pending){ done, arg };
	agent->introducing = 2;
	/* Without memory for it a half ends at once, and who hears of it may free the agent. */
	agent->busy = true;
	agent->corked = true;
	agent_attach(agent, identity, timeout_ms, NULL, NULL);
	if (!agent->freed)
		agent_job_list(agent, each, NULL, arg);
	agent->corked = false;
	agent->busy = busy;
	if (agent->freed && !busy)
		channel_destroy(agent);
	else if (!agent->writing && !agent->lost && !agent->freed)
		channel_write(agent);
}

/* ---- files */

struct agent_call *agent_fs(struct agent *agent, enum fs_op op, const struct buf *args, unsigned timeout_ms,
			    agent_fs_fn fn, void *arg)
{
	const uint64_t now = now_mono_ns();
	const bool doubted = timeout_ms <= agent->silent_ms;
	struct agent_call *call;
	struct buf payload = { 0 };

	call = call_new(agent, F_FS_REPLY, doubted && timeout_ms > RETRY_MS ? RETRY_MS : timeout_ms);
	if (!call)
		return NULL;
	call->fs = fn;
	call->op = op;
	call->arg = arg;
	call->sent_ns = now;
	call->timeout_ms = timeout_ms;
	if (fn)
		call_has_caller(call);
	if (agent->lost)
		return call;
	if ((doubted && now < agent->retry_ns && fn) || (agent->ncalls > CALLS_MAX && fn) ||
	    agent_backlog(agent) > backlog_max) {
		call_fail_soon(call, -ETIMEDOUT, "the guest's agent is silent");
		return call;
	}
	if (doubted && fn)
		agent->retry_ns = now + RETRY_MS * 1000000ull;
	buf_put_u8(&payload, op);
	buf_add(&payload, buf_bytes(args), args->len);
	if (op == FS_CLOSE && !fn)
		channel_send_later(call, F_FS, &payload);
	else
		channel_send_call(call, F_FS, &payload);
	buf_release(&payload);
	return call;
}

void agent_cork(struct agent *agent)
{
	agent->corked = true;
}

void agent_uncork(struct agent *agent)
{
	agent->corked = false;
	if (agent->out.len && !agent->writing && !agent->lost && !agent->freed)
		channel_write(agent);
}

void agent_fs_cancel(struct agent_call *call)
{
	/* Its reply may bring a handle that is to be closed; until then it waits without a caller. */
	call->fs = NULL;
	list_del(&call->asked);
	if (call->answer)
		timer_start(call->agent->loop, &call->timer, orphan_timeout_ms * 1000000ull, call_expired,
			    call);
}

void agent_fs_give_up(struct agent_call *call, unsigned waited_ms)
{
	call_note_silence(call, waited_ms);
	agent_fs_cancel(call);
}

bool agent_silent(const struct agent *agent)
{
	return agent->silent_ms;
}
