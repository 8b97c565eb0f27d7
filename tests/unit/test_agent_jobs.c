/* SPDX-License-Identifier: MIT */
/* test_agent_jobs.c - commands, identities and the machine: the host's end and the real agent */
#include "tests/unit/agent_fixture.h"

static void start(struct fixture *f, uint32_t job, const struct job_spec *spec, bool want)
{
	struct job_spec copy = *spec;
	char user[16];

	/* Only root may be someone else. */
	snprintf(user, sizeof(user), "%u", geteuid());
	copy.user = user;
	if (!copy.cmd_len)
		copy.cmd_len = strlen(copy.cmd);
	agent_job_start(f->agent, job, &copy);
	if (want) {
		agent_job_want(f->agent, job, 1, 1 << 30);
		agent_job_want(f->agent, job, 2, 1 << 30);
	}
}

/* A real agent, and a shell line in it. */
static void setup_job(struct fixture *f, const char *line, bool want)
{
	const struct job_spec spec = { .cmd = (char *)line };

	setup_real(f);
	start(f, 1, &spec, want);
}

static void finish(struct fixture *f, uint32_t job)
{
	UNTIL(f, f->jobs[job].exited && f->jobs[job].ended[1] && f->jobs[job].ended[2]);
}

static void check_out(const struct fixture *f, uint32_t job, int stream, const char *text)
{
	const struct buf *out = &f->jobs[job].out[stream];

	if (out->len != strlen(text) || memcmp(buf_bytes(out), text, out->len) != 0)
		fprintf(stderr, "got %.*s\n", (int)out->len, (const char *)buf_bytes(out));
	CHECK(out->len == strlen(text) && !memcmp(buf_bytes(out), text, out->len));
}

static void a_command(void)
{
	char *env[] = { (char *)"BOTH=job", (char *)"JOB=a  b", NULL };
	const struct job_spec spec = {
		.cmd = (char *)"echo \"$MACHINE $BOTH $JOB $SBX_NAME $PWD\"; echo err >&2; cat; exit 7",
		.cwd = (char *)"/usr",
		.env = env,
	};
	struct fixture f;

	setup_real(&f);
	start(&f, 1, &spec, true);
	finish(&f, 1);
	CHECK(f.jobs[1].started && !f.jobs[1].err);
	CHECK(!f.jobs[1].signaled && f.jobs[1].code == 7);
	check_out(&f, 1, 1, "m job a  b vm /usr\n");
	check_out(&f, 1, 2, "err\n");
	teardown(&f);
}

static void commands_that_cannot_be_run(void)
{
	const struct job_spec argv = { .cmd = (char *)"/no/such\0x\0", .cmd_len = 11, .is_argv = 1 };
	const struct job_spec cwd = { .cmd = (char *)"true", .cwd = (char *)"/no/such" };
	const struct job_spec empty = { .cmd = (char *)"\0", .cmd_len = 1, .is_argv = 1 };
	struct fixture f;

	setup_real(&f);
	start(&f, 1, &argv, true);
	start(&f, 2, &cwd, true);
	start(&f, 3, &empty, true);
	UNTIL(&f, f.jobs[1].started && f.jobs[2].started && f.jobs[3].started);
	CHECK(f.jobs[1].err == -ENOENT && !strcmp(f.jobs[1].reason, "/no/such: No such file or directory"));
	CHECK(f.jobs[2].err == -ENOENT && f.jobs[3].err == -EINVAL);
	UNTIL(&f, f.jobs[1].ended[1] && f.jobs[1].ended[2]);
	CHECK(!f.jobs[1].exited);
	teardown(&f);
}

static void arguments_are_taken_as_they_are(void)
{
	const struct job_spec spec = { .cmd = (char *)"printf\0%s|\0$HOME\0\0a  b",
				       .cmd_len = 22,
				       .is_argv = 1 };
	struct fixture f;

	setup_real(&f);
	start(&f, 1, &spec, true);
	finish(&f, 1);
	check_out(&f, 1, 1, "$HOME||a  b|");
	teardown(&f);
}

