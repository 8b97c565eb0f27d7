/* SPDX-License-Identifier: MIT */
/* test_failing_vm.c - the agent channel and QMP when the system refuses what they ask for */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/agent_fixture.h"
#include "tests/unit/failing.h"
#include "tests/unit/unit.h"
#include "vm/agent/proto.h"
#include "vm/qemu/qmp.h"

/* ---- vm/agent/proto */

static char *env[] = { (char *)"A=1", (char *)"B=2", NULL };
static const struct job_spec spec = { .name = "job",
				      .cmd = (char *)"echo",
				      .cmd_len = 4,
				      .cwd = (char *)"/tmp",
				      .user = (char *)"daemon",
				      .env = env };

static int read_spec(const struct buf *bytes, struct job_spec *ret)
{
	struct reader r = reader_init(buf_bytes(bytes), bytes->len);

	return job_spec_get(&r, ret);
}

static void a_job_is_read_whole_or_not(void)
{
	struct buf bytes = { 0 };
	struct job_spec got = { 0 };
	int rc;

	job_spec_put(&bytes, &spec);
	CHECK(!bytes.failed);
	rc = MAY_FAIL(read_spec(&bytes, &got));
	CHECK(failing_excuses(rc) && !rc == !failing_did());
	CHECK(rc || (!strcmp(got.cmd, "echo") && !strcmp(got.env[1], "B=2") && !strcmp(got.user, "daemon")));
	CHECK(!rc || (!got.cmd && !got.env));
	job_spec_release(&got);
	buf_release(&bytes);
}

static void frames_are_cut_from_what_came(void)
{
	struct frame_parser parser = { 0 };
	struct buf bytes = { 0 };
	static const char text[1000] = "text";
	struct frame frame;
	int rc;

	for (uint32_t i = 0; i < 5; i++)
		frame_put(&bytes, F_JOB_STDOUT, 1, i, text, sizeof(text));
	rc = MAY_FAIL(frame_parser_feed(&parser, buf_bytes(&bytes), bytes.len));
	CHECK(failing_excuses(rc) && !rc == !failing_did());
	for (uint32_t i = 0; !rc && i < 5; i++)
		CHECK(frame_parser_next(&parser, &frame) && frame.id == i && frame.len == sizeof(text));
	frame_parser_release(&parser);
	buf_release(&bytes);
}

/* ---- vm/agent/channel */

/* What a guest that is played by hand was told: the bytes of each job's stdin, and what else came. */
struct heard {
	struct frame_parser parser;
	struct buf text;
	unsigned frames[256];
};

static void hear(struct fixture *f, struct heard *heard)
{
	char bytes[4096];
	struct frame frame;
	ssize_t n;

	while ((n = read(f->peer, bytes, sizeof(bytes))) > 0)
		CHECK(!frame_parser_feed(&heard->parser, bytes, (size_t)n));
	while (frame_parser_next(&heard->parser, &frame)) {
		heard->frames[frame.type % 256]++;
		if (frame.type == F_JOB_STDIN)
			buf_add(&heard->text, frame.payload, frame.len);
	}
}

static void forget_heard(struct heard *heard)
{
	frame_parser_release(&heard->parser);
	buf_release(&heard->text);
}

