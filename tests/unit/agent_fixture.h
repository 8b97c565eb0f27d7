/* SPDX-License-Identifier: MIT */
/*
 * agent_fixture.h - the host's end of an agent channel over a socket pair, for unit tests
 *
 * The other end is played by hand (setup_by_hand), or is the real agent in a child process, with a machine
 * that only notes what it is told (setup_real). What callbacks say is kept in the fixture.
 */
#ifndef SBX_TESTS_AGENT_FIXTURE_H
#define SBX_TESTS_AGENT_FIXTURE_H

#include "vm/agent/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "vm/agent/guest/agent.h"

enum { NJOBS = 8, WAIT_MS = 20000 };

/* What a job has said. */
struct seen {
	bool started, exited, signaled, ended[3];
	int err;
	char reason[ERR_TEXT_MAX];
	uint32_t pid, code;
	uint8_t shell;
	uint64_t written[2];
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
	unsigned asked; /* how often, and what the last was */
	uint32_t asked_id, asked_number;
	enum guest_verb asked_verb;
	char asked_name[PROTO_NAME_MAX + 1];
};

/* ---- callbacks */

static inline void on_ready(void *owner)
{
	((struct fixture *)owner)->ready = true;
}

static inline void on_started(void *owner, uint32_t job, int err, const char *reason, uint32_t pid,
			      uint8_t shell)
{
	struct fixture *f = owner;

	CHECK(job < NJOBS);
	f->jobs[job].started = true;
	f->jobs[job].pid = pid;
	f->jobs[job].err = err;
	f->jobs[job].shell = shell;
	snprintf(f->jobs[job].reason, sizeof(f->jobs[job].reason), "%s", reason);
}

static inline void on_output(void *owner, uint32_t job, int stream, const void *data, size_t n)
{
	struct fixture *f = owner;

	CHECK(job < NJOBS);
	CHECK(!f->jobs[job].ended[stream]);
	if (n)
		buf_add(&f->jobs[job].out[stream], data, n);
	else
		f->jobs[job].ended[stream] = true;
}

static inline void on_stdin_max(void *owner, uint32_t job, uint64_t offset)
{
	struct fixture *f = owner;

	CHECK(job < NJOBS);
	f->jobs[job].stdin_max = offset;
}

static inline void on_exit_of(void *owner, uint32_t job, bool signaled, uint32_t code,
			      const uint64_t written[2])
{
	struct fixture *f = owner;

	CHECK(job < NJOBS);
	CHECK(!f->jobs[job].exited);
	f->jobs[job].exited = true;
	f->jobs[job].signaled = signaled;
	f->jobs[job].code = code;
	f->jobs[job].written[0] = written[0];
	f->jobs[job].written[1] = written[1];
}

static inline void on_guest_asked(void *owner, uint32_t id, enum guest_verb verb, uint32_t number,
				  const char *name)
{
	struct fixture *f = owner;

	f->asked++;
	f->asked_id = id;
	f->asked_verb = verb;
	f->asked_number = number;
	snprintf(f->asked_name, sizeof(f->asked_name), "%s", name);
}

static const struct agent_events events = { .ready = on_ready,
					    .job_started = on_started,
					    .job_output = on_output,
					    .job_stdin_max = on_stdin_max,
					    .job_exit = on_exit_of,
					    .guest_asked = on_guest_asked };

static inline void on_done(void *arg, const struct err *err)
{
	struct fixture *f = arg;

	f->done++;
	f->err = *err;
}

static inline void on_fs(void *arg, int err, struct reader *results)
{
	struct fixture *f = arg;

	f->done++;
	f->fs_err = err;
	buf_clear(&f->results);
	buf_add(&f->results, results->p, reader_left(results));
}

static inline void on_info(void *arg, const struct job_info *info)
{
	struct fixture *f = arg;

	f->infos++;
	f->info = *info;
	snprintf(f->info_name, sizeof(f->info_name), "%s", info->spec.name);
}

static inline void on_drain(void *owner)
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

static inline void setup(struct fixture *f, int host, int peer)
{
	*f = (struct fixture){ .fd = host, .peer = peer };
	f->loop = loop_new();
	CHECK(f->loop);
	f->agent = agent_new(f->loop, host, &events, f);
	CHECK(f->agent);
}

static inline void setup_by_hand(struct fixture *f)
{
	int fds[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
	setup(f, fds[0], fds[1]);
}

static inline void teardown(struct fixture *f)
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

static inline void attach_soon(struct fixture *f, enum attach_kind kind, uint32_t generation, bool resync)
{
	static char *const env[] = { (char *)"MACHINE=m", (char *)"BOTH=machine", NULL };
	const struct identity identity = {
		.name = "vm", .generation = generation, .kind = kind, .resync = resync, .env = env
	};

	f->done = 0;
	agent_attach(f->agent, &identity, WAIT_MS, on_done, f);
	CHECK(!f->done);
}

/* ---- the real agent */

/* What the machine was told; the child's own. */
static uint32_t machine_cpus = 1;

static inline int fake_attach(const struct guest_identity *identity, struct err *err)
{
	if (!strcmp(identity->name, "refused"))
		return err_set(err, -EIO, "a hook failed");
	return 0;
}

static inline int fake_resize(uint32_t cpus, uint64_t memory, struct err *err)
{
	return memory > 1 << 30 ? err_set(err, -EBUSY, "%u CPUs, too much memory", cpus) : 0;
}

static inline void fake_size(uint32_t *ret_cpus, uint64_t *ret_memory)
{
	*ret_cpus = machine_cpus;
	*ret_memory = 512 << 20;
}

static inline void fake_poweroff(void)
{
	_exit(0);
}

/* The time of the last F_CLOCK or F_UNQUIESCE. */
static uint64_t fake_time_ns;

static void fake_clock(uint64_t real_ns)
{
	fake_time_ns = real_ns;
}

/* Whether there are hooks before a capture is said by a variable of the agent's environment, and what they do. */
static bool fake_hooks_there(enum guest_hooks hooks)
{
	return hooks == HOOKS_SNAPSHOT && getenv("FAKE_HOOKS");
}

static int fake_hooks_run(enum guest_hooks hooks, char *const *env, struct err *err)
{
	(void)env;
	return fake_hooks_there(hooks) && !strcmp(getenv("FAKE_HOOKS"), "refuse")
		       ? err_set(err, -EIO, "not now")
		       : 0;
}

/* Where programs of the guest's ask: an address that only this test knows. */
static inline socklen_t fake_address(struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	/* An abstract name, with a NUL before it. */
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
			   (size_t)snprintf(ret->sun_path + 1, sizeof(ret->sun_path) - 1, "sbx-ask-%d",
					    (int)getpgid(0)));
}

static int fake_listen(void)
{
	struct sockaddr_un addr;
	const socklen_t size = fake_address(&addr);
	const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return !bind(fd, (const struct sockaddr *)&addr, size) && !listen(fd, 8) ? fd : -1;
}

/* A test may change it before setup_real. */
static struct guest_machine fake_machine = { .attach = fake_attach,
					     .resize = fake_resize,
					     .size = fake_size,
					     .clock = fake_clock,
					     .hooks_there = fake_hooks_there,
					     .hooks_run = fake_hooks_run,
					     .listen = fake_listen,
					     .poweroff = fake_poweroff };

static inline void setup_real(struct fixture *f)
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

#endif
