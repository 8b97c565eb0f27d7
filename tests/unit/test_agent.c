/* SPDX-License-Identifier: MIT */
/*
 * test_agent.c - the host's end of the agent channel against frames made by hand, as a broken or hostile
 * guest might send them
 */
#include <time.h>

#include "tests/unit/agent_fixture.h"

static void say(const struct fixture *f, uint16_t type, uint16_t generation, uint32_t id, const void *data,
		size_t n)
{
	struct buf buf = { 0 };

	frame_put(&buf, type, generation, id, data, n);
	CHECK(write(f->peer, buf_bytes(&buf), buf.len) == (ssize_t)buf.len);
	buf_release(&buf);
}

static void say_attached(struct fixture *f, uint32_t generation)
{
	attach_soon(f, ATTACH_BOOT, generation, false);
	say(f, F_ATTACHED, (uint16_t)generation, 0, "\0\0\0\0\0\0\0\0", 8);
	UNTIL(f, f->done);
	CHECK(!f->err.code);
}

static void drain_peer(const struct fixture *f)
{
	char bytes[4096];

	while (read(f->peer, bytes, sizeof(bytes)) > 0)
		;
}

static void silence_times_out(void)
{
	struct fixture f;

	setup_by_hand(&f);
	agent_quiesce(f.agent, QUIESCE_PAUSE, 20, on_done, &f);
	CHECK(!f.done);
	UNTIL(&f, f.done);
	CHECK(f.err.code == -ETIMEDOUT && f.err.text[0]);
	/* The answer to the first is not one to the second. */
	f.done = 0;
	agent_quiesce(f.agent, QUIESCE_PAUSE, 20, on_done, &f);
	say(&f, F_QUIESCED, 0, 1, NULL, 0);
	UNTIL(&f, f.done);
	CHECK(f.err.code == -ETIMEDOUT);
	teardown(&f);
}

static void the_end_of_the_guest_ends_all_calls(void)
{
	const struct buf nothing = { 0 };
	struct fixture f;

	setup_by_hand(&f);
	agent_quiesce(f.agent, QUIESCE_PAUSE, WAIT_MS, on_done, &f);
	CHECK(agent_fs(f.agent, FS_STATFS, &nothing, WAIT_MS, on_fs, &f));
	close(f.peer);
	f.peer = -1;
	UNTIL(&f, f.done == 2);
	CHECK(f.err.code == -EHOSTDOWN && f.fs_err == -EHOSTDOWN);
	/* And those that come later, though not from inside the call. */
	agent_quiesce(f.agent, QUIESCE_PAUSE, WAIT_MS, on_done, &f);
	CHECK(f.done == 2);
	UNTIL(&f, f.done == 3);
	CHECK(f.err.code == -EHOSTDOWN);
	teardown(&f);
}

static void freeing_ends_all_calls(void)
{
	struct fixture f;

	setup_by_hand(&f);
	agent_quiesce(f.agent, QUIESCE_PAUSE, WAIT_MS, on_done, &f);
	agent_resize(f.agent, 1, 1, WAIT_MS, on_done, &f);
	agent_free(f.agent);
	CHECK(f.done == 2 && f.err.code == -EHOSTDOWN);
	f.agent = NULL;
	teardown(&f);
}

static void free_agent(void *arg, const struct err *err)
{
	struct fixture *f = arg;

	(void)err;
	f->done++;
	agent_free(f->agent);
	f->agent = NULL;
}

static void a_callback_may_free_the_agent(void)
{
	struct fixture f;

	setup_by_hand(&f);
	agent_quiesce(f.agent, QUIESCE_PAUSE, WAIT_MS, free_agent, &f);
	say(&f, F_QUIESCED, 0, 1, NULL, 0);
	say(&f, F_READY, 0, 0, "\1\0\0\0", 4);
	UNTIL(&f, f.done);
	CHECK(!f.ready);
	teardown(&f);
}

static void stale_frames_are_dropped(void)
{
	struct fixture f;

	setup_by_hand(&f);
	say_attached(&f, 70000); /* the header has its low 16 bits */
	say(&f, F_JOB_STDOUT, (uint16_t)69999, 1, "old", 3);
	say(&f, F_JOB_STDOUT, (uint16_t)70000, 1, "new", 3);
	UNTIL(&f, f.jobs[1].out[1].len);
	CHECK(f.jobs[1].out[1].len == 3 && !memcmp(buf_bytes(&f.jobs[1].out[1]), "new", 3));
	teardown(&f);
}

