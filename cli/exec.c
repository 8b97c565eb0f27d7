/* SPDX-License-Identifier: MIT */
/*
 * exec.c - sbx exec: run a command in a sandbox as if it were one here
 *
 * Makes a job in VM/exec, and lets threads copy: ours to its stdin, its stdout and stderr to ours. They block
 * in plain read(2) and write(2), so a slow reader of ours stalls the command and nothing else. One more
 * thread takes signals and passes them on; all others have them blocked. The main thread reads `wait`, which
 * returns when the command ended, and then waits for the ends of the output.
 *
 * With a terminal on both sides the job gets a terminal too, ours is set to raw mode, and so ^C is a byte
 * that the guest's terminal turns into a signal.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "cli/mount.h"
#include "cli/sbx.h"
#include "util/buf.h"
#include "util/io.h"

struct exec_job {
	char vm[PATH_MAX];       /* the sandbox's directory */
	char dir[PATH_MAX + 64]; /* its exec/NAME */
	bool tty;
	struct termios cooked; /* our terminal's settings, where tty */
	int stdin_fd;
};

static int fail(const char *what, const char *path)
{
	fprintf(stderr, "sbx: %s %s: %s\n", what, path, strerror(errno));
	return -1;
}

static int find_vm(struct exec_job *job, const char *vm)
{
	char state[PATH_MAX + 8];

	if (find_in_mount("", vm, job->vm))
		return -1;
	snprintf(state, sizeof(state), "%s/state", job->vm);
	return access(state, F_OK) ? fail("there is no sandbox", job->vm) : 0;
}

static int make_job(struct exec_job *job)
{
	unsigned i;

	for (i = 0; i < 1000; i++) {
		snprintf(job->dir, sizeof(job->dir), "%s/exec/sbx-%d-%u", job->vm, (int)getpid(), i);
		if (!mkdir(job->dir, 0777))
			return 0;
		if (errno != EEXIST)
			break;
	}
	return fail("cannot make", job->dir);
}

static int open_file(const struct exec_job *job, const char *name, int flags)
{
	char path[sizeof(job->dir) + 16];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", job->dir, name);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? fail("cannot open", path) : fd;
}

/* One write of the job's file. Returns 0, or -1 and errno. */
static int write_file(const struct exec_job *job, const char *name, const void *data, size_t n)
{
	int fd = open_file(job, name, O_WRONLY), rc, saved;

	if (fd < 0)
		return -1;
	rc = write(fd, data, n) < 0 ? -1 : 0;
	saved = errno;
	close(fd);
	errno = saved;
	return rc;
}

static int set(const struct exec_job *job, const char *name, const char *value)
{
	return write_file(job, name, value, strlen(value)) ? fail("cannot set", name) : 0;
}

static void resize(const struct exec_job *job)
{
	struct winsize size;
	char verb[64];

	if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) || !size.ws_row || !size.ws_col)
		return;
	snprintf(verb, sizeof(verb), "resize %u %u", size.ws_row, size.ws_col);
	(void)write_file(job, "ctl", verb, strlen(verb)); /* a command that has ended has no size */
}

/* ---- threads */

static void restore_terminal(const struct exec_job *job)
{
	if (job->tty)
		(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &job->cooked);
}

static void *copy_stdin(void *arg)
{
	struct exec_job *job = arg;
	char buf[65536];
	ssize_t n;

	while ((n = read(STDIN_FILENO, buf, sizeof(buf))) > 0)
		if (write_all(job->stdin_fd, buf, (size_t)n))
			break; /* the command reads no more, or is no more: `wait` tells */
	close(job->stdin_fd);
	return NULL;
}

static void copy_output(const struct exec_job *job, const char *name, int to)
{
	int from = open_file(job, name, O_RDONLY);
	char buf[65536];
	ssize_t n;

	if (from < 0)
		return;
	while ((n = read(from, buf, sizeof(buf))) > 0) {
		if (!write_all(to, buf, (size_t)n))
			continue;
		/* Nobody wants the rest, as in `sbx exec vm yes | head`: end as a command here would. */
		restore_terminal(job);
		(void)rmdir(job->dir);
		_exit(128 + SIGPIPE);
	}
	close(from);
}

static void *copy_stdout(void *arg)
{
	copy_output(arg, "stdout", STDOUT_FILENO);
	return NULL;
}

static void *copy_stderr(void *arg)
{
	copy_output(arg, "stderr", STDERR_FILENO);
	return NULL;
}

static void handled_signals(sigset_t *set)
{
	static const int signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH };
	size_t i;

	sigemptyset(set);
	for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaddset(set, signals[i]);
}

static void *pass_signals(void *arg)
{
	const struct exec_job *job = arg;
	char verb[32];
	sigset_t set;
	int sig;

	handled_signals(&set);
	for (;;) {
		if (sigwait(&set, &sig))
			continue;
		if (sig == SIGWINCH) {
			if (job->tty)
				resize(job);
			continue;
		}
		snprintf(verb, sizeof(verb), "kill %d", sig);
		(void)write_file(job, "ctl", verb, strlen(verb)); /* it may just have ended */
	}
	return NULL;
}

/* ---- the command */

