/* SPDX-License-Identifier: MIT */
/*
 * process.c - child processes of the daemon
 *
 * A child is made as vfork(2) would, with a stack of its own: the daemon stands still for the microseconds
 * until execve, and its page tables, which may be large, are not copied. Until then the child shares our
 * memory, so it makes system calls only, and it reports a failure by storing errno where we see it.
 *
 * A process that ends gives back its memory, which takes milliseconds of a CPU. A hundred that are abandoned
 * at once would leave little of the host to a machine that is started then, so all are stopped, and killed a
 * few at a time and at the lowest priority.
 *
 * Every other descriptor is closed in the child, whether or not somebody forgot O_CLOEXEC. The end of a child
 * is seen through its pidfd, which no other process can ever reuse.
 */
#include "vm/process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	STACK_BYTES = 64 << 10, /* of a child until execve; execvp puts a path of PATH_MAX on it */
	DYING_MAX = 2,          /* abandoned ones that are killed at a time */
	BACKGROUND_STEP = 10,   /* of setpriority(2): a tenth of a CPU that another process wants too */
	LEAST_PRIORITY = 19,
};

struct process {
	struct list link;
	pid_t pid;
	int pidfd;
	struct watch *watch;
	process_exit_fn fn; /* NULL: abandoned */
	void *arg;
	bool dying; /* abandoned and killed, not yet reaped */
};

/* Children not yet reaped; they belong to the daemon as a whole, as the kernel sees it. */
static struct list children = LIST_INIT(children);
static unsigned dying;

unsigned process_count(void)
{
	const struct list *at;
	unsigned n = 0;

	for (at = children.next; at != &children; at = at->next)
		n++;
	return n;
}

/* What the child of clone needs and says; in our stack frame, since we stand still meanwhile. */
struct start {
	const struct process_spec *spec;
	pid_t parent;
	int failure; /* an errno */
};

/* The child's frames are gone without a return when execve comes, which sanitizers would take amiss. */
#define IN_CHILD __attribute__((no_sanitize("address", "undefined")))

IN_CHILD static int child_stdio(int fd, int target, int flags)
{
	if (fd < 0)
		fd = open("/dev/null", flags);
	if (fd < 0)
		return -1;
	/* dup2 onto itself would leave close-on-exec set. */
	return fd == target ? fcntl(fd, F_SETFD, 0) : dup2(fd, target);
}

IN_CHILD static int prepare_child(const struct start *start)
{
	const struct process_spec *spec = start->spec;
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;
	unsigned i;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return -1;
	if (getppid() != start->parent) {
		errno = ESRCH; /* the daemon died before the line above: nobody waits for us */
		return -1;
	}
	if (close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
		return -1;
	for (i = 0; i < spec->nkeep; i++)
		if (fcntl(spec->keep[i], F_SETFD, 0) < 0)
			return -1;
	if (child_stdio(spec->stdin_fd, STDIN_FILENO, O_RDONLY) < 0 ||
	    child_stdio(spec->stdout_fd, STDOUT_FILENO, O_WRONLY) < 0)
		return -1;
	if (spec->stderr_fd >= 0 && child_stdio(spec->stderr_fd, STDERR_FILENO, O_WRONLY) < 0)
		return -1;
	/* A process group of its own keeps the terminal's Ctrl-C with the daemon. */
	if (setpgid(0, 0) < 0)
		return -1;
	sigaction(SIGPIPE, &dfl, NULL);
	sigemptyset(&none);
	return sigprocmask(SIG_SETMASK, &none, NULL);
}

IN_CHILD static int child(void *arg)
{
	struct start *start = arg;

	if (!prepare_child(start))
		execvp(start->spec->argv[0], (char *const *)start->spec->argv);
	start->failure = errno;
	return 127;
}

/* May the daemon put a process back to its own priority? */
static bool may_raise(int own)
{
	static enum { UNKNOWN, NO, YES } may;

	if (may == UNKNOWN) {
		/* Nothing is above -20: setpriority would succeed without a right to. */
		may = own <= -20 || setpriority(PRIO_PROCESS, 0, own - 1) < 0 ? NO : YES;
		if (may == YES)
			(void)setpriority(PRIO_PROCESS, 0, own);
	}
	return may == YES;
}

void process_background(struct process *process, bool background)
{
	const int own = getpriority(PRIO_PROCESS, 0);

	/* Its group is it, with all of its threads. */
	if (may_raise(own))
		(void)setpriority(PRIO_PGRP, (id_t)process->pid, background ? own + BACKGROUND_STEP : own);
}

static void put_down(struct process *process)
{
	process->dying = true;
	dying++;
	/* Each of its threads, for the last one gives back the memory, and does so at its own priority. */
	(void)setpriority(PRIO_PGRP, (id_t)process->pid, LEAST_PRIORITY);
	kill(process->pid, SIGKILL);
}

/* The next of those that wait for it. */
static void put_down_next(void)
{
	struct process *process;

	list_for_each (process, &children, link) {
		if (dying >= DYING_MAX)
			return;
		if (!process->fn && !process->dying)
			put_down(process);
	}
}

static void reap(struct process *process)
{
	process_exit_fn fn = process->fn;
	void *fn_arg = process->arg;
	int status = 0;

	while (waitpid(process->pid, &status, 0) < 0 && errno == EINTR)
		;
	watch_free(process->watch);
	close(process->pidfd);
	list_del(&process->link);
	dying -= process->dying;
	free(process);
	put_down_next();
	if (fn)
		fn(fn_arg, status);
}

static void on_exit_event(void *arg, uint32_t events)
{
	(void)events;
	reap(arg);
}

void process_reap_abandoned(void)
{
	struct process *process, *next;

	/* All at once: nobody else waits for the host by now. */
	list_for_each (process, &children, link)
		if (!process->fn && !process->dying)
			put_down(process);
	list_for_each_safe (process, next, &children, link)
		if (!process->fn)
			reap(process);
}

int process_spawn(struct loop *loop, const struct process_spec *spec, process_exit_fn fn, void *arg,
		  struct process **ret, struct err *err)
{
	struct start start = { .spec = spec, .parent = getpid() };
	struct process *process = calloc(1, sizeof(*process));
	char *stack = malloc(STACK_BYTES);
	sigset_t all, old;

	if (!process || !stack) {
		start.failure = ENOMEM;
		goto fail;
	}
	process->fn = fn;
	process->arg = arg;
	list_init(&process->link);

	/* No handler of ours may run in the child, on memory that is ours. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	process->pid = clone(child, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD,
			     &start, &process->pidfd);
	if (process->pid < 0)
		start.failure = errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (process->pid < 0)
		goto fail;
	if (!start.failure) {
		process->watch = watch_new(loop, process->pidfd, EPOLLIN, on_exit_event, process);
		if (process->watch) {
			free(stack);
			list_add(&children, &process->link);
			*ret = process;
			return 0;
		}
		start.failure = ENOMEM;
	}
	kill(process->pid, SIGKILL);
	while (waitpid(process->pid, NULL, 0) < 0 && errno == EINTR)
		;
	close(process->pidfd);
fail:
	free(stack);
	free(process);
	return err_sys(err, -start.failure, "cannot start %s", spec->argv[0]);
}

pid_t process_pid(const struct process *process)
{
	return process->pid;
}

void process_kill(struct process *process, int signal)
{
	/* Not reaped yet, so the number is still its own. */
	kill(process->pid, signal);
}

void process_abandon(struct process *process)
{
	process->fn = NULL;
	if (dying < DYING_MAX)
		put_down(process);
	else
		kill(process->pid, SIGSTOP);
}