static void malformed_frames_are_dropped(void)
{
	static const uint16_t types[] = { F_ATTACHED, F_JOB_STARTED,  F_JOB_STDIN_MAX, F_JOB_EXIT,
					  F_JOB_INFO, F_JOB_LIST_END, F_FS_REPLY,      F_RESIZED,
					  F_PONG,     F_READY,        F_JOB_START,     F_FS,
					  0,          0xffff };
	struct fixture f;
	size_t i;

	setup_by_hand(&f);
	say_attached(&f, 1);
	f.done = 0;
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		say(&f, types[i], 1, 3, "\xff\xff", 2);
	say(&f, F_JOB_EXIT, 1, 2, "\2\0\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0",
	    21); /* neither exited nor signaled */
	CHECK(write(f.peer, "noise SBX1 noise noise noise", 28) == 28);
	say(&f, F_JOB_EXIT, 1, 1, "\0\7\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0", 21);
	UNTIL(&f, f.jobs[1].exited);
	CHECK(f.jobs[1].code == 7);
	CHECK(!f.jobs[2].exited && !f.jobs[3].exited && !f.done && !f.ready);
	CHECK(f.jobs[3].err == -EPROTO || !f.jobs[3].started);
	teardown(&f);
}

/* Before a capture a guest may take its time, once, and refuse; before a pause it has no say. */
static void a_guest_may_refuse_a_capture_only(void)
{
	struct fixture f;

	setup_by_hand(&f);
	say_attached(&f, 1);
	f.done = 0;
	agent_quiesce(f.agent, QUIESCE_CAPTURE, 50, on_done, &f);
	say(&f, F_HOOKS, 1, 2, NULL, 0);
	say(&f, F_HOOKS, 1, 2, NULL, 0);
	CHECK(!loop_once(f.loop, 100));
	CHECK(!loop_once(f.loop, 200) && !f.done); /* the 50 ms are over */
	say(&f, F_QUIESCED, 1, 2, "\5\0\0\0\4\0\0\0busy", 12);
	UNTIL(&f, f.done);
	CHECK(f.err.code == -EBUSY && !strcmp(f.err.text, "busy"));
	/* It is not quiet: what is asked goes out. */
	drain_peer(&f);
	agent_poweroff(f.agent);
	agent_job_forget(f.agent, 1);
	CHECK(agent_backlog(f.agent) == 0);
	f.done = 0;
	agent_quiesce(f.agent, QUIESCE_CAPTURE, WAIT_MS, on_done, &f);
	say(&f, F_QUIESCED, 1, 3, "\5\0\0\0\xff\xff\0\0busy", 12); /* malformed: refused all the same */
	UNTIL(&f, f.done);
	CHECK(f.err.code == -EBUSY && f.err.text[0]);
	f.done = 0;
	agent_quiesce(f.agent, QUIESCE_PAUSE, 100, on_done, &f);
	say(&f, F_HOOKS, 1, 4, NULL, 0);
	say(&f, F_QUIESCED, 1, 4, "\5\0\0\0\4\0\0\0busy", 12);
	UNTIL(&f, f.done);
	CHECK(!f.err.code);
	teardown(&f);
}

/* What a guest asks for is checked, and one that takes no answers is not heard for ever. */
static void what_a_guest_asks_is_checked(void)
{
	static const char good[] = "\1\7\0\0\0\2\0\0\0ab";
	const struct err no = { -EPERM,
				"a sentence that is long enough to fill a buffer with many of its kind" };
	struct fixture f;
	unsigned i;

	setup_by_hand(&f);
	say_attached(&f, 1);
	say(&f, F_GUEST_ASK, 1, 1, "\0\7\0\0\0\2\0\0\0ab", 11);
	say(&f, F_GUEST_ASK, 1, 1, "\4\7\0\0\0\2\0\0\0ab", 11);
	say(&f, F_GUEST_ASK, 1, 1, "\1\7\0\0\0\3\0\0\0ab", 11);
	say(&f, F_GUEST_ASK, 1, 1, "\1\7\0\0\0\2\0\0\0a\0", 11);
	say(&f, F_GUEST_ASK, 2, 1, good, 11);
	say(&f, F_GUEST_BEGUN, 1, 1, good, 11);
	say(&f, F_GUEST_ASK, 1, 9, good, 11);
	UNTIL(&f, f.asked);
	CHECK(f.asked == 1 && f.asked_id == 9 && f.asked_verb == GUEST_FORK && f.asked_number == 7);
	CHECK(!strcmp(f.asked_name, "ab"));
	for (i = 0; i < 100000 && agent_backlog(f.agent) < 100000; i++)
		agent_guest_done(f.agent, 9, &no);
	say(&f, F_GUEST_ASK, 1, 10, good, 11);
	for (i = 0; i < 20; i++)
		CHECK(!loop_once(f.loop, 5));
	CHECK(f.asked == 1);
	teardown(&f);
}

