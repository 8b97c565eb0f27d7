/* SPDX-License-Identifier: MIT */
/*
 * channel.c - the host's end of the agent channel
 *
 * Frames are queued in one buffer and written as the guest takes them. Whatever has an answer is a struct
 * agent_call with a tag and a timer, in one list: tens are under way at a time. A call ends once, through
 * finish(), whether by its answer, its timer or the end of the channel; one that fails at once ends by its
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
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

#include "util/log.h"
#include "util/pending.h"

enum {
	DRAINED = 256 * 1024,
	READ_MAX = 64 * 1024,
	ERRNO_LAST = EHWPOISON, /* the last one Linux has; a guest may send anything */
};

/* It may be asked before the identity is confirmed, which hooks delay. */
static const unsigned list_timeout_ms = 60000;
/* The guest's wall clock is wrong by less than this, but for a host that is busy for longer at each try. */
static const uint64_t clock_late_ns = 20000000;
enum { CLOCKS = 8 };
/* More than are ever under way at a time of those that have a done_fn. */
enum { SPARE_CALLS = 8 };
/* How long a reply nobody waits for is still expected. */
static const unsigned orphan_timeout_ms = 60000;
/* A guest that was silent is asked this often, and waited for so long, until it answers. */
static const unsigned retry_ms = 1000;
/* A file request is refused while the guest leaves more than this untaken: some 1,000 writes of the kernel's. */
static const size_t backlog_max = 64u << 20;

struct agent_call {
	struct list link;
	struct agent *agent;
	struct timer timer;
	uint16_t answer; /* the frame type that ends it; 0: none, it failed at once */
	uint32_t tag;
	struct err err;      /* how it ends when its timer does it */
	uint64_t sent_ns;    /* ATTACH, and then F_CLOCK: when it went out; F_FS: when it was asked */
	unsigned timeout_ms; /* of F_FS */
	unsigned clocks;     /* how often F_CLOCK may still be sent */
	unsigned jobs;       /* of a list: how many came, */
	size_t job_bytes;    /* and their records' bytes */

	done_fn done;
	agent_fs_fn fs;
	enum fs_op op;
	void (*each)(void *arg, const struct job_info *info);
	bool half;       /* of an introduction: agent->introduced is called when both are in */
	bool used;       /* of a spare one */
	bool incomplete; /* each was not told of all, for lack of memory */
	bool refused;    /* a job, `tag`, that is too large to send */
	void *arg;
};

struct agent {
	char name[64]; /* for the log */
	struct loop *loop;
	struct watch *watch;
	int fd;
	const struct agent_events *events;
	void *owner;
	struct frame_parser in;
	struct record record; /* a job_info that comes in parts */
	struct buf out;
	struct buf held;           /* while `holding` */
	bool holding;              /* the guest is quiesced */
	bool writing;              /* the watch waits for room */
	bool corked;               /* more is to come before any of it is written */
	struct pending introduced; /* of agent_introduce */
	unsigned introducing;      /* answers it waits for */
	uint32_t generation;
	uint32_t last_tag;
	struct list calls;
	/*
	 * File requests. silent_ms: somebody waited so long in vain, and no request was answered since; who
	 * would not wait longer is refused at once, but for one now and then.
	 */
	unsigned silent_ms;
	uint64_t retry_ns;    /* when the next may be sent all the same */
	uint64_t answered_ns; /* when the last was answered */
	struct agent_call spare[SPARE_CALLS];
	struct timer ending;
	uint64_t dropped;
	bool lost;
	bool busy, freed; /* within receive_and_send, which then frees it */
	bool full;
	void (*drain)(void *owner);
};

/* ---- calls */

static void call_expired(void *arg);

/* One half of an introduction is in, or failed, which the first to say so says for both. */
static void introduced(struct agent *agent, const struct err *err)
{
	if (err->code || !--agent->introducing)
		pending_end(&agent->introduced, err);
}

static void finish(struct agent_call *call, const struct err *err, struct reader *results)
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

