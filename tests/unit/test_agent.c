/* SPDX-License-Identifier: MIT */
/*
 * test_agent.c - both ends of the agent channel, over a socket pair
 *
 * First the host's end against frames made by hand, as a broken or hostile guest might send them; then
 * against the real agent, which runs in a child process with a machine that only notes what it is told.
 */
#include "vm/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "vm/guest/agent.h"

enum { NJOBS = 8, WAIT_MS = 20000 };

/* What a job has said. */
struct seen {
	bool started, exited, signaled, ended[3];
	int err;
	char reason[ERR_TEXT_MAX];
	uint32_t pid, code;
	uint64_t stdin_max;
	struct buf out[3];
};

struct fixture {
	struct loop *loop;
	struct agent *agent;
	int fd, peer; /* the host's end; the guest's, when it is played by hand, or -1 */
	pid_t guest;
	bool ready, drained;
	unsigned done, infos;
	struct err err;
	int fs_err;
	struct buf results;
	struct job_info info; /* the last one; without its spec */
	char info_name[PROTO_NAME_MAX + 1];
	struct seen jobs[NJOBS];
};

/* ---- callbacks */

static void on_ready(void *owner)
{
	((struct fixture *)owner)->ready = true;
}

static void on_started(void *owner, uint32_t job, int err, const char *reason, uint32_t pid)
{
	struct fixture *f = owner;

	CHECK(job < NJOBS);
	f->jobs[job].started = true;
	f->jobs[job].pid = pid;
	f->jobs[job].err = err;
	snprintf(f->jobs[job].reason, sizeof(f->jobs[job].reason), "%s", reason);
}

static void on_output(void *owner, uint32_t job, int stream, const void *data, size_t n)
{
	struct fixture *f = owner;

	CHECK(job < NJOBS);
	CHECK(!f->jobs[job].ended[stream]);
	if (n)
		buf_add(&f->jobs[job].out[stream], data, n);
	else
		f->jobs[job].ended[stream] = true;
}

static void on_stdin_max(void *owner, uint32_t job, uint64_t offset)
{
	struct fixture *f = owner;

	CHECK(job < NJOBS);
	f->jobs[job].stdin_max = offset;
}

static void on_exit_of(void *owner, uint32_t job, bool signaled, uint32_t code)
{
	struct fixture *f = owner;

	CHECK(job < NJOBS);
	CHECK(!f->jobs[job].exited);
	f->jobs[job].exited = true;
	f->jobs[job].signaled = signaled;
	f->jobs[job].code = code;
}

static const struct agent_events events = { on_ready, on_started, on_output, on_stdin_max, on_exit_of };

static void on_done(void *arg, const struct err *err)
{
	struct fixture *f = arg;

	f->done++;
	f->err = *err;
}

static void on_fs(void *arg, int err, struct reader *results)
{
	struct fixture *f = arg;

	f->done++;
	f->fs_err = err;
	buf_clear(&f->results);
	buf_add(&f->results, results->p, reader_left(results));
}

static void on_info(void *arg, const struct job_info *info)
{
	struct fixture *f = arg;

	f->infos++;
	f->info = *info;
	snprintf(f->info_name, sizeof(f->info_name), "%s", info->spec.name);
}

static void on_drain(void *owner)
{
	((struct fixture *)owner)->drained = true;
}

/* Run the loop until the condition holds. */
#define UNTIL(f, cond)                                                                                       \
	do {                                                                                                 \
		const uint64_t end_ = now_mono_ns() + WAIT_MS * 1000000ull;                                  \
                                                                                                             \
		while (!(cond)) {                                                                            \
			CHECK(now_mono_ns() < end_);                                                         \
			CHECK(!loop_once((f)->loop, 100));                                                   \
		}                                                                                            \
	} while (0)

/* ---- set up */

static void setup(struct fixture *f, int host, int peer)
{
	*f = (struct fixture){ .fd = host, .peer = peer };
	f->loop = loop_new();
	CHECK(f->loop);
	f->agent = agent_new(f->loop, host, &events, f);
	CHECK(f->agent);
}