/* A mebibyte through cat, never sending beyond the grant. */
static void input_obeys_the_grant(void)
{
	enum { SIZE = 1024 * 1024 };
	const struct job_spec spec = { .cmd = (char *)"cat", .stdin_open = 1 };
	static uint8_t data[SIZE];
	struct fixture f;
	size_t sent = 0, n;

	for (n = 0; n < SIZE; n++)
		data[n] = (uint8_t)(n * 7 + n / 251);
	setup_real(&f);
	start(&f, 1, &spec, true);
	while (sent < SIZE) {
		UNTIL(&f, f.jobs[1].stdin_max > sent);
		n = f.jobs[1].stdin_max - sent;
		n = n < SIZE - sent ? n : SIZE - sent;
		agent_job_stdin(f.agent, 1, data + sent, n);
		sent += n;
	}
	agent_job_stdin_eof(f.agent, 1);
	finish(&f, 1);
	CHECK(f.jobs[1].out[1].len == SIZE && !memcmp(buf_bytes(&f.jobs[1].out[1]), data, SIZE));
	teardown(&f);
}

static void input_nobody_reads_breaks(void)
{
	const struct job_spec spec = { .cmd = (char *)"exec 0<&-; echo closed; sleep 1000", .stdin_open = 1 };
	struct fixture f;

	setup_real(&f);
	start(&f, 1, &spec, true);
	UNTIL(&f, f.jobs[1].stdin_max == UINT64_MAX);
	agent_job_kill(f.agent, 1, SIGKILL, WAIT_MS, on_done, &f);
	finish(&f, 1);
	CHECK(f.jobs[1].signaled && f.jobs[1].code == SIGKILL);
	teardown(&f);
}

/* Nothing is sent unasked, and no more than is asked for. */
static void output_obeys_the_grant(void)
{
	const struct job_spec spec = { .cmd = (char *)"echo 0123456789; sleep 1000", .stdin_open = 1 };
	struct fixture f;
	unsigned i;

	setup_real(&f);
	start(&f, 1, &spec, false);
	UNTIL(&f, f.jobs[1].started);
	for (i = 1; i <= 11; i++) {
		CHECK(f.jobs[1].out[1].len == i - 1);
		agent_job_want(f.agent, 1, 1, i);
		UNTIL(&f, f.jobs[1].out[1].len >= i);
	}
	check_out(&f, 1, 1, "0123456789\n");
	agent_job_forget(f.agent, 1);
	teardown(&f);
}

static void a_child_may_hold_the_output(void)
{
	const struct job_spec spec = { .cmd = (char *)"exec 3<&0; (read x <&3; echo late) & echo early",
				       .stdin_open = 1 };
	struct fixture f;

	setup_real(&f);
	start(&f, 1, &spec, true);
	UNTIL(&f, f.jobs[1].exited);
	CHECK(!f.jobs[1].ended[1]);
	agent_job_stdin(f.agent, 1, "go\n", 3);
	finish(&f, 1);
	check_out(&f, 1, 1, "early\nlate\n");
	teardown(&f);
}

static void a_terminal(void)
{
	const struct job_spec spec = { .cmd = (char *)"stty size; read line; echo got $line; cat",
				       .tty = 1,
				       .rows = 33,
				       .cols = 99,
				       .stdin_open = 1 };
	struct fixture f;

	setup_real(&f);
	start(&f, 1, &spec, true);
	UNTIL(&f, f.jobs[1].out[1].len >= 7);
	check_out(&f, 1, 1, "33 99\r\n");
	agent_job_stdin(f.agent, 1, "hello\n", 6);
	agent_job_stdin_eof(f.agent, 1);
	finish(&f, 1);
	check_out(&f, 1, 1, "33 99\r\nhello\r\ngot hello\r\n");
	CHECK(!f.jobs[1].signaled && !f.jobs[1].code);
	teardown(&f);
}

