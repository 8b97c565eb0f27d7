/* SPDX-License-Identifier: MIT */
/*
 * blank.c - the daemon's side of one sbx-vmm process, and a few of them kept ready
 *
 * Whatever goes wrong with a process, it ends in one place, on_exit: a broken socket or a request that cannot
 * be sent only kills it.
 */
#include "vm/kvm/blank.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/closer.h"
#include "util/io.h"
#include "util/list.h"
#include "util/message.h"
#include "vm/process.h"
#include "vm/vmm/vmm.h"

enum {
	POOL_SIZE = 4,
	/* A fork is usually followed by another one, or by the first commands in it: stay out of their
	 * way. */
	REFILL_NS = 20 * 1000 * 1000,
};

struct blank {
	struct list pool; /* linked while it waits there */
	uint64_t memory;
	unsigned cpus;
	const struct blank_events *events; /* NULL: in the pool */
	void *owner;
	struct process *process; /* NULL when it has ended */
	int control;
	struct watch *watch;
	/* [0] ours, [1] the process's: kept, so that our end stays open without it */
	int agent[2], console[2], net[2];
	struct vmm_stats *stats;
	bool clean;
	struct err why;
};

/* Shells that wait, all of the shape wanted last. */
static struct {
	struct list blanks;
	unsigned n;
	const struct engine_env *env; /* NULL: nothing is wanted */
	uint64_t memory;
	unsigned cpus;
	struct timer refill;
} pool = { .blanks = LIST_INIT(pool.blanks) };

/* ---- messages */

int blank_send(struct blank *blank, const struct control_request *request, const int *fds, unsigned nfds,
	       struct err *err)
{
	const int rc = message_send(blank->control, request, sizeof(*request), fds, nfds);

	return rc ? err_sys(err, rc, "cannot send a request to sbx-vmm") : 0;
}

void blank_break(struct blank *blank, const struct err *why)
{
	if (!blank->process)
		return;
	if (!blank->why.code)
		blank->why = *why;
	process_kill(blank->process, SIGKILL);
}

static void close_fds(int fds[CONTROL_REPLY_FDS])
{
	int i;

	for (i = 0; i < CONTROL_REPLY_FDS; i++)
		close_elsewhere(&fds[i]);
}

/* What a process says of its end: why the machine ended, or that it could not be made. */
static void note_end(struct blank *blank, const struct control_reply *reply)
{
	const bool ended = reply->type == CONTROL_ENDED;

	if (!ended && !reply->code)
		return;
	blank->clean = ended && !reply->code;
	err_set(&blank->why, ended ? -EHOSTDOWN : reply->code, "%s", reply->text);
}

static void on_message(void *arg, uint32_t events)
{
	struct blank *blank = arg;
	struct control_reply reply;
	struct err err;
	int fds[CONTROL_REPLY_FDS], rc;

	(void)events;
	rc = message_recv(blank->control, &reply, sizeof(reply), NULL, fds, CONTROL_REPLY_FDS, MSG_DONTWAIT);
	if (rc == -EAGAIN)
		return;
	if (rc < 0) {
		watch_free(blank->watch);
		blank->watch = NULL;
		/* Usually its process has just ended, which says more; if not, we have no hold on it any
		 * more. */
		err_sys(&err, rc, "lost the connection to sbx-vmm");
		if (rc != -EPIPE && rc != -ECONNRESET)
			blank_break(blank, &err);
		return;
	}
	reply.text[sizeof(reply.text) - 1] = '\0';
	if (reply.type == CONTROL_ENDED || !blank->events)
		note_end(blank, &reply);
	else if (reply.type != CONTROL_READY)
		blank->events->reply(blank->owner, &reply, fds); /* the blank may be gone */
	close_fds(fds);
}

static void explain_end(struct blank *blank, const char *why)
{
	struct control_reply reply;
	int fds[CONTROL_REPLY_FDS];

	/* Its last words may still be in the socket; answers before them are nobody's any more. */
	while (message_recv(blank->control, &reply, sizeof(reply), NULL, fds, CONTROL_REPLY_FDS,
			    MSG_DONTWAIT) >= 0) {
		reply.text[sizeof(reply.text) - 1] = '\0';
		if (reply.type == CONTROL_ENDED)
			note_end(blank, &reply);
		close_fds(fds);
	}
	if (blank->why.code)
		return;
	err_set(&blank->why, -EHOSTDOWN, "sbx-vmm %s", why);
}

static void on_exit_process(void *arg, int status, const char *why)
{
	struct blank *blank = arg;

	blank->process = NULL;
	watch_free(blank->watch);
	blank->watch = NULL;
	(void)status;
	explain_end(blank, why);
	if (blank->events)
		blank->events->ended(blank->owner, blank->clean, &blank->why);
	else
		blank_free(blank); /* in the pool: the next one who wants a blank finds out why */
}

/* ---- processes */