static void setup_by_hand(struct fixture *f)
{
	int fds[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
	setup(f, fds[0], fds[1]);
}

static void teardown(struct fixture *f)
{
	int i, j, status;

	agent_free(f->agent);
	close(f->fd);
	if (f->peer >= 0)
		close(f->peer);
	if (f->guest) {
		CHECK(waitpid(f->guest, &status, 0) == f->guest);
		CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
	}
	for (i = 0; i < NJOBS; i++)
		for (j = 0; j < 3; j++)
			buf_release(&f->jobs[i].out[j]);
	buf_release(&f->results);
	loop_free(f->loop);
}

static void attach_soon(struct fixture *f, enum attach_kind kind, uint32_t generation, bool resync)
{
	static char *const env[] = { (char *)"MACHINE=m", (char *)"BOTH=machine", NULL };
	const struct identity identity = { "vm", generation, kind, resync, env };

	f->done = 0;
	agent_attach(f->agent, &identity, WAIT_MS, on_done, f);
	CHECK(!f->done);
}

/* ---- a guest played by hand */

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
	agent_quiesce(f.agent, 20, on_done, &f);
	CHECK(!f.done);
	UNTIL(&f, f.done);
	CHECK(f.err.code == -ETIMEDOUT && f.err.text[0]);
	/* The answer to the first is not one to the second. */
	f.done = 0;
	agent_quiesce(f.agent, 20, on_done, &f);
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
	agent_quiesce(f.agent, WAIT_MS, on_done, &f);
	CHECK(agent_fs(f.agent, FS_STATFS, &nothing, WAIT_MS, on_fs, &f));
	close(f.peer);
	f.peer = -1;
	UNTIL(&f, f.done == 2);
	CHECK(f.err.code == -EHOSTDOWN && f.fs_err == -EHOSTDOWN);
	/* And those that come later, though not from inside the call. */
	agent_quiesce(f.agent, WAIT_MS, on_done, &f);
	CHECK(f.done == 2);
	UNTIL(&f, f.done == 3);
	CHECK(f.err.code == -EHOSTDOWN);
	teardown(&f);
}

static void freeing_ends_all_calls(void)
{
	struct fixture f;

	setup_by_hand(&f);
	agent_quiesce(f.agent, WAIT_MS, on_done, &f);
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
	agent_quiesce(f.agent, WAIT_MS, free_agent, &f);
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
	say(&f, F_JOB_EXIT, 1, 2, "\2\0\0\0\0", 5); /* neither exited nor signaled */
	CHECK(write(f.peer, "noise SBX1 noise noise noise", 28) == 28);
	say(&f, F_JOB_EXIT, 1, 1, "\0\7\0\0\0", 5);
	UNTIL(&f, f.jobs[1].exited);
	CHECK(f.jobs[1].code == 7);
	CHECK(!f.jobs[2].exited && !f.jobs[3].exited && !f.done && !f.ready);
	CHECK(f.jobs[3].err == -EPROTO || !f.jobs[3].started);
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

/* ---- the real agent */

/* What the machine was told; the child's own. */
static uint32_t machine_cpus = 1;

static int fake_attach(const struct guest_identity *identity, struct err *err)
{
	if (!strcmp(identity->name, "refused"))
		return err_set(err, -EIO, "a hook failed");
	return 0;
}

static int fake_resize(uint32_t cpus, uint64_t memory, struct err *err)
{
	return memory > 1 << 30 ? err_set(err, -EBUSY, "%u CPUs, too much memory", cpus) : 0;
}

static void fake_size(uint32_t *ret_cpus, uint64_t *ret_memory)
{
	*ret_cpus = machine_cpus;
	*ret_memory = 512 << 20;
}

static void fake_poweroff(void)
{
	_exit(0);
}

static const struct guest_machine fake_machine = { fake_attach, fake_resize, fake_size, fake_poweroff,
						   false };

static void setup_real(struct fixture *f)
{
	int fds[2];
	pid_t pid;

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
	pid = fork();
	if (!pid) {
		close(fds[0]);
		_exit(guest_serve(fds[1], &fake_machine) != 0);
	}
	CHECK(pid > 0);
	close(fds[1]);
	setup(f, fds[0], -1);
	f->guest = pid;
	UNTIL(f, f->ready);
	attach_soon(f, ATTACH_BOOT, 1, false);
	UNTIL(f, f->done);
	CHECK(!f->err.code);
}

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
	agent_job_kill(f.agent, 1, SIGKILL);
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
	const struct job_spec spec = { .cmd = (char *)"sleep 1000 & sleep 1000 & echo go; wait" };
	struct fixture f;

	setup_real(&f);
	start(&f, 1, &spec, true);
	UNTIL(&f, f.jobs[1].out[1].len);
	agent_job_kill(f.agent, 1, SIGTERM);
	finish(&f, 1);
	CHECK(f.jobs[1].signaled && f.jobs[1].code == SIGTERM);
	teardown(&f);
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
	f.done = 0;
	agent_quiesce(f.agent, WAIT_MS, on_done, &f);
	UNTIL(&f, f.done);
	CHECK(!f.err.code);
	attach_soon(&f, ATTACH_FORK, 9, false);
	UNTIL(&f, f.done);
	CHECK(!f.err.code);
	f.done = 0;
	agent_job_list(f.agent, on_info, on_done, &f);
	UNTIL(&f, f.done);
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
	agent_quiesce(f.agent, WAIT_MS, on_done, &f);
	UNTIL(&f, f.done);
	CHECK(!f.err.code);
	attach_soon(&f, ATTACH_REHEARSE, 9, false);
	UNTIL(&f, f.done && f.jobs[1].exited);
	CHECK(!f.err.code && f.jobs[1].code == 5);
	f.done = 0;
	agent_quiesce(f.agent, WAIT_MS, on_done, &f);
	UNTIL(&f, f.done);
	CHECK(!f.err.code);
	attach_soon(&f, ATTACH_FORK, 9, false);
	UNTIL(&f, f.done);
	CHECK(!f.err.code);
	f.done = 0;
	agent_job_list(f.agent, on_info, on_done, &f);
	UNTIL(&f, f.done);
	CHECK(f.infos == 1 && f.info.id == 1 && f.info.state == JOB_EXITED && f.info.code == 5);
	teardown(&f);
}

