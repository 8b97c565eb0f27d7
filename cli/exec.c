/* SPDX-License-Identifier: MIT */
/*
 * exec.c - sbx exec: run a command in a sandbox as if it were one here
 *
 * Makes a job in VM/exec, and lets threads copy: ours to its stdin, its stdout and stderr to ours. They block
 * in plain read(2) and write(2), so a slow reader of ours stalls the command and nothing else. The main thread
 * reads `wait`, which returns when the command ended, and then waits for the ends of the output. `hold` is open all
 * the time: however we end, the job ends with us.
 *
 * One more thread takes signals and has each passed on; all others have them blocked. Where that cannot be done (the
 * machine is paused, halted or hung) or takes long enough for another signal, we end by ourselves, as if the signal
 * had been ours: nothing here may wait for a guest without an end to it.
 *
 * With a terminal on both sides the job gets a terminal too, ours is set to raw mode, and so ^C is a byte
 * that the guest's terminal turns into a signal.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "cli/mount.h"
#include "cli/sbx.h"
#include "util/buf.h"
#include "util/io.h"

/* How long a guest may take before whoever sent a signal is told that another one ends us, in seconds. */
enum { PATIENCE = 2 };
/* How long after its deadline the daemon may still tell us of it, and what timeout(1) says then. */
enum { GRACE = 5, TIMED_OUT = 124 };

struct exec_job {
	char vm[PATH_MAX];       /* the sandbox's directory */
	char dir[PATH_MAX + 64]; /* its exec/NAME */
	bool tty;
	struct termios cooked; /* our terminal's settings, where raw */
	bool raw;              /* it is in raw mode */
	int stdin_fd, hold_fd;
	time_t deadline;      /* CLOCK_MONOTONIC; 0: none */
	atomic_bool started;  /* there is a command that signals are for */
	atomic_int under_way; /* the signal that is being passed on; 0: none */
	atomic_flag leaving;
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
	return write_file(job, name, value, strlen(value)) ? mount_complain("sbx", job->dir, name) : 0;
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
	if (job->raw)
		(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &job->cooked);
}

/* End now, from whatever thread. The kernel closes `hold` for us, and the job ends. */
static _Noreturn void leave(struct exec_job *job, int status)
{
	while (atomic_flag_test_and_set(&job->leaving))
		pause();
	restore_terminal(job);
	_exit(status);
}

/* Is the machine one that can do anything? */
static bool vm_runs(const struct exec_job *job)
{
	char path[PATH_MAX + 8], state[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "%s/state", job->vm);
	f = fopen(path, "re");
	if (!f)
		return false;
	if (!fgets(state, sizeof(state), f))
		*state = '\0';
	fclose(f);
	return !strcmp(state, "running\n");
}

static void *copy_stdin(void *arg)
{
	struct exec_job *job = arg;
	char buf[65536];
	ssize_t n;

	while ((n = read(STDIN_FILENO, buf, sizeof(buf))) > 0) {
		/* No terminal of a machine that stands still makes a signal of it. */
		if (job->tty && memchr(buf, job->cooked.c_cc[VINTR], (size_t)n) && !vm_runs(job)) {
			fprintf(stderr, "\r\nsbx: %s does not run; gave up the command\r\n", job->vm);
			leave(job, 128 + SIGINT);
		}
		if (write_all(job->stdin_fd, buf, (size_t)n))
			break; /* the command reads no more, or is no more: `wait` tells */
	}
	close(job->stdin_fd);
	return NULL;
}

static void copy_output(struct exec_job *job, const char *name, int to)
{
	int from = open_file(job, name, O_RDONLY);
	char buf[65536];
	ssize_t n;

	if (from < 0)
		return;
	while ((n = read(from, buf, sizeof(buf))) > 0)
		if (write_all(to, buf, (size_t)n))
			/* Nobody wants the rest, as in `sbx exec vm yes | head`: end as a command here would. */
			leave(job, 128 + SIGPIPE);
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

/* ---- signals */

static void handled_signals(sigset_t *set)
{
	static const int signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH };
	size_t i;

	sigemptyset(set);
	for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaddset(set, signals[i]);
}

static bool ends_us(int sig)
{
	return sig == SIGHUP || sig == SIGINT || sig == SIGQUIT || sig == SIGTERM;
}

/* In a thread of its own, since it may take the guest as long as it likes. */
static void *pass_on(void *arg)
{
	struct exec_job *job = arg;
	const int sig = atomic_load(&job->under_way);
	char verb[32];

	snprintf(verb, sizeof(verb), "kill %d", sig);
	if (write_file(job, "ctl", verb, strlen(verb)) && ends_us(sig)) {
		(void)mount_complain("sbx", job->dir, job->vm);
		fprintf(stderr, "sbx: gave up the command\n");
		leave(job, 128 + sig);
	}
	atomic_store(&job->under_way, 0);
	return NULL;
}

