/* SPDX-License-Identifier: MIT */
/*
 * blank.c - the daemon's side of one sbx-vmm process, and a few of them kept ready
 *
 * Whatever goes wrong with a process, it ends in one place, on_exit: a broken socket or a request that cannot
 * be sent only kills it.
 */
#include "vm/kvm/blank.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/list.h"
#include "vm/process.h"
#include "vm/vmm/vmm.h"

enum {
	POOL_SIZE = 4,
	/* A fork is usually followed by another one, or by the first commands in it: stay out of their way.
	 */
	REFILL_NS = 20 * 1000 * 1000,
};

struct shell {
	struct list pool; /* linked while it waits there */
	uint64_t memory;
	unsigned cpus;
	const struct shell_events *events; /* NULL: in the pool */
	void *owner;
	struct process *process; /* NULL when it has ended */
	int control;
	struct watch *watch;
	int agent[2],
		console[2]; /* [0] ours, [1] the process's: kept, so that our end stays open without it */
	struct vmm_stats *stats;
	bool clean;
	struct err why;
};

/* Shells that wait, all of the shape wanted last. */
static struct {
	struct list shells;
	unsigned n;
	const struct engine_env *env; /* NULL: nothing is wanted */
	uint64_t memory;
	unsigned cpus;
	struct timer refill;
} pool = { .shells = LIST_INIT(pool.shells) };

/* ---- messages */

int shell_send(struct shell *shell, const struct control_request *request, const int *fds, unsigned nfds,
	       struct err *err)
{
	const int rc = control_send(shell->control, request, sizeof(*request), fds, nfds);

	return rc ? err_sys(err, rc, "cannot send a request to sbx-vmm") : 0;
}

void shell_break(struct shell *shell, const struct err *why)
{
	if (!shell->process)
		return;
	if (!shell->why.code)
		shell->why = *why;
	process_kill(shell->process, SIGKILL);
}