static void a_killed_group_ends(void)
{
	struct fixture f;

	setup_job(&f, "sleep 1000 & sleep 1000 & echo go; wait", true);
	UNTIL(&f, f.jobs[1].out[1].len);
	agent_job_kill(f.agent, 1, SIGTERM, WAIT_MS, on_done, &f);
	finish(&f, 1);
	CHECK(f.jobs[1].signaled && f.jobs[1].code == SIGTERM);
	teardown(&f);
}

/* It becomes a fork, of generation 9, and says which jobs it has. */
static void fork_and_list(struct fixture *f)
{
	f->done = 0;
	agent_quiesce(f->agent, QUIESCE_PAUSE, WAIT_MS, on_done, f);
	UNTIL(f, f->done);
	CHECK(!f->err.code);
	attach_soon(f, ATTACH_FORK, 9, false);
	UNTIL(f, f->done);
	CHECK(!f->err.code);
	f->done = 0;
	agent_job_list(f->agent, on_info, on_done, f);
	UNTIL(f, f->done);
}

/* What a fork inherits: the job, with its unread output, under a new generation. */
static void a_fork_takes_over_the_jobs(void)
{
	const struct job_spec spec = { .name = "counter",
				       .cmd = (char *)"echo one; echo two; read x; exit 5",
				       .stdin_open = 1,
				       .merge = 1 };
	struct fixture f;

	setup_real(&f);
	start(&f, 1, &spec, false);
	agent_job_want(f.agent, 1, 1, 4);
	UNTIL(&f, f.jobs[1].out[1].len == 4);
	agent_job_want(f.agent, 1, 1, 5); /* asked for by the source: not valid for the fork */
	UNTIL(&f, f.jobs[1].out[1].len == 5);
	fork_and_list(&f);
	CHECK(f.infos == 1 && f.info.id == 1 && !strcmp(f.info_name, "counter"));
	CHECK(f.info.state == JOB_RUNNING && f.info.stdout_at == 5 && !f.info.stdout_eof);
	CHECK(f.info.stdin_at == 0 && f.info.stdin_max == f.jobs[1].stdin_max);
	agent_job_want(f.agent, 1, 1, 1 << 20);
	agent_job_want(f.agent, 1, 2, 1 << 20);
	agent_job_stdin(f.agent, 1, "x\n", 2);
	finish(&f, 1);
	check_out(&f, 1, 1, "one\ntwo\n");
	CHECK(f.jobs[1].code == 5);
	f.done = 0;
	agent_job_list(f.agent, on_info, on_done, &f);
	UNTIL(&f, f.done);
	CHECK(f.infos == 2 && f.info.state == JOB_EXITED && f.info.code == 5 && f.info.stdout_eof &&
	      f.info.stderr_eof);
	agent_job_forget(f.agent, 1);
	f.done = 0;
	agent_job_list(f.agent, on_info, on_done, &f);
	UNTIL(&f, f.done);
	CHECK(f.infos == 2);
	teardown(&f);
}

/* What happens to a job while nobody but a rehearsal listens is in the list that the fork gets. */
static void a_rehearsal_takes_nothing_from_the_fork(void)
{
	const struct job_spec spec = { .name = "worker", .cmd = (char *)"read x; exit 5", .stdin_open = 1 };
	struct fixture f;

	setup_real(&f);
	start(&f, 1, &spec, false);
	UNTIL(&f, f.jobs[1].stdin_max);
	agent_job_stdin(f.agent, 1, "x\n", 2);
	f.done = 0;
	agent_quiesce(f.agent, QUIESCE_PAUSE, WAIT_MS, on_done, &f);
	UNTIL(&f, f.done);
	CHECK(!f.err.code);
	attach_soon(&f, ATTACH_REHEARSE, 9, false);
	UNTIL(&f, f.done && f.jobs[1].exited);
	CHECK(!f.err.code && f.jobs[1].code == 5);
	fork_and_list(&f);
	CHECK(f.infos == 1 && f.info.id == 1 && f.info.state == JOB_EXITED && f.info.code == 5);
	teardown(&f);
}