static void count_job(void *arg, const struct job_info *info)
{
	struct fixture *f = arg;

	CHECK(info->id == 1 && f->infos < AGENT_JOBS_MAX && !f->done);
	f->infos++;
}

/* As many frames as the other end takes, until the list has ended. */
static void flood(struct fixture *f, uint32_t tag, uint16_t type, const void *payload, size_t len)
{
	struct buf frames = { 0 };
	unsigned i;

	f->done = f->infos = 0;
	agent_job_list(f->agent, count_job, on_done, f); /* its tag is the next number */
	for (i = 0; i < 2 * AGENT_JOBS_MAX && !f->done; i++) {
		frame_put(&frames, type, 1, tag, payload, len);
		while (frames.len && !f->done) {
			const ssize_t n = write(f->peer, buf_bytes(&frames), frames.len);

			if (n > 0)
				buf_consume(&frames, (size_t)n);
			CHECK(!loop_once(f->loop, 0));
		}
	}
	UNTIL(f, f->done);
	CHECK(f->done == 1 && f->err.code == -EPROTO && strstr(f->err.text, "more jobs"));
	buf_release(&frames);
}

static void a_flood_of_jobs_ends_their_list(void)
{
	static uint8_t bytes[PROTO_PAYLOAD_MAX];
	const struct job_info info = { .id = 1, .spec = { .cmd = (char *)"x", .cmd_len = 1 } };
	struct buf record = { 0 };
	struct fixture f;

	memset(bytes, 0xff, sizeof(bytes));
	setup_by_hand(&f);
	say_attached(&f, 1);
	job_info_put(&record, &info);
	flood(&f, 2, F_JOB_INFO, buf_bytes(&record), record.len);
	CHECK(f.infos == AGENT_JOBS_MAX);
	flood(&f, 3, F_JOB_INFO, bytes, sizeof(bytes)); /* each by itself is malformed */
	flood(&f, 4, F_JOB_PART, bytes, sizeof(bytes));
	CHECK(!f.infos);
	buf_release(&record);
	teardown(&f);
}

static void reasons_are_one_printable_line(void)
{
	struct fixture f;

	setup_by_hand(&f);
	attach_soon(&f, ATTACH_BOOT, 1, false);
	say(&f, F_ATTACHED, 1, 0, "\5\0\0\0\6\0\0\0a\nb\033c\177", 14);
	UNTIL(&f, f.done);
	CHECK(f.err.code == -EIO && !strcmp(f.err.text, "a?b?c?"));
	attach_soon(&f, ATTACH_BOOT, 2, false);
	say(&f, F_ATTACHED, 2, 0, "\xff\xff\xff\x7f\0\0\0\0", 8);
	UNTIL(&f, f.done);
	CHECK(f.err.code == -EIO && f.err.text[0]);
	/* U+009B begins what a terminal obeys; a letter and a degree sign do not. */
	attach_soon(&f, ATTACH_BOOT, 3, false);
	say(&f, F_ATTACHED, 3, 0, "\5\0\0\0\11\0\0\0\302\23331m\303\244\302\260", 17);
	UNTIL(&f, f.done);
	CHECK(!strcmp(f.err.text, "??31m\303\244\302\260"));
	teardown(&f);
}

/* A guest that got its time late is sent it again, as often as its answers are late, within bounds. */
static void a_late_clock_is_set_again(void)
{
	const struct timespec late = { .tv_nsec = 30000000 };
	struct frame_parser parser = { 0 };
	struct frame frame;
	struct fixture f;
	uint8_t bytes[4096];
	ssize_t n = 0;
	unsigned i;

	setup_by_hand(&f);
	attach_soon(&f, ATTACH_FORK, 1, false);
	drain_peer(&f);
	nanosleep(&late, NULL);
	say(&f, F_ATTACHED, 1, 0, "\0\0\0\0\0\0\0\0", 8);
	for (i = 0; i < 20; i++) {
		UNTIL(&f, f.done || (n = read(f.peer, bytes, sizeof(bytes))) > 0);
		if (f.done)
			break;
		CHECK(!frame_parser_feed(&parser, bytes, (size_t)n) && frame_parser_next(&parser, &frame));
		CHECK(frame.type == F_CLOCK && frame.len == 8);
		say(&f, F_CLOCKED, 1, frame.id + 1, NULL, 0); /* not what was asked */
		nanosleep(&late, NULL);
		say(&f, F_CLOCKED, 1, frame.id, NULL, 0);
	}
	CHECK(f.done && !f.err.code && i > 1 && i < 20);
	frame_parser_release(&parser);
	teardown(&f);
}