/* A file request was waited for in vain. Others that would not wait longer end too. */
static void note_silence(const struct agent_call *silent, unsigned waited_ms)
{
	struct agent *agent = silent->agent;
	struct agent_call *call;

	if (agent->answered_ns >= silent->sent_ns || agent->holding)
		return;
	if (agent->silent_ms < waited_ms)
		agent->silent_ms = waited_ms;
	agent->retry_ns = now_mono_ns() + retry_ms * 1000000ull;
	list_for_each (call, &agent->calls, link)
		if (call != silent && call->fs && call->answer && call->timeout_ms <= waited_ms)
			timer_start(agent->loop, &call->timer, 0, call_expired, call);
}

static void call_expired(void *arg)
{
	struct agent_call *call = arg;
	const struct err err = call->err;
	struct reader nothing = reader_init("", 0);
	const agent_fs_fn fs = call->fs;

	if (!fs || !call->answer) {
		finish(call, &err, NULL);
		return;
	}
	note_silence(call, call->timeout_ms);
	/* It may still be answered, with a handle that is to be closed. */
	agent_fs_cancel(call);
	fs(call->arg, err.code, &nothing);
}

/* Ends with call->err, soon. */
static void fail_soon(struct agent_call *call, int code, const char *text)
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
		fail_soon(call, -EHOSTDOWN, "the guest is gone");
	} else {
		err_set(&call->err, -ETIMEDOUT, "the guest's agent is silent");
		timer_start(agent->loop, &call->timer, timeout_ms * 1000000ull, call_expired, call);
	}
	return call;
}

static struct agent_call *call_new(struct agent *agent, uint16_t answer, unsigned timeout_ms)
{
	struct agent_call *call = agent->freed ? NULL : calloc(1, sizeof(*call));

	return call ? call_init(call, agent, answer, timeout_ms) : NULL;
}

/* One that only says, soon, that memory is out. NULL: there are none left. */
static struct agent_call *spare_call(struct agent *agent)
{
	for (struct agent_call *call = agent->spare; call < agent->spare + SPARE_CALLS; call++) {
		if (call->used)
			continue;
		*call = (struct agent_call){ .used = true };
		call_init(call, agent, 0, 0);
		fail_soon(call, -ENOMEM, "out of memory");
		return call;
	}
	return NULL;
}