static void close_pair(int fds[2])
{
	int i;

	for (i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

void blank_free(struct blank *blank)
{
	if (!blank)
		return;
	if (!list_empty(&blank->pool))
		pool.n--;
	list_del(&blank->pool);
	if (blank->process)
		process_abandon(blank->process);
	watch_free(blank->watch);
	message_hang_up(&blank->control);
	close_pair(blank->agent);
	close_pair(blank->console);
	close_pair(blank->net);
	if (blank->stats)
		munmap(blank->stats, sizeof(*blank->stats));
	free(blank);
}

static int spawn(struct blank *blank, const struct engine_env *env, int control_fd, int stats_fd,
		 struct err *err)
{
	enum { KEEP = 5 };
	const int keep[KEEP] = { control_fd, blank->agent[1], blank->console[1], stats_fd, blank->net[1] };
	char numbers[KEEP + 2][24];
	const char *const args[] = { "--control", numbers[0], "--agent",  numbers[1], "--console",
				     numbers[2],  "--stats",  numbers[3], "--net",    numbers[4],
				     "--memory",  numbers[5], "--cpus",   numbers[6], NULL };
	const struct process_spec spec = {
		.kind = JAIL_VMM, .args = args, .keep = keep, .nkeep = KEEP, .stdin_fd = -1
	};
	int i;

	for (i = 0; i < KEEP; i++)
		snprintf(numbers[i], sizeof(numbers[i]), "%d", PROCESS_FD + i);
	snprintf(numbers[KEEP], sizeof(numbers[KEEP]), "%" PRIu64, blank->memory);
	snprintf(numbers[KEEP + 1], sizeof(numbers[KEEP + 1]), "%u", blank->cpus);
	return process_spawn(env->loop, &spec, on_exit_process, blank, &blank->process, err);
}

static int pair(int type, bool takes_fds, int fds[2], struct err *err)
{
	const int rc = message_pair(type, takes_fds, fds);

	return rc ? err_sys(err, rc, "cannot connect a machine") : 0;
}

static int blank_new(const struct engine_env *env, uint64_t memory, unsigned cpus, struct blank **ret,
		     struct err *err)
{
	struct blank *blank = calloc(1, sizeof(*blank));
	int control[2] = { -1, -1 }, stats_fd = -1;
	void *stats;
	int rc;

	if (!blank)
		return err_set(err, -ENOMEM, "out of memory");
	list_init(&blank->pool);
	blank->memory = memory;
	blank->cpus = cpus;
	blank->control = blank->agent[0] = blank->agent[1] = blank->console[0] = blank->console[1] = -1;
	blank->net[0] = blank->net[1] = -1;
	rc = pair(SOCK_STREAM, false, blank->agent, err);
	if (!rc)
		rc = pair(SOCK_STREAM, false, blank->console, err);
	if (!rc)
		rc = pair(SOCK_SEQPACKET, false, blank->net, err);
	if (!rc)
		rc = pair(SOCK_SEQPACKET, true, control, err);
	blank->control = control[0];
	if (rc)
		goto out;
	rc = memfd_share("sbx-stats", sizeof(*blank->stats), &stats_fd, &stats);
	if (rc) {
		err_sys(err, rc, "cannot share a machine's counters");
		goto out;
	}
	blank->stats = stats;
	blank->watch = watch_new(env->loop, blank->control, EPOLLIN, on_message, blank);
	if (!blank->watch)
		rc = err_sys(err, -errno, "cannot watch a machine");
	else
		rc = spawn(blank, env, control[1], stats_fd, err);
out:
	close_fd(&control[1]);
	close_fd(&stats_fd);
	if (rc)
		blank_free(blank);
	else
		*ret = blank;
	return rc;
}

int blank_get(const struct engine_env *env, uint64_t memory, unsigned cpus, const struct blank_events *events,
	      void *owner, struct blank **ret, struct err *err)
{
	struct blank *blank = list_first(&pool.blanks, struct blank, pool);
	int rc;

	if (blank && blank->memory == memory && blank->cpus == cpus) {
		list_del(&blank->pool);
		pool.n--;
		blank_background(blank, false);
	} else {
		rc = blank_new(env, memory, cpus, &blank, err);
		if (rc)
			return rc;
	}
	blank->events = events;
	blank->owner = owner;
	*ret = blank;
	return 0;
}

void blank_background(struct blank *blank, bool background)
{
	if (blank->process)
		process_background(blank->process, background);
}

struct vm_ends blank_ends(const struct blank *blank)
{
	return (struct vm_ends){ .agent = blank->agent[0],
				 .console = blank->console[0],
				 .net = blank->net[0] };
}

pid_t blank_pid(const struct blank *blank)
{
	return blank->process ? process_pid(blank->process) : -1;
}

void blank_stats(const struct blank *blank, uint64_t *ret_exits, uint64_t *ret_disk_written)
{
	*ret_exits = atomic_load_explicit(&blank->stats->exits, memory_order_relaxed);
	*ret_disk_written = atomic_load_explicit(&blank->stats->disk_written, memory_order_relaxed);
}

/* ---- the pool */

static void drop_pooled(void)
{
	struct blank *blank;

	while ((blank = list_first(&pool.blanks, struct blank, pool)))
		blank_free(blank);
}

static void refill(void *arg)
{
	struct blank *blank;

	(void)arg;
	if (pool.n >= POOL_SIZE || blank_new(pool.env, pool.memory, pool.cpus, &blank, NULL))
		return; /* who needs one will make it, and hear why it cannot be made */
	blank_background(blank, true);
	list_add(&pool.blanks, &blank->pool);
	pool.n++;
	/* One at a time: other events come between. */
	timer_start(pool.env->loop, &pool.refill, 0, refill, NULL);
}

void blank_pool_want(const struct engine_env *env, uint64_t memory, unsigned cpus)
{
	if (pool.memory != memory || pool.cpus != cpus)
		drop_pooled();
	pool.env = env;
	pool.memory = memory;
	pool.cpus = cpus;
	timer_start(env->loop, &pool.refill, REFILL_NS, refill, NULL);
}

void blank_pool_clear(void)
{
	timer_stop(&pool.refill);
	drop_pooled();
}