/* A quiesced guest says nothing, whatever happens in it; and says it afterwards. */
static void a_quiesced_guest_is_silent(void)
{
	const struct job_spec spec = { .cmd = (char *)"echo unread; sleep 1000" };
	struct fixture f;

	setup_real(&f);
	start(&f, 1, &spec, false);
	UNTIL(&f, f.jobs[1].started);
	f.done = 0;
	agent_quiesce(f.agent, WAIT_MS, on_done, &f);
	agent_job_want(f.agent, 1, 1, 1 << 20); /* after the quiesce: not heard */
	UNTIL(&f, f.done);
	CHECK(!f.err.code);
	CHECK(!kill((pid_t)f.jobs[1].pid, SIGKILL));
	CHECK(!loop_once(f.loop, 200));
	CHECK(!f.jobs[1].exited && !f.jobs[1].out[1].len);
	agent_unquiesce(f.agent);
	UNTIL(&f, f.jobs[1].exited);
	CHECK(f.jobs[1].signaled && !f.jobs[1].out[1].len);
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
	agent_quiesce(f.agent, WAIT_MS, on_done, &f);
	agent_poweroff(f.agent);
	UNTIL(&f, f.done);
	teardown(&f);
}

/* ---- files */

static int fs(struct fixture *f, enum fs_op op, const struct buf *args)
{
	f->done = 0;
	CHECK(agent_fs(f->agent, op, args, WAIT_MS, on_fs, f));
	CHECK(!f->done);
	UNTIL(f, f->done);
	return f->fs_err;
}

static int fs_path(struct fixture *f, enum fs_op op, const char *dir, const char *name, struct buf *args)
{
	char path[256];

	snprintf(path, sizeof(path), "%s%s", dir, name);
	buf_clear(args);
	buf_put_str(args, path);
	if (op == FS_OPEN)
		buf_put_u32(args, O_RDWR);
	if (op == FS_READDIR)
		buf_put_u64(args, 0);
	return fs(f, op, args);
}