/* NULL: it will say itself that it failed. */
static struct agent_call *done_call(struct agent *agent, uint16_t answer, unsigned timeout_ms, done_fn done,
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
	spare = spare_call(agent);
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

static struct agent_call *find_call(struct agent *agent, uint16_t answer, uint32_t tag)
{
	struct agent_call *call;

	list_for_each (call, &agent->calls, link)
		if (call->answer == answer && call->tag == tag)
			return call;
	return NULL;
}

/* ---- the end */

static void lose(struct agent *agent)
{
	const struct err err = { -EHOSTDOWN, "the guest is gone" };
	struct agent_call *call;

	agent->lost = true;
	timer_stop(&agent->ending);
	watch_free(agent->watch);
	agent->watch = NULL;
	buf_clear(&agent->out);
	while ((call = list_first(&agent->calls, struct agent_call, link)) && !agent->freed)
		finish(call, &err, NULL);
}

static void destroy(struct agent *agent)
{
	if (agent->dropped || agent->in.skipped)
		log_debug("agent channel: %llu frames and %llu bytes were dropped",
			  (unsigned long long)agent->dropped, (unsigned long long)agent->in.skipped);
	frame_parser_release(&agent->in);
	record_clear(&agent->record);
	buf_release(&agent->out);
	buf_release(&agent->held);
	free(agent);
}

/* ---- sending */

static void write_some(struct agent *agent)
{
	ssize_t n;

	while (agent->out.len) {
		n = write(agent->fd, buf_bytes(&agent->out), agent->out.len);
		if (n < 0 && errno == EINTR)
			continue;
		/* A broken channel is found out by the watch, outside of whoever called us. */
		if (n <= 0)
			break;
		buf_consume(&agent->out, (size_t)n);
	}
	if (agent->writing != (agent->out.len > 0)) {
		agent->writing = agent->out.len > 0;
		watch_set(agent->watch, EPOLLIN | (agent->writing ? EPOLLOUT : 0));
	}
}

void agent_name(struct agent *agent, const char *name)
{
	snprintf(agent->name, sizeof(agent->name), "%s", name);
}

static void tell(const struct agent *agent, const char *way, uint16_t type, uint32_t id, size_t len)
{
	if (log_verbose())
		log_debug("%s: %s guest: %s %" PRIu32 ", %zu bytes", agent->name, way, frame_name(type), id,
			  len);
}

static bool is_control(uint16_t type)
{
	return type == F_ATTACH || type == F_QUIESCE || type == F_UNQUIESCE || type == F_POWEROFF;
}

static int send_frame(struct agent *agent, uint16_t type, uint32_t id, const void *payload, size_t len)
{
	struct buf *to = agent->holding && !is_control(type) ? &agent->held : &agent->out;
	const size_t before = to->len;

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
	tell(agent, to == &agent->held ? "held for" : "to", type, id, len);
	if (agent->out.len >= DRAINED)
		agent->full = true;
	if (!agent->writing && !agent->corked)
		write_some(agent);
	return 0;
}

/* Ends what waits; the caller's callers may be what waits. */
static void end_channel(void *arg)
{
	struct agent *agent = arg;

	agent->busy = true;
	lose(agent);
	agent->busy = false;
	if (agent->freed)
		destroy(agent);
}

static void end_soon(struct agent *agent)
{
	log_error("out of memory: the channel to a guest's agent ends");
	agent->lost = true;
	timer_start(agent->loop, &agent->ending, 0, end_channel, agent);
}

/* A frame that nobody waits for; false when it was not sent, nor anything will be from now on. */
static bool send_or_end(struct agent *agent, uint16_t type, uint32_t id, const void *payload, size_t len)
{
	const int rc = send_frame(agent, type, id, payload, len);

	if (rc == -ENOMEM)
		end_soon(agent);
	return !rc;
}

/* A record that may be longer than a frame. */
static int send_record(struct agent *agent, uint16_t type, uint32_t id, const struct buf *record)
{
	const uint8_t *p = buf_bytes(record);
	size_t left = record->len;
	int rc = 0;

	for (; left > PROTO_PAYLOAD_MAX && !rc; p += PROTO_PAYLOAD_MAX, left -= PROTO_PAYLOAD_MAX)
		rc = send_frame(agent, F_JOB_PART, id, p, PROTO_PAYLOAD_MAX);
	return rc ? rc : send_frame(agent, type, id, p, left);
}

/* The guest listens again. */
static void release_held(struct agent *agent)
{
	struct frame_parser parser = { .buf = agent->held };
	struct frame frame;

	agent->holding = false;
	agent->held = (struct buf){ 0 };
	while (frame_parser_next(&parser, &frame))
		if (!send_or_end(agent, frame.type, frame.id, frame.payload, frame.len))
			break;
	frame_parser_release(&parser);
}

/* Send what a call asks; if that cannot be, the call fails soon. */
static void send_call(struct agent_call *call, uint16_t type, const struct buf *payload)
{
	const int rc = payload->failed
			       ? -ENOMEM
			       : send_frame(call->agent, type, call->tag, buf_bytes(payload), payload->len);

	if (rc && rc != -EHOSTDOWN) /* that end is already on its way */
		fail_soon(call, rc, rc == -E2BIG ? "too large for the guest's agent" : "out of memory");
}

static void send_numbers(struct agent *agent, uint16_t type, uint32_t id, uint64_t v, unsigned size)
{
	const uint64_t bytes = htole64(v); /* the first of them are the smaller number */

	(void)send_or_end(agent, type, id, &bytes, size);
}

/* ---- receiving */

static int errno_in(uint32_t code)
{
	return !code ? 0 : code <= ERRNO_LAST ? -(int)code : -EIO;
}

/* i32 errno, str reason. The reason will be shown as one line of a file. */
static void result_get(struct reader *r, struct err *err)
{
	const int code = errno_in(get_u32(r));
	size_t n, i;
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
	for (i = 0; err->text[i]; i++)
		if ((unsigned char)err->text[i] < ' ' || err->text[i] == 0x7f)
			err->text[i] = '?';
}

/*
 * The clock is behind by as long as the time was on its way to the guest: on a busy host long enough to be
 * noticed. So the time is sent until an answer is quick, or patience ends.
 */
static void send_clock(struct agent_call *call)
{
	struct buf payload = { 0 };

	call->answer = F_CLOCKED;
	call->tag = ++call->agent->last_tag;
	call->clocks--;
	call->sent_ns = now_mono_ns();
	buf_put_u64(&payload, now_real_ns());
	send_call(call, F_CLOCK, &payload);
	buf_release(&payload);
}

static bool on_done(struct agent *agent, const struct frame *frame)
{
	/* ATTACHED needs no tag, its generation is one. */
	struct agent_call *call =
		find_call(agent, frame->type, frame->type == F_ATTACHED ? agent->generation : frame->id);
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
		finish(call, &err, NULL);
	return true;
}

static bool on_fs_reply(struct agent *agent, const struct frame *frame)
{
	struct agent_call *call = find_call(agent, F_FS_REPLY, frame->id);
	struct reader r = reader_init(frame->payload, frame->len);
	struct err err = { 0 };
	struct buf args = { 0 };

	if (!call)
		return false;
	agent->answered_ns = now_mono_ns();
	agent->silent_ms = 0;
	err.code = errno_in(get_u32(&r));
	/* These two are what this side says of a guest. */
	if (err.code == -ETIMEDOUT || err.code == -EHOSTDOWN)
		err.code = -EIO;
	if (r.bad)
		err.code = -EPROTO;
	if (!call->fs && !err.code && (call->op == FS_OPEN || call->op == FS_CREATE)) {
		buf_put_u8(&args, FS_CLOSE);
		buf_put_u32(&args, get_u32(&r));
		if (!r.bad && !args.failed)
			(void)send_frame(agent, F_FS, ++agent->last_tag, buf_bytes(&args), args.len);
		buf_release(&args);
	}
	finish(call, &err, &r);
	return true;
}

/* Whoever asked keeps what comes: a list that is longer than any machine's ends here, and not well. */
static bool list_too_long(struct agent_call *call)
{
	const struct err err = { -EPROTO, "the guest lists more jobs than a machine may have" };

	if (call->jobs <= AGENT_JOBS_MAX && call->job_bytes <= AGENT_JOBS_BYTES)
		return false;
	record_clear(&call->agent->record);
	finish(call, &err, NULL);
	return true;
}

static bool on_job_info(struct agent *agent, const struct frame *frame)
{
	struct agent_call *call = find_call(agent, F_JOB_LIST_END, frame->id);
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
	struct agent_call *call = find_call(agent, F_JOB_LIST_END, frame->id);

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
static bool dispatch(struct agent *agent, const struct frame *frame)
{
	tell(agent, "from", frame->type, frame->id, frame->len);
	if (frame->generation != (uint16_t)agent->generation)
		return false;
	switch (frame->type) {
	case F_READY:
		return on_ready(agent);
	case F_ATTACHED:
	case F_QUIESCED:
	case F_RESIZED:
	case F_CLOCKED:
	case F_PONG:
	case F_JOB_LIST_END:
		return on_done(agent, frame);
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
	default:
		return false;
	}
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
		if (!dispatch(agent, &frame))
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
		lose(agent);
	if (!agent->freed && !agent->lost && events & EPOLLOUT)
		write_some(agent);
	if (!agent->freed && agent->full && agent->out.len < DRAINED) {
		agent->full = false;
		if (agent->drain)
			agent->drain(agent->owner);
	}
	agent->busy = false;
	if (agent->freed)
		destroy(agent);
}

/* ---- the channel */

struct agent *agent_new(struct loop *loop, int fd, const struct agent_events *events, void *owner)
{
	struct agent *agent = calloc(1, sizeof(*agent));

	if (!agent)
		return NULL;
	agent->loop = loop;
	agent->fd = fd;
	agent->events = events;
	agent->owner = owner;
	list_init(&agent->calls);
	agent->watch = watch_new(loop, fd, EPOLLIN, receive_and_send, agent);
	if (!agent->watch) {
		free(agent);
		return NULL;
	}
	return agent;
}

void agent_free(struct agent *agent)
{
	const struct err err = { -EHOSTDOWN, "the guest is gone" };
	struct agent_call *call;

	if (!agent || agent->freed)
		return;
	agent->freed = true;
	timer_stop(&agent->ending);
	/* Now, not when a callback returns: the number of the descriptor may be another's by then. */
	watch_free(agent->watch);
	agent->watch = NULL;
	while ((call = list_first(&agent->calls, struct agent_call, link)))
		finish(call, &err, NULL);
	if (!agent->busy)
		destroy(agent);
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
	call = done_call(agent, F_ATTACHED, timeout_ms, done, arg);
	if (!call || agent->lost)
		return;
	call->tag = identity->generation;
	call->sent_ns = now_mono_ns();
	if (identity->kind == ATTACH_FORK || identity->kind == ATTACH_RESUME)
		call->clocks = CLOCKS;
	if (identity->resync)
		buf_add(&agent->out, zeros, sizeof(zeros));
	rc = agent->out.failed ? -ENOMEM : put_identity(&payload, identity);
	agent->out.failed = false;
	if (rc)
		fail_soon(call, rc, "the identity cannot be sent to the guest");
	else
		send_call(call, F_ATTACH, &payload);
	release_held(agent);
	if (payload.data)
		explicit_bzero(payload.data, payload.size);
	buf_release(&payload);
}

void agent_quiesce(struct agent *agent, unsigned timeout_ms, done_fn done, void *arg)
{
	struct agent_call *call = done_call(agent, F_QUIESCED, timeout_ms, done, arg);
	const struct buf nothing = { 0 };

	if (call && !agent->lost)
		send_call(call, F_QUIESCE, &nothing);
	agent->holding = true;
}

void agent_unquiesce(struct agent *agent)
{
	send_numbers(agent, F_UNQUIESCE, 0, now_real_ns(), 8);
	release_held(agent);
}

void agent_ping(struct agent *agent, unsigned timeout_ms, done_fn done, void *arg)
{
	struct agent_call *call = done_call(agent, F_PONG, timeout_ms, done, arg);
	const struct buf nothing = { 0 };

	if (call && !agent->lost)
		send_call(call, F_PING, &nothing);
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
		finish(call, err, NULL);
	agent->busy = busy;
	if (agent->freed && !busy)
		destroy(agent);
}

void agent_poweroff(struct agent *agent)
{
	(void)send_or_end(agent, F_POWEROFF, 0, NULL, 0);
}

void agent_resize(struct agent *agent, uint32_t cpus, uint64_t memory, unsigned timeout_ms, done_fn done,
		  void *arg)
{
	struct agent_call *call = done_call(agent, F_RESIZED, timeout_ms, done, arg);
	struct buf payload = { 0 };

	if (!call || agent->lost)
		return;
	buf_put_u32(&payload, cpus);
	buf_put_u64(&payload, memory);
	send_call(call, F_RESIZE, &payload);
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
		rc = payload.failed ? -ENOMEM : send_record(agent, F_JOB_START, job, &payload);
	buf_release(&payload);
	if (rc != -E2BIG && rc != -ENOMEM)
		return;
	call = call_new(agent, 0, 0);
	if (call)
		fail_soon(call, rc,
			  rc == -E2BIG ? "the command and its environment are too large" : "out of memory");
	else
		call = spare_call(agent);
	if (!call) {
		end_soon(agent);
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
		if (!send_or_end(agent, F_JOB_STDIN, job, p, part))
			return;
	}
}

void agent_job_stdin_eof(struct agent *agent, uint32_t job)
{
	(void)send_or_end(agent, F_JOB_STDIN_EOF, job, NULL, 0);
}

void agent_job_want(struct agent *agent, uint32_t job, int stream, uint64_t offset)
{
	send_numbers(agent, stream == 1 ? F_JOB_STDOUT_MAX : F_JOB_STDERR_MAX, job, offset, 8);
}

void agent_job_kill(struct agent *agent, uint32_t job, uint32_t signal, unsigned timeout_ms, done_fn done,
		    void *arg)
{
	struct agent_call *call = done_call(agent, F_PONG, timeout_ms, done, arg);
	const struct buf nothing = { 0 };

	if (!call || agent->lost)
		return;
	/* The answer to what comes behind it tells that it was heard. */
	send_numbers(agent, F_JOB_KILL, job, signal, 4);
	send_call(call, F_PING, &nothing);
}

void agent_job_resize(struct agent *agent, uint32_t job, uint16_t rows, uint16_t cols)
{
	/* Two little-endian 16-bit numbers are one of 32. */
	send_numbers(agent, F_JOB_RESIZE, job, rows | (uint32_t)cols << 16, 4);
}

void agent_job_forget(struct agent *agent, uint32_t job)
{
	(void)send_or_end(agent, F_JOB_FORGET, job, NULL, 0);
}

void agent_job_list(struct agent *agent, void (*each)(void *arg, const struct job_info *info), done_fn done,
		    void *arg)
{
	struct agent_call *call = done_call(agent, F_JOB_LIST_END, list_timeout_ms, done, arg);
	const struct buf nothing = { 0 };

	if (!call || agent->lost)
		return;
	call->each = each;
	send_call(call, F_JOB_LIST, &nothing);
}

void agent_introduce(struct agent *agent, const struct identity *identity, unsigned timeout_ms,
		     void (*each)(void *arg, const struct job_info *info), done_fn done, void *arg)
{
	agent->introduced = (struct pending){ done, arg };
	agent->introducing = 2;
	agent->corked = true;
	agent_attach(agent, identity, timeout_ms, NULL, NULL);
	agent_job_list(agent, each, NULL, arg);
	agent->corked = false;
	if (!agent->writing && !agent->lost && !agent->freed)
		write_some(agent);
}

/* ---- files */

struct agent_call *agent_fs(struct agent *agent, enum fs_op op, const struct buf *args, unsigned timeout_ms,
			    agent_fs_fn fn, void *arg)
{
	const uint64_t now = now_mono_ns();
	const bool doubted = timeout_ms <= agent->silent_ms;
	struct agent_call *call;
	struct buf payload = { 0 };

	call = call_new(agent, F_FS_REPLY, doubted && timeout_ms > retry_ms ? retry_ms : timeout_ms);
	if (!call)
		return NULL;
	call->fs = fn;
	call->op = op;
	call->arg = arg;
	call->sent_ns = now;
	call->timeout_ms = timeout_ms;
	if (agent->lost)
		return call;
	if ((doubted && now < agent->retry_ns && fn) || agent_backlog(agent) > backlog_max) {
		fail_soon(call, -ETIMEDOUT, "the guest's agent is silent");
		return call;
	}
	if (doubted && fn)
		agent->retry_ns = now + retry_ms * 1000000ull;
	buf_put_u8(&payload, op);
	buf_add(&payload, buf_bytes(args), args->len);
	send_call(call, F_FS, &payload);
	buf_release(&payload);
	return call;
}

void agent_fs_cancel(struct agent_call *call)
{
	/* Its reply may bring a handle that is to be closed; until then it waits without a caller. */
	call->fs = NULL;
	if (call->answer)
		timer_start(call->agent->loop, &call->timer, orphan_timeout_ms * 1000000ull, call_expired,
			    call);
}

void agent_fs_give_up(struct agent_call *call, unsigned waited_ms)
{
	note_silence(call, waited_ms);
	agent_fs_cancel(call);
}

bool agent_silent(const struct agent *agent)
{
	return agent->silent_ms;
}