/* A quiesced guest says nothing, whatever happens in it; and says it afterwards. */
static void a_quiesced_guest_is_silent(void)
{
	struct fixture f;

	setup_job(&f, "echo unread; sleep 1000", false);
	UNTIL(&f, f.jobs[1].started);
	f.done = 0;
	agent_quiesce(f.agent, QUIESCE_PAUSE, WAIT_MS, on_done, &f);
	agent_job_want(f.agent, 1, 1, 1 << 20); /* held back until it listens again */
	UNTIL(&f, f.done);
	CHECK(!f.err.code);
	CHECK(!kill((pid_t)f.jobs[1].pid, SIGKILL));
	CHECK(!loop_once(f.loop, 200));
	CHECK(!f.jobs[1].exited && !f.jobs[1].out[1].len);
	agent_unquiesce(f.agent);
	UNTIL(&f, f.jobs[1].exited);
	CHECK(f.jobs[1].signaled);
	teardown(&f);
}

static void a_refused_identity(void)
{
	const struct identity identity = { .name = "refused", .generation = 2, .kind = ATTACH_FORK };
	struct fixture f;

	setup_real(&f);
	f.done = 0;
	agent_attach(f.agent, &identity, WAIT_MS, on_done, &f);
	UNTIL(&f, f.done);
	CHECK(f.err.code == -EIO && !strcmp(f.err.text, "a hook failed"));
	teardown(&f);
}

/* The stream breaks off within a frame; the preamble mends it and the frame is not believed. */
static void a_cut_stream_is_mended(void)
{
	const struct job_spec spec = { .cmd = (char *)"read x; echo got $x", .stdin_open = 1 };
	struct buf cut = { 0 };
	struct fixture f;

	setup_real(&f);
	start(&f, 1, &spec, true);
	UNTIL(&f, f.jobs[1].stdin_max);
	frame_put(&cut, F_JOB_STDIN, 1, 1, "from the cut frame\n", 19);
	CHECK(write(f.fd, buf_bytes(&cut), 30) == 30);
	attach_soon(&f, ATTACH_RESUME, 2, true);
	UNTIL(&f, f.done);
	CHECK(!f.err.code);
	agent_job_stdin(f.agent, 1, "whole\n", 6);
	finish(&f, 1);
	check_out(&f, 1, 1, "got whole\n");
	buf_release(&cut);
	teardown(&f);
}

static void resizing(void)
{
	struct fixture f;

	setup_real(&f);
	f.done = 0;
	agent_resize(f.agent, 1, 1 << 20, WAIT_MS, on_done, &f);
	UNTIL(&f, f.done == 1);
	CHECK(!f.err.code);
	agent_resize(f.agent, 3, 1ull << 40, WAIT_MS, on_done, &f);
	UNTIL(&f, f.done == 2);
	CHECK(f.err.code == -EBUSY && !strcmp(f.err.text, "3 CPUs, too much memory"));
	teardown(&f);
}

static void powering_off(void)
{
	struct fixture f;

	setup_real(&f);
	f.done = 0;
	agent_quiesce(f.agent, QUIESCE_PAUSE, WAIT_MS, on_done, &f);
	agent_poweroff(f.agent);
	UNTIL(&f, f.done);
	teardown(&f);
}

int main(void)
{
	TEST(a_command);
	TEST(commands_that_cannot_be_run);
	TEST(arguments_are_taken_as_they_are);
	TEST(input_obeys_the_grant);
	TEST(input_nobody_reads_breaks);
	TEST(output_obeys_the_grant);
	TEST(a_child_may_hold_the_output);
	TEST(a_terminal);
	TEST(a_killed_group_ends);
	TEST(a_fork_takes_over_the_jobs);
	TEST(a_rehearsal_takes_nothing_from_the_fork);
	TEST(a_quiesced_guest_is_silent);
	TEST(a_refused_identity);
	TEST(a_cut_stream_is_mended);
	TEST(resizing);
	TEST(powering_off);
	return 0;
}