static void files_are_made_read_and_removed(void)
{
	char dir[] = "/tmp/test_agent.XXXXXX", text[64];
	struct buf args = { 0 };
	struct fs_attr attr;
	struct reader r;
	struct fixture f;
	uint32_t handle;

	CHECK(mkdtemp(dir));
	setup_real(&f);
	snprintf(text, sizeof(text), "%s/file", dir);
	buf_put_str(&args, text);
	buf_put_u32(&args, O_WRONLY | O_EXCL);
	buf_put_u32(&args, 04751);
	buf_put_u32(&args, geteuid());
	buf_put_u32(&args, getegid());
	CHECK(!fs(&f, FS_CREATE, &args));
	r = reader_init(buf_bytes(&f.results), f.results.len);
	handle = get_u32(&r);
	fs_attr_get(&r, &attr);
	CHECK(!r.bad && handle && S_ISREG(attr.mode) && (attr.mode & 07777) == 04751 && !attr.size);
	CHECK(fs(&f, FS_CREATE, &args) == -EEXIST);

	buf_clear(&args);
	buf_put_u32(&args, handle);
	buf_put_u64(&args, 2);
	buf_add(&args, "text", 4);
	CHECK(!fs(&f, FS_WRITE, &args));
	buf_clear(&args);
	buf_put_u32(&args, handle);
	CHECK(!fs(&f, FS_CLOSE, &args) && fs(&f, FS_CLOSE, &args) == -EBADF);

	CHECK(!fs_path(&f, FS_OPEN, dir, "/file", &args));
	r = reader_init(buf_bytes(&f.results), f.results.len);
	CHECK(get_u32(&r) != handle);
	handle = handle + 1;
	buf_clear(&args);
	buf_put_u32(&args, handle);
	buf_put_u64(&args, 0);
	buf_put_u32(&args, PROTO_DATA_MAX);
	CHECK(!fs(&f, FS_READ, &args) && f.results.len == 6 && !memcmp(buf_bytes(&f.results), "\0\0text", 6));
	buf_clear(&args);
	buf_put_u32(&args, handle);
	buf_put_u64(&args, 0);
	buf_put_u32(&args, PROTO_DATA_MAX + 1);
	CHECK(fs(&f, FS_READ, &args) == -EINVAL);

	/* A fork's host is another: it has no files open. */
	attach_soon(&f, ATTACH_FORK, 2, false);
	UNTIL(&f, f.done);
	buf_clear(&args);
	buf_put_u32(&args, handle);
	buf_put_u64(&args, 0);
	buf_put_u32(&args, 10);
	CHECK(fs(&f, FS_READ, &args) == -EBADF);
	CHECK(!fs_path(&f, FS_UNLINK, dir, "/file", &args) &&
	      fs_path(&f, FS_GETATTR, dir, "/file", &args) == -ENOENT);
	CHECK(!fs_path(&f, FS_RMDIR, dir, "", &args));
	buf_release(&args);
	teardown(&f);
}