static void close_fds(int fds[CONTROL_FDS_MAX])
{
	int i;

	for (i = 0; i < CONTROL_FDS_MAX; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* What a process says of its end: why the machine ended, or that it could not be made. */
static void note_end(struct shell *shell, const struct control_reply *reply)
{
	const bool ended = reply->type == CONTROL_ENDED;

	if (!ended && !reply->code)
		return;
	shell->clean = ended && !reply->code;
	err_set(&shell->why, ended ? -EHOSTDOWN : reply->code, "%s", reply->text);
}

static void on_message(void *arg, uint32_t events)
{
	struct shell *shell = arg;
	struct control_reply reply;
	struct err err;
	int fds[CONTROL_FDS_MAX], rc;

	(void)events;
	rc = control_recv(shell->control, &reply, sizeof(reply), fds);
	if (rc == -EAGAIN)
		return;
	if (rc < 0) {
		watch_free(shell->watch);
		shell->watch = NULL;
		/* Usually its process has just ended, which says more; if not, we have no hold on it any
		 * more. */
		err_sys(&err, rc, "lost the connection to sbx-vmm");
		if (rc != -EPIPE && rc != -ECONNRESET)
			shell_break(shell, &err);
		return;
	}
	reply.text[sizeof(reply.text) - 1] = '\0';
	if (reply.type == CONTROL_ENDED || !shell->events)
		note_end(shell, &reply);
	else if (reply.type != CONTROL_READY) {
		shell->events->reply(shell->owner, &reply, fds);
		return; /* the shell may be gone */
	}
	close_fds(fds);
}

static void explain_end(struct shell *shell, int status)
{
	struct control_reply reply;
	int fds[CONTROL_FDS_MAX];

	/* Its last words may still be in the socket; answers before them are nobody's any more. */
	while (control_recv(shell->control, &reply, sizeof(reply), fds) >= 0) {
		reply.text[sizeof(reply.text) - 1] = '\0';
		if (reply.type == CONTROL_ENDED)
			note_end(shell, &reply);
		close_fds(fds);
	}
	if (shell->why.code)
		return;
	if (WIFSIGNALED(status))
		err_set(&shell->why, -EHOSTDOWN, "sbx-vmm was killed by signal %d (%s)", WTERMSIG(status),
			strsignal(WTERMSIG(status)));
	else
		err_set(&shell->why, -EHOSTDOWN, "sbx-vmm exited with status %d", WEXITSTATUS(status));
}

static void on_exit_process(void *arg, int status)
{
	struct shell *shell = arg;

	shell->process = NULL;
	watch_free(shell->watch);
	shell->watch = NULL;
	explain_end(shell, status);
	if (shell->events)
		shell->events->ended(shell->owner, shell->clean, &shell->why);
	else
		shell_free(shell); /* in the pool: the next one who wants a shell finds out why */
}

/* ---- processes */

static void close_pair(int fds[2])
{
	int i;

	for (i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

void shell_free(struct shell *shell)
{
	if (!shell)
		return;
	if (!list_empty(&shell->pool))
		pool.n--;
	list_del(&shell->pool);
	if (shell->process)
		process_abandon(shell->process);
	watch_free(shell->watch);
	if (shell->control >= 0)
		close(shell->control);
	close_pair(shell->agent);
	close_pair(shell->console);
	if (shell->stats)
		munmap(shell->stats, sizeof(*shell->stats));
	free(shell);
}

static int spawn(struct shell *shell, const struct engine_env *env, int control_fd, int stats_fd,
		 struct err *err)
{
	const int keep[] = { control_fd, shell->agent[1], shell->console[1], stats_fd };
	char program[CONTROL_PATH_MAX], numbers[6][24];
	const char *const argv[] = { program,     "--control", numbers[0], "--agent",  numbers[1],
				     "--console", numbers[2],  "--stats",  numbers[3], "--memory",
				     numbers[4],  "--cpus",    numbers[5], NULL };
	const struct process_spec spec = {
		.argv = argv, .keep = keep, .nkeep = 4, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1
	};
	int i;

	snprintf(program, sizeof(program), "%s/sbx-vmm", env->libexec);
	for (i = 0; i < 4; i++)
		snprintf(numbers[i], sizeof(numbers[i]), "%d", keep[i]);
	snprintf(numbers[4], sizeof(numbers[4]), "%" PRIu64, shell->memory);
	snprintf(numbers[5], sizeof(numbers[5]), "%u", shell->cpus);
	return process_spawn(env->loop, &spec, on_exit_process, shell, &shell->process, err);
}

/* Shared counters; *ret_fd is for the process. */
static int make_stats(struct shell *shell, int *ret_fd, struct err *err)
{
	void *stats;

	*ret_fd = memfd_create("sbx-stats", MFD_CLOEXEC);
	if (*ret_fd < 0 || ftruncate(*ret_fd, sizeof(*shell->stats)) < 0)
		return err_sys(err, -errno, "cannot make a machine's counters");
	stats = mmap(NULL, sizeof(*shell->stats), PROT_READ, MAP_SHARED, *ret_fd, 0);
	if (stats == MAP_FAILED)
		return err_sys(err, -errno, "cannot map a machine's counters");
	shell->stats = stats;
	return 0;
}

static int pair(int type, int fds[2], struct err *err)
{
	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		return err_sys(err, -errno, "cannot connect a machine");
	return 0;
}

static int shell_new(const struct engine_env *env, uint64_t memory, unsigned cpus, struct shell **ret,
		     struct err *err)
{
	struct shell *shell = calloc(1, sizeof(*shell));
	int control[2] = { -1, -1 }, stats_fd = -1;
	int rc;

	if (!shell)
		return err_set(err, -ENOMEM, "out of memory");
	list_init(&shell->pool);
	shell->memory = memory;
	shell->cpus = cpus;
	shell->control = shell->agent[0] = shell->agent[1] = shell->console[0] = shell->console[1] = -1;
	rc = pair(SOCK_STREAM, shell->agent, err);
	if (!rc)
		rc = pair(SOCK_STREAM, shell->console, err);
	if (!rc)
		rc = pair(SOCK_SEQPACKET, control, err);
	if (!rc)
		rc = make_stats(shell, &stats_fd, err);
	if (rc)
		goto out;
	shell->control = control[0];
	shell->watch = watch_new(env->loop, shell->control, EPOLLIN, on_message, shell);
	if (!shell->watch)
		rc = err_sys(err, -errno, "cannot watch a machine");
	else
		rc = spawn(shell, env, control[1], stats_fd, err);
out:
	if (control[1] >= 0)
		close(control[1]);
	if (stats_fd >= 0)
		close(stats_fd);
	if (rc)
		shell_free(shell);
	else
		*ret = shell;
	return rc;
}

int shell_get(const struct engine_env *env, uint64_t memory, unsigned cpus, const struct shell_events *events,
	      void *owner, struct shell **ret, struct err *err)
{
	struct shell *shell = list_first(&pool.shells, struct shell, pool);
	int rc;

	if (shell && shell->memory == memory && shell->cpus == cpus) {
		list_del(&shell->pool);
		pool.n--;
		shell_background(shell, false);
	} else {
		rc = shell_new(env, memory, cpus, &shell, err);
		if (rc)
			return rc;
	}
	shell->events = events;
	shell->owner = owner;
	*ret = shell;
	return 0;
}

void shell_background(struct shell *shell, bool background)
{
	if (shell->process)
		process_background(shell->process, background);
}

int shell_agent_fd(const struct shell *shell)
{
	return shell->agent[0];
}

int shell_console_fd(const struct shell *shell)
{
	return shell->console[0];
}

pid_t shell_pid(const struct shell *shell)
{
	return shell->process ? process_pid(shell->process) : -1;
}

void shell_stats(const struct shell *shell, uint64_t *ret_exits, uint64_t *ret_disk_written)
{
	*ret_exits = atomic_load_explicit(&shell->stats->exits, memory_order_relaxed);
	*ret_disk_written = atomic_load_explicit(&shell->stats->disk_written, memory_order_relaxed);
}

/* ---- the pool */

static void drop_pooled(void)
{
	struct shell *shell;

	while ((shell = list_first(&pool.shells, struct shell, pool)))
		shell_free(shell);
}

static void refill(void *arg)
{
	struct shell *shell;

	(void)arg;
	if (pool.n >= POOL_SIZE || shell_new(pool.env, pool.memory, pool.cpus, &shell, NULL))
		return; /* who needs one will make it, and hear why it cannot be made */
	shell_background(shell, true);
	list_add(&pool.shells, &shell->pool);
	pool.n++;
	/* One at a time: other events come between. */
	timer_start(pool.env->loop, &pool.refill, 0, refill, NULL);
}

void shell_pool_want(const struct engine_env *env, uint64_t memory, unsigned cpus)
{
	if (pool.memory != memory || pool.cpus != cpus)
		drop_pooled();
	pool.env = env;
	pool.memory = memory;
	pool.cpus = cpus;
	timer_start(env->loop, &pool.refill, REFILL_NS, refill, NULL);
}

void shell_pool_clear(void)
{
	timer_stop(&pool.refill);
	drop_pooled();
}