static bool begin(struct fixture *f)
{
	int fds[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
	*f = (struct fixture){ .fd = fds[0], .peer = fds[1] };
	f->loop = loop_new();
	CHECK(f->loop);
	f->agent = MAY_FAIL(agent_new(f->loop, f->fd, &events, f));
	CHECK(f->agent || failing_did());
	return f->agent;
}

static int attach(struct fixture *f)
{
	const struct identity identity = { .name = "vm", .generation = 1, .kind = ATTACH_BOOT, .env = env };

	agent_attach(f->agent, &identity, WAIT_MS, on_done, f);
	return 0;
}

static int quiesce(struct fixture *f)
{
	agent_quiesce(f->agent, QUIESCE_PAUSE, WAIT_MS, on_done, f);
	return 0;
}

static int resize(struct fixture *f)
{
	agent_resize(f->agent, 2, 1 << 30, WAIT_MS, on_done, f);
	return 0;
}

static int list_jobs(struct fixture *f)
{
	agent_job_list(f->agent, on_info, on_done, f);
	return 0;
}

static int start_job(struct fixture *f)
{
	agent_job_start(f->agent, 1, &spec);
	return 0;
}

/* The answer that it waits for, if it waits. */
static void answer(struct fixture *f, uint16_t type, uint32_t id)
{
	struct buf buf = { 0 };

	frame_put(&buf, type, 1, id, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
	CHECK(write(f->peer, buf_bytes(&buf), buf.len) == (ssize_t)buf.len);
	buf_release(&buf);
}

/* One job, of which the list consists. */
static void answer_info(struct fixture *f, uint32_t tag)
{
	const struct job_info info = { .id = 1, .spec = spec, .state = JOB_RUNNING };
	struct buf payload = { 0 }, buf = { 0 };

	job_info_put(&payload, &info);
	frame_put(&buf, F_JOB_INFO, 1, tag, buf_bytes(&payload), payload.len);
	CHECK(write(f->peer, buf_bytes(&buf), buf.len) == (ssize_t)buf.len);
	buf_release(&payload);
	buf_release(&buf);
}

/* Run the loop, which may fail to get memory as well, until the condition holds. */
#define UNTIL_FAILING(f, cond)                                                                               \
	do {                                                                                                 \
		const uint64_t end_ = now_mono_ns() + 2000000000u;                                           \
                                                                                                             \
		while (!(cond)) {                                                                            \
			CHECK(now_mono_ns() < end_);                                                         \
			CHECK(!MAY_FAIL(loop_once((f)->loop, 20)));                                          \
		}                                                                                            \
	} while (0)

/* Whatever is asked is answered, by the guest or by us. */
static void every_question_has_an_end(void)
{
	static int (*const questions[])(struct fixture * f) = { attach, list_jobs, resize, quiesce };
	static const uint16_t answers[] = { F_ATTACHED, F_JOB_LIST_END, F_RESIZED, F_QUIESCED };
	struct fixture f;

	if (!begin(&f))
		goto out;
	for (unsigned i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
		f.done = 0;
		f.err = (struct err){ 0 };
		MAY_FAIL(questions[i](&f));
		CHECK(!f.done); /* not from inside */
		if (i == 1)
			answer_info(&f, i + 1);
		answer(&f, answers[i], i ? i + 1 : 1);
		UNTIL_FAILING(&f, f.done);
		CHECK(f.err.code == -EHOSTDOWN ? failing_did() : failing_excuses(f.err.code));
		CHECK(!f.err.code == !f.err.text[0]);
		CHECK(i != 1 || f.err.code || f.infos == 1); /* the list is whole */
	}
out:
	teardown(&f);
}

static int introduce(struct fixture *f)
{
	const struct identity identity = { .name = "vm", .generation = 1, .kind = ATTACH_FORK, .env = env };

	agent_introduce(f->agent, &identity, WAIT_MS, on_info, on_done, f);
	return 0;
}

static void an_introduction_has_one_end(void)
{
	struct fixture f;

	if (!begin(&f))
		goto out;
	MAY_FAIL(introduce(&f));
	CHECK(!f.done);
	answer(&f, F_ATTACHED, 1);
	answer_info(&f, 2);
	answer(&f, F_JOB_LIST_END, 2);
	UNTIL_FAILING(&f, f.done);
	CHECK(f.err.code == -EHOSTDOWN ? failing_did() : failing_excuses(f.err.code));
	CHECK(f.err.code || f.infos == 1); /* the list is whole */
	CHECK(!loop_once(f.loop, 0) && !loop_once(f.loop, 0));
	CHECK(f.done == 1);
out:
	teardown(&f);
}

static void a_job_starts_or_says_why_not(void)
{
	struct heard heard = { 0 };
	struct fixture f;

	if (!begin(&f))
		goto out;
	MAY_FAIL(start_job(&f));
	hear(&f, &heard);
	if (!heard.frames[F_JOB_START]) {
		CHECK(failing_did());
		UNTIL_FAILING(&f, f.jobs[1].started);
		CHECK(f.jobs[1].err == -ENOMEM && f.jobs[1].reason[0]);
		f.jobs[1].started = false;
		start_job(&f); /* and with memory it does */
		hear(&f, &heard);
		CHECK(heard.frames[F_JOB_START] == 1);
	}
	forget_heard(&heard);
out:
	teardown(&f);
}

enum { LINES = 40 };

static int killed;

static void on_killed(void *arg, const struct err *err)
{
	(void)arg;
	killed = err->code;
}

static int say_lines(struct fixture *f)
{
	char line[1000];

	memset(line, 'x', sizeof(line));
	for (unsigned i = 0; i < LINES; i++) {
		snprintf(line, sizeof(line), "%u", i);
		agent_job_stdin(f->agent, 1, line, sizeof(line));
	}
	agent_job_stdin_eof(f->agent, 1);
	killed = 0;
	agent_job_kill(f->agent, 1, 15, WAIT_MS, on_killed, f);
	agent_job_want(f->agent, 1, 1, 100);
	return 0;
}

static void attach_and_quiesce(struct fixture *f)
{
	attach(f);
	answer(f, F_ATTACHED, 1);
	UNTIL(f, f->done);
	f->done = 0;
	quiesce(f);
	answer(f, F_QUIESCED, 2);
	UNTIL(f, f->done && !f->err.code);
}

static int go_on(struct fixture *f)
{
	agent_unquiesce(f->agent);
	return 0;
}

/* A stream arrives without a hole, or the channel ends: no byte is left out and the next sent. */
static void a_stream_has_no_holes(void)
{
	struct heard heard = { 0 };
	struct fixture f;

	if (!begin(&f))
		goto out;
	attach_and_quiesce(&f); /* so that all of it is held back */
	MAY_FAIL(say_lines(&f));
	MAY_FAIL(go_on(&f));
	for (unsigned i = 0; i < 4; i++) {
		CHECK(!loop_once(f.loop, 0));
		hear(&f, &heard);
	}
	CHECK(heard.text.len % 1000 == 0);
	for (unsigned i = 0; i < heard.text.len / 1000; i++)
		CHECK(atoi((const char *)buf_bytes(&heard.text) + (size_t)i * 1000) == (int)i);
	if (heard.text.len < (size_t)LINES * 1000 || !heard.frames[F_JOB_STDIN_EOF] ||
	    (!heard.frames[F_JOB_KILL] && killed != -ENOMEM) || !heard.frames[F_JOB_STDOUT_MAX] ||
	    !heard.frames[F_UNQUIESCE]) {
		CHECK(failing_did());
		f.done = 0;
		resize(&f);
		UNTIL(&f, f.done);
		CHECK(f.err.code == -EHOSTDOWN);
	}
	forget_heard(&heard);
out:
	teardown(&f);
}

static int stat_root(struct fixture *f)
{
	struct buf args = { 0 };
	struct agent_call *call;

	fs_file_put(&args, 0, "/", NULL);
	call = args.failed ? NULL : agent_fs(f->agent, FS_GETATTR, &args, WAIT_MS, on_fs, f);
	buf_release(&args);
	return call ? 0 : -ENOMEM;
}

static void a_file_operation_is_answered_or_refused(void)
{
	struct fixture f;
	int rc;

	if (!begin(&f))
		goto out;
	rc = MAY_FAIL(stat_root(&f));
	CHECK(failing_excuses(rc));
	if (!rc) {
		struct buf buf = { 0 };

		frame_put(&buf, F_FS_REPLY, 0, 1, "\0\0\0\0", 4);
		CHECK(write(f.peer, buf_bytes(&buf), buf.len) == (ssize_t)buf.len);
		buf_release(&buf);
		UNTIL_FAILING(&f, f.done);
		CHECK(f.fs_err == -EHOSTDOWN ? failing_did() : failing_excuses(f.fs_err));
	}
	CHECK(f.done == !rc);
out:
	teardown(&f);
}

/* ---- vm/qemu */

static struct loop *loop;
static struct qmp *qmp;
static unsigned nready, nlost, nreplies;
static struct err lost_err;

static void qmp_ready(void *owner, const char *version)
{
	(void)owner;
	CHECK(!strcmp(version, "7.2.22"));
	nready++;
}

static void qmp_event(void *owner, const char *name, const cJSON *data)
{
	(void)owner;
	(void)name;
	(void)data;
}

static void qmp_lost(void *owner, const struct err *err)
{
	(void)owner;
	lost_err = *err;
	nlost++;
	qmp_free(qmp);
	qmp = NULL;
}

static void qmp_reply(void *arg, const struct err *err, const cJSON *ret)
{
	(void)arg;
	CHECK(!err->code && !strcmp(qmp_string(ret, "value"), "x"));
	nreplies++;
}

static const struct qmp_events qmp_events = { qmp_ready, qmp_event, qmp_lost };

static int send_command(void)
{
	cJSON *args = cJSON_CreateObject();

	if (!args || !cJSON_AddStringToObject(args, "key", "value")) {
		cJSON_Delete(args);
		return -ENOMEM;
	}
	return qmp_send(qmp, "stop", args, STDIN_FILENO, qmp_reply, NULL);
}

static void say(int peer, const char *text)
{
	if (!qmp)
		return;
	CHECK(send(peer, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
	CHECK(!MAY_FAIL(loop_once(loop, 0)));
}

static void a_command_is_answered_or_the_connection_lost(void)
{
	int fds[2], rc = 0;
	char sink[4096];

	nready = nlost = nreplies = 0;
	lost_err = (struct err){ 0 };
	loop = loop_new();
	CHECK(loop);
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds));
	qmp = MAY_FAIL(qmp_new(loop, fds[0], &qmp_events, NULL));
	if (!qmp) {
		CHECK(failing_did());
		close(fds[0]);
		goto out;
	}
	rc = MAY_FAIL(send_command()); /* waits for the greeting */
	CHECK(failing_excuses(rc));
	say(fds[1],
	    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, \"package\": "
	    "\"\"}, \"capabilities\": [\"oob\"]}}\r\n");
	say(fds[1], "{\"return\": {}}\r\n");
	if (!rc && qmp)
		say(fds[1], "{\"return\": {\"value\": \"x\"}, \"id\": 1}\r\n");
	CHECK(recv(fds[1], sink, sizeof(sink), 0) > 0 || failing_did());
	if (nlost) {
		/* Not that QEMU said something wrong. */
		CHECK(failing_did() && nlost == 1 && lost_err.code == -ENOMEM && lost_err.text[0]);
	} else {
		CHECK(nready == 1 && nreplies == (rc ? 0 : 1));
	}
	qmp_free(qmp);
out:
	close(fds[1]);
	CHECK(!loop_once(loop, 0));
	loop_free(loop);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	FAILING(a_job_is_read_whole_or_not);
	FAILING(frames_are_cut_from_what_came);
	FAILING(a_file_operation_is_answered_or_refused);
	FAILING(a_job_starts_or_says_why_not);
	FAILING(a_command_is_answered_or_the_connection_lost);
	FAILING(every_question_has_an_end);
	FAILING(an_introduction_has_one_end);
	FAILING(a_stream_has_no_holes);
	return 0;
}
