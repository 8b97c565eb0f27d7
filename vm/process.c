/* SPDX-License-Identifier: MIT */
/*
 * process.c - child processes of the daemon, started by the launcher in jails (jail/jail.h)
 *
 * A process that ends gives back its memory, which takes milliseconds of a CPU. A hundred that are abandoned
 * at once would leave little of the host to a machine that is started then, so all are stopped, and killed a
 * few at a time and at the lowest priority.
 *
 * The end of a child is seen through its pidfd, which no other process can ever reuse.
 */
#include "vm/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/io.h"
#include "util/log.h"

enum {
	DYING_MAX = 2,        /* abandoned ones that are killed at a time */
	BACKGROUND_STEP = 10, /* of setpriority(2): a tenth of a CPU that another process wants too */
	LEAST_PRIORITY = 19,
	LINE_MAX_LOGGED = 160,
};

struct process {
	struct list link;
	pid_t pid;
	int pidfd;
	int log_fd;  /* its standard error: a memfd of a size that it cannot change */
	int kept_fd; /* the owner's */
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

void process_background(struct process *process, bool background)
{
	const int own = getpriority(PRIO_PROCESS, 0);

	if (launcher_may_renice())
		launcher_nice(process->pid, background ? own + BACKGROUND_STEP : own);
}

static void put_down(struct process *process)
{
	process->dying = true;
	dying++;
	/* Each of its threads, for the last one gives back the memory, and does so at its own priority. */
	launcher_nice(process->pid, LEAST_PRIORITY);
	launcher_kill(process->pid, SIGKILL);
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

/* Its last words, or "". It may have moved the descriptor's offset, which both share, anywhere. */
static void last_line(int log_fd, char ret[LINE_MAX_LOGGED])
{
	char text[1024];
	const off_t end = lseek(log_fd, 0, SEEK_CUR); /* where it would write next */
	const size_t want = end < (off_t)sizeof(text) - 1 ? (size_t)(end > 0 ? end : 0) : sizeof(text) - 1;
	ssize_t n = pread(log_fd, text, want, end - (off_t)want), i;
	const char *line;

	while (n > 0 && text[n - 1] == '\n')
		n--;
	text[n > 0 ? n : 0] = 0;
	/* It may be a guest's text by now, and ends on somebody's terminal. */
	for (i = 0; i < n; i++)
		if (text[i] != '\n' && (text[i] < ' ' || text[i] > '~'))
			text[i] = '?';
	line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	/* The option it is about comes first and may be long; what is wrong with it comes last. */
	if (strlen(line) >= LINE_MAX_LOGGED)
		line += strlen(line) - LINE_MAX_LOGGED + 1;
	snprintf(ret, LINE_MAX_LOGGED, "%.*s", LINE_MAX_LOGGED - 1, line);
}

static void explain(const struct process *process, int status, bool starved, char ret[ERR_TEXT_MAX])
{
	char line[LINE_MAX_LOGGED];

	last_line(process->log_fd, line);
	if (WIFSIGNALED(status) && starved)
		snprintf(ret, ERR_TEXT_MAX, "was killed, for it needs more memory than its limit allows");
	else if (WIFSIGNALED(status))
		snprintf(ret, ERR_TEXT_MAX, "was killed by signal %d (%s)%s%s", WTERMSIG(status),
			 strsignal(WTERMSIG(status)), *line ? ": " : "", line);
	else
		snprintf(ret, ERR_TEXT_MAX, "exited with status %d%s%s", WEXITSTATUS(status),
			 *line ? ": " : "", line);
}

static void reap(struct process *process)
{
	process_exit_fn fn = process->fn;
	void *fn_arg = process->arg;
	char why[ERR_TEXT_MAX];
	int status = SIGKILL; /* if the launcher is gone, everything it started was killed */
	bool starved;

	(void)launcher_reap(process->pid, &status, &starved);
	explain(process, status, starved, why);
	watch_free(process->watch);
	close(process->pidfd);
	close(process->log_fd);
	close_fd(&process->kept_fd);
	list_del(&process->link);
	dying -= process->dying;
	free(process);
	put_down_next();
	if (fn)
		fn(fn_arg, status, why);
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
	struct process *process = calloc(1, sizeof(*process));
	struct launch launch = {
		.kind = spec->kind,
		.args = spec->args,
		.stdin_fd = spec->stdin_fd,
		.keep = spec->keep,
		.nkeep = spec->nkeep,
	};
	int rc;

	if (!process)
		return err_set(err, -ENOMEM, "out of memory");
	list_init(&process->link);
	process->fn = fn;
	process->arg = arg;
	process->kept_fd = -1;
	process->log_fd = launch.log_fd = memfd_new("sbx-log", PROCESS_LOG_BYTES);
	if (process->log_fd < 0) {
		rc = err_sys(err, process->log_fd, "cannot make a log");
		goto fail;
	}
	/* Its size is sealed: nobody can fill our memory with messages. */
	(void)fcntl(process->log_fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
	rc = launcher_spawn(&launch, &process->pid, &process->pidfd, err);
	if (rc)
		goto fail_log;
	process->watch = watch_new(loop, process->pidfd, EPOLLIN, on_exit_event, process);
	if (!process->watch) {
		rc = err_sys(err, -errno, "cannot watch a process");
		launcher_kill(process->pid, SIGKILL);
		(void)launcher_reap(process->pid, &(int){ 0 }, &(bool){ false });
		close(process->pidfd);
		goto fail_log;
	}
	list_add(&children, &process->link);
	*ret = process;
	return 0;
fail_log:
	close(process->log_fd);
fail:
	free(process);
	return rc;
}

pid_t process_pid(const struct process *process)
{
	return process->pid;
}

int *process_keeps(struct process *process)
{
	return &process->kept_fd;
}

void process_kill(struct process *process, int signal)
{
	launcher_kill(process->pid, signal);
}

void process_abandon(struct process *process)
{
	process->fn = NULL;
	if (dying < DYING_MAX)
		put_down(process);
	else
		launcher_kill(process->pid, SIGSTOP);
}