static void a_guest_that_does_not_read_is_waited_for(void)
{
	static const char data[PROTO_DATA_MAX];
	struct fixture f;

	setup_by_hand(&f);
	agent_on_drain(f.agent, on_drain);
	while (agent_backlog(f.agent) < 1024 * 1024)
		agent_job_stdin(f.agent, 1, data, sizeof(data));
	CHECK(!f.drained);
	while (agent_backlog(f.agent)) {
		CHECK(f.drained == (agent_backlog(f.agent) < 256 * 1024));
		drain_peer(&f);
		CHECK(!loop_once(f.loop, 100));
	}
	CHECK(f.drained);
	teardown(&f);
}

static void a_cancelled_open_is_closed_again(void)
{
	struct frame_parser parser = { 0 };
	struct buf args = { 0 };
	struct fixture f;
	struct frame frame = { 0 };
	uint8_t bytes[4096];
	ssize_t n;

	setup_by_hand(&f);
	say_attached(&f, 1);
	drain_peer(&f);
	f.done = 0;
	buf_put_str(&args, "/etc/hostname");
	buf_put_u32(&args, O_RDONLY);
	agent_fs_cancel(agent_fs(f.agent, FS_OPEN, &args, WAIT_MS, on_fs, &f));
	n = read(f.peer, bytes, sizeof(bytes));
	CHECK(n > 0 && !frame_parser_feed(&parser, bytes, (size_t)n) && frame_parser_next(&parser, &frame));
	say(&f, F_FS_REPLY, 1, frame.id, "\0\0\0\0\x2a\0\0\0", 8);
	while ((n = read(f.peer, bytes, sizeof(bytes))) < 0)
		CHECK(!loop_once(f.loop, 100));
	CHECK(!frame_parser_feed(&parser, bytes, (size_t)n) && frame_parser_next(&parser, &frame));
	CHECK(frame.type == F_FS && frame.len == 5 && !memcmp(frame.payload, "\x09\x2a\0\0\0", 5));
	CHECK(!f.done);
	frame_parser_release(&parser);
	buf_release(&args);
	teardown(&f);
}

/* The operations that the peer has been sent, a letter each; waits for `n` of them. */
static void ops_sent(const struct fixture *f, size_t n, char *ret)
{
	struct frame_parser parser = { 0 };
	struct frame frame;
	uint8_t bytes[4096];
	ssize_t got;
	size_t i = 0;

	while (i < n) {
		while ((got = read(f->peer, bytes, sizeof(bytes))) < 0)
			CHECK(!loop_once(f->loop, 100));
		CHECK(!frame_parser_feed(&parser, bytes, (size_t)got));
		while (frame_parser_next(&parser, &frame) && frame.type == F_FS && i < n)
			ret[i++] = (char)('a' + frame.payload[0]);
	}
	ret[n] = 0;
	frame_parser_release(&parser);
}

static void ask_sync(void *arg)
{
	struct fixture *f = arg;
	const struct buf nothing = { 0 };

	f->infos++;
	(void)agent_fs(f->agent, FS_SYNC, &nothing, WAIT_MS, NULL, NULL);
}