static int raw_mode(struct exec_job *job)
{
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &job->cooked))
		return fail("cannot use", "the terminal");
	raw = job->cooked;
	cfmakeraw(&raw);
	return tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) ? fail("cannot use", "the terminal") : 0;
}

static int start(const struct exec_job *job, char **argv)
{
	struct buf cmd = { 0 };
	int rc;

	for (; *argv; argv++)
		buf_add(&cmd, *argv, strlen(*argv) + 1);
	if (cmd.failed) {
		errno = ENOMEM;
		rc = -1;
	} else {
		rc = write_file(job, "cmd", buf_bytes(&cmd), cmd.len);
	}
	buf_release(&cmd);
	return rc ? fail("cannot run a command in", job->vm) : 0;
}

/* Is the machine itself still there? Then `failed` is about the command. */
static bool vm_runs(const struct exec_job *job)
{
	char path[PATH_MAX + 8], state[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "%s/state", job->vm);
	f = fopen(path, "re");
	if (!f)
		return false;
	(void)!fgets(state, sizeof(state), f);
	fclose(f);
	return !strcmp(state, "running\n") || !strcmp(state, "paused\n");
}

static int exit_status(const struct exec_job *job)
{
	char status[512];
	ssize_t n = -1;
	int fd, code;

	fd = open_file(job, "wait", O_RDONLY);
	if (fd >= 0) {
		n = read(fd, status, sizeof(status) - 1);
		if (n < 0)
			(void)fail("lost the sandbox", job->vm);
		close(fd);
	}
	if (n < 0)
		return SBX_FAILED;
	status[n] = '\0';
	if (sscanf(status, "exited %d", &code) == 1)
		return code;
	if (sscanf(status, "signaled %d", &code) == 1)
		return 128 + code;
	fprintf(stderr, "sbx: %s", status);
	return vm_runs(job) ? SBX_NOT_FOUND : SBX_FAILED;
}

static int run(struct exec_job *job, char **argv)
{
	pthread_t in, out, err, signals;
	sigset_t set;
	int status;

	handled_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	/* Before the start: a command whose stdin nobody has open reads an empty one. */
	job->stdin_fd = open_file(job, "stdin", O_WRONLY);
	if (job->stdin_fd < 0 || start(job, argv))
		return SBX_FAILED;
	if (job->tty && raw_mode(job))
		return SBX_FAILED;
	if (pthread_create(&signals, NULL, pass_signals, job) || pthread_create(&in, NULL, copy_stdin, job) ||
	    pthread_create(&out, NULL, copy_stdout, job) || pthread_create(&err, NULL, copy_stderr, job)) {
		fprintf(stderr, "sbx: cannot start a thread\n");
		status = SBX_FAILED;
	} else {
		status = exit_status(job);
		pthread_join(out, NULL);
		pthread_join(err, NULL);
	}
	restore_terminal(job);
	return status;
}

static const struct program_option option_table[] = {
	{ 'T', NULL, NULL, "no terminal, even where stdin and stdout are one" },
	{ 'C', NULL, "DIR", "run it in this directory" },
	{ 'e', NULL, "K=V", "set an environment variable; may be repeated" },
	{ 'u', NULL, "USER", "run it as this user" },
	{ 0 },
};

static const char *const forms[] = { "[OPTION...] VM COMMAND [ARGUMENT...]", NULL };

const struct program exec_program = {
	.name = "sbx exec",
	.forms = forms,
	.about =
		"Run a command in a sandbox, with this stdin, stdout and stderr.\n"
		"Signals are passed on, and so is the exit status: 128+N for a command that signal N ended,\n"
		"127 for one that could not be started, 125 where sbx itself failed. Where stdin and stdout "
		"are\n"
		"a terminal the command gets one, too.\n",
	.options = option_table,
	.stop_at_operand = true,
};

int cmd_exec(int argc, char **argv)
{
	struct exec_job job = { .stdin_fd = -1 };
	const char *cwd = NULL, *user = NULL;
	struct buf env = { 0 };
	int opt, status;

	job.tty = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	while ((opt = program_next(&exec_program, argc, argv, &status)) != PROGRAM_OPERANDS) {
		switch (opt) {
		case 'T':
			job.tty = false;
			break;
		case 'C':
			cwd = optarg;
			break;
		case 'e':
			buf_printf(&env, "%s\n", optarg);
			break;
		case 'u':
			user = optarg;
			break;
		default:
			goto out;
		}
	}
	status = SBX_FAILED;
	if (argc - optind < 2) {
		status = program_refuse(&exec_program, "a sandbox and a command are needed");
		goto out;
	}
	buf_add(&env, "", 1);
	if (env.failed || find_vm(&job, argv[optind]) || make_job(&job))
		goto out;
	if ((!cwd || !set(&job, "cwd", cwd)) && (!user || !set(&job, "user", user)) &&
	    (env.len == 1 || !set(&job, "env", (const char *)buf_bytes(&env))) &&
	    (!job.tty || !set(&job, "tty", "1"))) {
		if (job.tty)
			resize(&job);
		status = run(&job, argv + optind + 1);
	}
	(void)rmdir(job.dir); /* fails only where the sandbox is gone, and the job with it */
out:
	buf_release(&env);
	return status;
}