static void attributes_are_set(void)
{
	char dir[] = "/tmp/test_agent.XXXXXX", path[64];
	const struct fs_attr want = {
		.mode = 0640, .size = 12345, .atime_ns = 1000000000123456789, .mtime_ns = (uint64_t)-1
	};
	struct buf args = { 0 };
	struct fs_attr attr;
	struct fixture f;
	struct reader r;
	int fd;

	CHECK(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/f", dir);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && !close(fd));
	setup_real(&f);
	buf_put_str(&args, path);
	buf_put_u32(&args, 0);
	buf_put_u32(&args, FSV_MODE | FSV_SIZE | FSV_ATIME | FSV_MTIME);
	fs_attr_put(&args, &want);
	CHECK(!fs(&f, FS_SETATTR, &args));
	r = reader_init(buf_bytes(&f.results), f.results.len);
	fs_attr_get(&r, &attr);
	CHECK(!r.bad && attr.mode == (S_IFREG | 0640) && attr.size == 12345);
	CHECK(attr.atime_ns == want.atime_ns && attr.mtime_ns == want.mtime_ns); /* one before 1970 */
	CHECK(!unlink(path) && !rmdir(dir));
	buf_release(&args);
	teardown(&f);
}

static void links_are_not_followed(void)
{
	char dir[] = "/tmp/test_agent.XXXXXX", path[64];
	struct buf args = { 0 };
	struct fs_attr attr;
	struct fixture f;
	struct reader r;

	CHECK(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/link", dir);
	CHECK(!symlink("/etc/passwd", path));
	setup_real(&f);
	CHECK(!fs_path(&f, FS_GETATTR, dir, "/link", &args));
	r = reader_init(buf_bytes(&f.results), f.results.len);
	fs_attr_get(&r, &attr);
	CHECK(S_ISLNK(attr.mode));
	CHECK(!fs_path(&f, FS_READLINK, dir, "/link", &args));
	r = reader_init(buf_bytes(&f.results), f.results.len);
	CHECK(get_u32(&r) == strlen("/etc/passwd") && !memcmp(r.p, "/etc/passwd", strlen("/etc/passwd")));
	CHECK(fs_path(&f, FS_OPEN, dir, "/link", &args) == -ELOOP);
	CHECK(fs_path(&f, FS_OPEN, "/proc/self/root", "/etc/passwd", &args) == -ELOOP);
	CHECK(!unlink(path) && !rmdir(dir));
	buf_release(&args);
	teardown(&f);
}

static void only_regular_files_are_opened(void)
{
	char dir[] = "/tmp/test_agent.XXXXXX", path[64];
	struct buf args = { 0 };
	struct fixture f;

	CHECK(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/fifo", dir);
	CHECK(!mkfifo(path, 0600));
	setup_real(&f);
	CHECK(fs_path(&f, FS_OPEN, dir, "/fifo", &args) == -EACCES);
	CHECK(fs_path(&f, FS_OPEN, "/dev", "/null", &args) == -EACCES);
	CHECK(fs_path(&f, FS_OPEN, dir, "", &args) == -EISDIR);
	CHECK(!unlink(path) && !rmdir(dir));
	buf_release(&args);
	teardown(&f);
}

static void paths_that_are_none(void)
{
	static const char *const bad[] = { "",       "etc",     "/etc/",   "//etc",
					   "/./etc", "/etc/..", "/../etc", "/etc/." };
	struct buf args = { 0 };
	struct fixture f;
	size_t i;

	setup_real(&f);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(fs_path(&f, FS_GETATTR, bad[i], "", &args) == -EINVAL);
	CHECK(!fs_path(&f, FS_GETATTR, "/", "", &args));
	CHECK(fs_path(&f, FS_RMDIR, "/", "", &args) == -EBUSY);
	CHECK(fs_path(&f, FS_UNLINK, "/", "", &args) == -EBUSY);
	buf_clear(&args);
	CHECK(fs(&f, FS_GETATTR, &args) == -EINVAL);
	CHECK(fs(&f, (enum fs_op)99, &args) == -ENOSYS);
	buf_release(&args);
	teardown(&f);
}

/* More names than one reply holds, each seen once. */
static void a_large_directory_is_listed_in_parts(void)
{
	enum { NFILES = 1500 };
	char dir[] = "/tmp/test_agent.XXXXXX", name[PROTO_NAME_MAX];
	static bool seen[NFILES];
	struct buf args = { 0 };
	struct fs_attr attr;
	struct fixture f;
	struct reader r;
	unsigned i, n, parts = 0, total = 0;
	uint64_t cookie = 0;
	bool more = true;
	int dirfd, fd;

	CHECK(mkdtemp(dir));
	dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(dirfd >= 0);
	for (i = 0; i < NFILES; i++) {
		snprintf(name, sizeof(name), "file-with-a-longer-name-%u", i);
		fd = openat(dirfd, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
		CHECK(fd >= 0 && !close(fd));
	}
	setup_real(&f);
	for (; more; parts++) {
		buf_clear(&args);
		buf_put_str(&args, dir);
		buf_put_u64(&args, cookie);
		CHECK(!fs(&f, FS_READDIR, &args));
		r = reader_init(buf_bytes(&f.results), f.results.len);
		more = get_u8(&r);
		for (n = get_u32(&r); n; n--, total++) {
			cookie = get_u64(&r);
			get_str(&r, name, sizeof(name));
			fs_attr_get(&r, &attr);
			CHECK(!r.bad && S_ISREG(attr.mode) &&
			      sscanf(name, "file-with-a-longer-name-%u", &i) == 1);
			CHECK(i < NFILES && !seen[i]);
			seen[i] = true;
		}
		CHECK(!r.bad && !reader_left(&r));
	}
	CHECK(total == NFILES && parts > 1);
	for (i = 0; i < NFILES; i++) {
		snprintf(name, sizeof(name), "file-with-a-longer-name-%u", i);
		CHECK(!unlinkat(dirfd, name, 0));
	}
	CHECK(!close(dirfd) && !rmdir(dir));
	buf_release(&args);
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
	TEST(reasons_are_one_printable_line);
	TEST(a_guest_that_does_not_read_is_waited_for);
	TEST(a_cancelled_open_is_closed_again);
	TEST(too_large_a_job_fails);
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
	TEST(files_are_made_read_and_removed);
	TEST(attributes_are_set);
	TEST(links_are_not_followed);
	TEST(only_regular_files_are_opened);
	TEST(paths_that_are_none);
	TEST(a_large_directory_is_listed_in_parts);
	return 0;
}