/* Closing wakes no guest, but goes before what is asked next, or soon; so does what is said to go before it. */
static void some_wait_for_the_next(void)
{
	const char close_[] = { 'a' + FS_CLOSE, 0 }, both[] = { 'a' + FS_CLOSE, 'a' + FS_STATFS, 0 };
	const char sync_[] = { 'a' + FS_SYNC, 0 },
		   three[] = { 'a' + FS_CLOSE, 'a' + FS_SYNC, 'a' + FS_STATFS, 0 };
	struct buf handle = { 0 };
	const struct buf nothing = { 0 };
	struct fixture f;
	char ops[8], byte;

	setup_by_hand(&f);
	say_attached(&f, 1);
	drain_peer(&f);
	buf_put_u32(&handle, 42);
	f.infos = 0;

	CHECK(agent_fs(f.agent, FS_CLOSE, &handle, WAIT_MS, NULL, NULL));
	CHECK(read(f.peer, &byte, 1) < 0 && errno == EAGAIN);
	CHECK(agent_fs(f.agent, FS_STATFS, &nothing, WAIT_MS, NULL, NULL));
	ops_sent(&f, 2, ops);
	CHECK(!strcmp(ops, both));

	CHECK(agent_fs(f.agent, FS_CLOSE, &handle, WAIT_MS, NULL, NULL));
	ops_sent(&f, 1, ops);
	CHECK(!strcmp(ops, close_));

	CHECK(agent_fs(f.agent, FS_CLOSE, &handle, WAIT_MS, NULL, NULL));
	agent_before_next(f.agent, ask_sync, &f);
	CHECK(!f.infos && read(f.peer, &byte, 1) < 0);
	CHECK(agent_fs(f.agent, FS_STATFS, &nothing, WAIT_MS, NULL, NULL));
	CHECK(f.infos == 1);
	ops_sent(&f, 3, ops);
	CHECK(!strcmp(ops, three));

	agent_before_next(f.agent, ask_sync, &f);
	ops_sent(&f, 1, ops);
	CHECK(!strcmp(ops, sync_) && f.infos == 2);

	agent_before_next(f.agent, ask_sync, &f);
	agent_before_next(f.agent, ask_sync, &f);
	CHECK(f.infos == 3);
	agent_free(f.agent);
	f.agent = NULL;
	CHECK(f.infos == 4);
	buf_release(&handle);
	teardown(&f);
}

static void too_large_a_job_fails(void)
{
	static char line[PROTO_SPEC_MAX];
	const struct job_spec spec = { .cmd = line, .cmd_len = sizeof(line) };
	struct fixture f;

	setup_by_hand(&f);
	memset(line, 'x', sizeof(line));
	agent_job_start(f.agent, 1, &spec);
	CHECK(!f.jobs[1].started);
	UNTIL(&f, f.jobs[1].started);
	CHECK(f.jobs[1].err == -E2BIG);
	teardown(&f);
}

/* n requests that the guest takes, and answers from the last to the first: CPU time of this side for each, in ns. */
static double ns_of_an_answer(unsigned n)
{
	struct frame_parser parser = { 0 };
	const struct buf nothing = { 0 };
	uint32_t *ids = calloc(n, sizeof(*ids));
	struct timespec start, end;
	struct frame frame = { 0 };
	uint8_t bytes[4096];
	struct fixture f;
	unsigned asked = 0, i;
	ssize_t got;

	setup_by_hand(&f);
	say_attached(&f, 1);
	drain_peer(&f);
	f.done = 0;
	for (i = 0; i < n; i++)
		CHECK(agent_fs(f.agent, FS_STATFS, &nothing, WAIT_MS, on_fs, &f));
	while (asked < n) {
		got = read(f.peer, bytes, sizeof(bytes));
		if (got > 0)
			CHECK(!frame_parser_feed(&parser, bytes, (size_t)got));
		else
			CHECK(!loop_once(f.loop, 100));
		while (asked < n && frame_parser_next(&parser, &frame))
			ids[asked++] = frame.id;
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
	for (i = n; i--;) {
		say(&f, F_FS_REPLY, 1, ids[i], "\0\0\0\0", 4);
		if (!(i % 64))
			UNTIL(&f, f.done == n - i);
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
	CHECK(!f.fs_err && agent_idle(f.agent));
	frame_parser_release(&parser);
	teardown(&f);
	free(ids);
	return ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) / n;
}

static void an_answer_costs_the_same_among_thousands(void)
{
	const double few = ns_of_an_answer(256), many = ns_of_an_answer(16000);

	if (many > 3 * few + 2000)
		printf("%.0f ns an answer among 256, %.0f among 16,000\n", few, many);
	CHECK(many <= 3 * few + 2000);
}

/* Who would not wait longer is told of a silence; who would waits on. */
static void a_silence_is_told_once(void)
{
	enum { LOCKED_MS = 1500, SYNC_MS = 2000, LONG_MS = 30000 };
	const struct buf nothing = { 0 };
	struct agent_call *silent;
	struct fixture f;

	setup_by_hand(&f);
	say_attached(&f, 1);
	f.done = 0;
	silent = agent_fs(f.agent, FS_STATFS, &nothing, LOCKED_MS, on_fs, &f);
	CHECK(silent && agent_fs(f.agent, FS_STATFS, &nothing, LOCKED_MS, on_fs, &f) &&
	      agent_fs(f.agent, FS_STATFS, &nothing, 1, on_fs, &f) &&
	      agent_fs(f.agent, FS_STATFS, &nothing, SYNC_MS, on_fs, &f) &&
	      agent_fs(f.agent, FS_STATFS, &nothing, LONG_MS, on_fs, &f));
	agent_fs_give_up(silent, LOCKED_MS);
	CHECK(!f.done && agent_silent(f.agent));
	UNTIL(&f, f.done == 2);
	CHECK(f.fs_err == -ETIMEDOUT);
	CHECK(!loop_once(f.loop, 0) && f.done == 2);
	/* One that is asked now is refused, and the longer ones still wait. */
	CHECK(agent_fs(f.agent, FS_STATFS, &nothing, LOCKED_MS, on_fs, &f));
	UNTIL(&f, f.done == 3);
	silent = agent_fs(f.agent, FS_STATFS, &nothing, LONG_MS, on_fs, &f);
	agent_fs_give_up(silent, LONG_MS);
	UNTIL(&f, f.done == 5);
	CHECK(f.fs_err == -ETIMEDOUT);
	teardown(&f);
}

static double ns_of_a_silence(unsigned n)
{
	enum { LOCKED_MS = 1500, LONG_MS = 30000, SILENCES = 300 };
	const struct buf nothing = { 0 };
	struct agent_call *calls[SILENCES];
	struct fixture f;
	struct timespec start, end;
	unsigned i;

	setup_by_hand(&f);
	say_attached(&f, 1);
	for (i = 0; i < n; i++)
		CHECK(agent_fs(f.agent, FS_STATFS, &nothing, LONG_MS, on_fs, &f));
	for (i = 0; i < SILENCES; i++)
		CHECK(calls[i] = agent_fs(f.agent, FS_STATFS, &nothing, LOCKED_MS, on_fs, &f));
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
	for (i = 0; i < SILENCES; i++)
		agent_fs_give_up(calls[i], LOCKED_MS);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
	agent_free(f.agent);
	f.agent = NULL;
	teardown(&f);
	return ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) / SILENCES;
}