static void take_signal(struct exec_job *job, int sig)
{
	pthread_t thread;

	if (sig == SIGWINCH) {
		if (job->tty && atomic_load(&job->started))
			resize(job);
		return;
	}
	if (!atomic_load(&job->started) || atomic_load(&job->under_way)) {
		if (ends_us(sig))
			leave(job, 128 + sig);
		return;
	}
	atomic_store(&job->under_way, sig);
	if (pthread_create(&thread, NULL, pass_on, job))
		leave(job, 128 + sig);
	pthread_detach(thread);
}

static time_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

static void *take_signals(void *arg)
{
	struct exec_job *job = arg;
	bool told = false;
	struct timespec wait;
	time_t sent = 0;
	sigset_t set;
	int sig;

	handled_signals(&set);
	for (;;) {
		/* Nothing to wait for but a signal: as good as for ever. */
		wait = (struct timespec){ .tv_sec = 1 << 20 };
		if (atomic_load(&job->under_way) && !told)
			wait.tv_sec = PATIENCE;
		if (job->deadline && job->deadline - now() < wait.tv_sec)
			wait.tv_sec = job->deadline > now() ? job->deadline - now() : 0;
		sig = sigtimedwait(&set, NULL, &wait);
		if (job->deadline && now() >= job->deadline) {
			fprintf(stderr, "sbx: %s: no answer\n", job->vm);
			leave(job, TIMED_OUT);
		}
		if (sig > 0) {
			told = false;
			sent = now();
			take_signal(job, sig);
		} else if (atomic_load(&job->under_way) && !told && now() - sent >= PATIENCE) {
			told = true;
			fprintf(stderr,
				"sbx: %s has not taken the signal yet; another one gives the command up\n",
				job->vm);
		}
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
	job->raw = true;
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
	return rc ? mount_complain("sbx", job->dir, job->vm) : 0;
}

/* One line of a job's file; 0, or -1 and errno. */
static int read_line(const struct exec_job *job, const char *name, char *ret, size_t size)
{
	int fd = open_file(job, name, O_RDONLY), saved;
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, ret, size - 1);
	saved = errno;
	close(fd);
	errno = saved;
	if (n < 0)
		return -1;
	ret[n] = '\0';
	return 0;
}

static int exit_status(struct exec_job *job)
{
	char status[512], code[16];

	if (read_line(job, "wait", status, sizeof(status)) || read_line(job, "exit", code, sizeof(code))) {
		(void)fail("lost", job->vm);
		return SBX_FAILED;
	}
	if (!strncmp(status, "failed ", strlen("failed ")))
		fprintf(stderr, "sbx: %s", status + strlen("failed "));
	return (int)strtol(code, NULL, 10);
}

static int run(struct exec_job *job, char **argv)
{
	pthread_t in, out, err;
	int status;

	signal(SIGPIPE, SIG_IGN);
	/* Before the start: a command whose stdin nobody has open reads an empty one. */
	job->stdin_fd = open_file(job, "stdin", O_WRONLY);
	if (job->stdin_fd < 0 || start(job, argv))
		return SBX_FAILED;
	if (job->tty && raw_mode(job))
		return SBX_FAILED;
	atomic_store(&job->started, true);
	if (pthread_create(&in, NULL, copy_stdin, job) || pthread_create(&out, NULL, copy_stdout, job) ||
	    pthread_create(&err, NULL, copy_stderr, job)) {
		fprintf(stderr, "sbx: cannot start a thread\n");
		status = SBX_FAILED;
	} else {
		status = exit_status(job);
		/* What is left of it takes no signals: they are ours again. */
		atomic_store(&job->started, false);
		pthread_join(out, NULL);
		pthread_join(err, NULL);
	}
	return status;
}

int exec_streams(const char *vm, char **argv)
{
	static struct exec_job job = { .stdin_fd = -1 }; /* see cmd_exec */
	int status;

	if (find_vm(&job, vm) || make_job(&job))
		return SBX_FAILED;
	status = run(&job, argv);
	(void)rmdir(job.dir); /* fails only where the sandbox is gone, and the job with it */
	return status;
}