static void a_silence_costs_the_same_among_thousands(void)
{
	const double few = ns_of_a_silence(256), many = ns_of_a_silence(16000);

	if (many > 3 * few + 5000)
		printf("%.0f ns a silence among 256, %.0f among 16,000\n", few, many);
	CHECK(many <= 3 * few + 5000);
}

static void one_call_too_many_fails(void)
{
	enum { MAX = 16384, MORE = 5000 };
	const struct buf nothing = { 0 };
	struct fixture f;
	unsigned i;

	setup_by_hand(&f);
	say_attached(&f, 1);
	f.done = 0;
	for (i = 0; i < MAX + MORE; i++) {
		/* Half of them are given up, and still have an answer to come. */
		struct agent_call *call = agent_fs(f.agent, FS_STATFS, &nothing, WAIT_MS, on_fs, &f);

		CHECK(call);
		if (i < MAX && i % 2)
			agent_fs_cancel(call);
	}
	UNTIL(&f, f.done == MORE);
	CHECK(f.fs_err == -ETIMEDOUT);
	agent_free(f.agent);
	f.agent = NULL;
	CHECK(f.done == MORE + MAX / 2 && f.fs_err == -EHOSTDOWN);
	teardown(&f);
}

int main(void)
{
	TEST(silence_times_out);
	TEST(the_end_of_the_guest_ends_all_calls);
	TEST(freeing_ends_all_calls);
	TEST(a_callback_may_free_the_agent);
	TEST(stale_frames_are_dropped);
	TEST(malformed_frames_are_dropped);
	TEST(a_guest_may_refuse_a_capture_only);
	TEST(what_a_guest_asks_is_checked);
	TEST(a_flood_of_jobs_ends_their_list);
	TEST(reasons_are_one_printable_line);
	TEST(a_late_clock_is_set_again);
	TEST(a_guest_that_does_not_read_is_waited_for);
	TEST(a_cancelled_open_is_closed_again);
	TEST(some_wait_for_the_next);
	TEST(too_large_a_job_fails);
	TEST(an_answer_costs_the_same_among_thousands);
	TEST(a_silence_is_told_once);
	TEST(a_silence_costs_the_same_among_thousands);
	TEST(one_call_too_many_fails);
	return 0;
}