const struct program exec_program = {
	.name = "sbx exec",
	.forms = "[OPTION...] VM COMMAND [ARGUMENT...]",
	.about =
		"Run a command in a sandbox, with this stdin, stdout and stderr.\n"
		"Signals are passed on, and so is the exit status: 128+N for a command that signal N ended,\n"
		"127 for a program that is not there, 126 for one that cannot be executed, 124 after "
		"--timeout,\n"
		"125 where it could not be begun. A signal that the machine does not take ends sbx itself.\n"
		"Where stdin and stdout are a terminal the command gets one, too, with this TERM and LANG.\n",
	.options =
		(const struct program_option[]){
			{ 'a', "all", NULL,
			  "end when all processes have closed the output, not with the command" },
			{ 'T', NULL, NULL, "no terminal, even where stdin and stdout are one" },
			{ 'C', NULL, "DIR", "run it in this directory" },
			{ 'e', NULL, "K=V", "set an environment variable, to any text; may be repeated" },
			{ 't', "timeout", "SECONDS",
			  "kill it after so long, whatever the machine does; the status is 124" },
			{ 'u', NULL, "USER", "run it as this user" },
			{ 0 },
		},
	.stop_at_operand = true,
};

struct exec_options {
	const char *cwd, *user, *timeout;
	bool all;
	struct buf env; /* K=V, each with a NUL */
};

/* What programs on a terminal look at. -e, which comes later, is stronger. */
static void pass_environment(struct buf *env)
{
	static const char *const names[] = { "TERM", "LANG" };
	const char *value;
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		value = getenv(names[i]);
		if (!value || !*value)
			continue;
		buf_printf(env, "%s=%s", names[i], value);
		buf_add(env, "", 1);
	}
}

static int set_up(struct exec_job *job, struct exec_options *options)
{
	struct buf env = { 0 };
	int rc = -1;

	if (job->tty)
		pass_environment(&env);
	buf_add(&env, buf_bytes(&options->env), options->env.len);
	if (env.failed)
		fprintf(stderr, "sbx: out of memory\n");
	else if ((!options->cwd || !set(job, "cwd", options->cwd)) &&
		 (!options->user || !set(job, "user", options->user)) &&
		 (!options->timeout || !set(job, "timeout", options->timeout)) &&
		 !set(job, "linger", options->all ? "1" : "0") && (!job->tty || !set(job, "tty", "1")))
		rc = env.len && write_file(job, "env", buf_bytes(&env), env.len)
			     ? mount_complain("sbx", job->dir, "env")
			     : 0;
	buf_release(&env);
	if (!rc && job->tty)
		resize(job);
	return rc;
}

/* Signals are taken from before there is a job: none ends us in a way that leaves one behind. */
static int begin(struct exec_job *job)
{
	pthread_t signals;
	sigset_t set;

	atomic_flag_clear(&job->leaving);
	handled_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (pthread_create(&signals, NULL, take_signals, job)) {
		fprintf(stderr, "sbx: cannot start a thread\n");
		return -1;
	}
	return 0;
}

int cmd_exec(int argc, char **argv)
{
	/* Not on the stack: threads may look at it until the process has ended. */
	static struct exec_job job = { .stdin_fd = -1, .hold_fd = -1 };
	struct exec_options options = { 0 };
	int opt, status;

	job.tty = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	while ((opt = program_next(&exec_program, argc, argv, &status)) != PROGRAM_OPERANDS) {
		switch (opt) {
		case 'a':
			options.all = true;
			break;
		case 'T':
			job.tty = false;
			break;
		case 'C':
			options.cwd = optarg;
			break;
		case 'e':
			buf_add(&options.env, optarg, strlen(optarg) + 1);
			break;
		case 't':
			options.timeout = optarg;
			if (strtol(optarg, NULL, 10) > 0)
				job.deadline = now() + strtol(optarg, NULL, 10) + GRACE;
			break;
		case 'u':
			options.user = optarg;
			break;
		default:
			goto out;
		}
	}
	status = SBX_FAILED;
	/* Elsewhere `--` is where the command begins: kubectl exec POD -- COMMAND. */
	if (argc - optind > 2 && !strcmp(argv[optind + 1], "--")) {
		argv[optind + 1] = argv[optind];
		optind++;
	}
	if (argc - optind < 2) {
		status = program_refuse(&exec_program, "a sandbox and a command are needed");
		goto out;
	}
	if (options.env.failed || begin(&job) || find_vm(&job, argv[optind]) || make_job(&job))
		goto out;
	job.hold_fd = open_file(&job, "hold", O_WRONLY);
	if (job.hold_fd >= 0 && !set_up(&job, &options))
		status = run(&job, argv + optind + 1);
	(void)rmdir(job.dir); /* fails only where the sandbox is gone, and the job with it */
out:
	buf_release(&options.env);
	restore_terminal(&job);
	return status;
}
