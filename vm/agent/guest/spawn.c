/* SPDX-License-Identifier: MIT */
/*
 * spawn.c - from a job's description to a running command
 *
 * Everything that touches the guest's files (the user's entry in /etc/passwd, the directory, the program) is
 * done in the child, so that a slow disk or a FIFO in place of a file holds up that command and not the
 * agent. What goes wrong there comes back as a struct err through a pipe that closes itself at exec.
 */
#include "vm/agent/guest/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "util/io.h"

enum { GROUPS_MAX = 64 };

static const char default_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* Who the command runs as. */
struct account {
	char name[64], home[4096];
	uid_t uid;
	gid_t gid;
	gid_t groups[GROUPS_MAX];
	size_t ngroups;
};

/* The child's ends of its streams; -1: none */
struct ends {
	int in, out, error;
};

/* ---- in the child */

void guest_child_reset(void)
{
	const struct rlimit files = { 1024, 4096 };
	sigset_t none;
	int i;

	for (i = 1; i < _NSIG; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* Fails where less is allowed already. */
	(void)setrlimit(RLIMIT_NOFILE, &files);
	umask(022);
}

static bool is_number(const char *text, unsigned long *ret)
{
	char *end;

	errno = 0;
	*ret = strtoul(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && !errno && *ret < UINT32_MAX;
}

static void find_groups(struct account *account)
{
	FILE *file = fopen("/etc/group", "re");
	struct group *group;
	char **member;

	account->groups[account->ngroups++] = account->gid;
	while (file && (group = fgetgrent(file))) {
		for (member = group->gr_mem; *member && strcmp(*member, account->name) != 0; member++)
			;
		if (*member && account->ngroups < GROUPS_MAX)
			account->groups[account->ngroups++] = group->gr_gid;
	}
	if (file)
		fclose(file);
}

/* The number of a group, by name or number. */
static int find_group(const char *name, gid_t *ret, struct err *err)
{
	unsigned long number = 0;
	struct group *group = NULL;
	FILE *file;

	if (is_number(name, &number)) {
		*ret = (gid_t)number;
		return 0;
	}
	file = fopen("/etc/group", "re");
	while (file && (group = fgetgrent(file)) && strcmp(group->gr_name, name) != 0)
		;
	if (group)
		*ret = group->gr_gid;
	if (file)
		fclose(file);
	return group ? 0 : err_set(err, -EINVAL, "no group %.64s in the guest's /etc/group", name);
}

/* `user` is a name or a number. Root needs no entry, so that an image without /etc/passwd works. */
static int find_user(const char *user, struct account *ret, struct err *err)
{
	unsigned long number = 0;
	const bool numeric = is_number(user, &number);
	struct passwd *entry = NULL;
	FILE *file;

	file = fopen("/etc/passwd", "re");
	while (file && (entry = fgetpwent(file)))
		if (!strcmp(entry->pw_name, user) || (numeric && entry->pw_uid == number))
			break;
	if (!entry && !numeric && strcmp(user, "root") != 0) {
		if (file)
			fclose(file);
		return err_set(err, -EINVAL, "no user %.64s in the guest's /etc/passwd", user);
	}
	*ret = (struct account){ .uid = (uid_t)number, .gid = (gid_t)number };
	if (entry) {
		ret->uid = entry->pw_uid;
		ret->gid = entry->pw_gid;
	}
	snprintf(ret->name, sizeof(ret->name), "%s", entry ? entry->pw_name : user);
	snprintf(ret->home, sizeof(ret->home), "%s", entry ? entry->pw_dir : ret->uid ? "/" : "/root");
	if (file)
		fclose(file);
	return 0;
}

/* USER or USER:GROUP, as images have it. */
static int find_account(const char *who, struct account *ret, struct err *err)
{
	const size_t n = strcspn(who, ":");
	char user[64];
	int rc;

	if (n >= sizeof(user))
		return err_set(err, -EINVAL, "%.80s is no user", who);
	memcpy(user, who, n);
	user[n] = '\0';
	rc = find_user(user, ret, err);
	if (!rc && who[n])
		rc = find_group(who + n + 1, &ret->gid, err);
	if (!rc)
		find_groups(ret);
	return rc;
}

static int become(const struct account *account, struct err *err)
{
	/* An agent that is no PID 1 (a test) may run commands as itself only. */
	if (geteuid() && account->uid == geteuid())
		return 0;
	if (setgroups(account->ngroups, account->groups) < 0 || setgid(account->gid) < 0 ||
	    setuid(account->uid) < 0)
		return err_sys(err, -errno, "cannot become user %s", account->name);
	return 0;
}

/* Where sbx-guest is, behind whatever the image has. */
static void extend_path(void)
{
	static const char bin[] = ":/run/sbx/bin";
	const char *path = getenv("PATH");
	char *more;

	if (!path || strstr(path, bin))
		return;
	if (asprintf(&more, "%s%s", path, bin) < 0)
		return;
	setenv("PATH", more, 1);
	free(more);
}

static void set_env(const struct job_spec *spec, const char *name, char *const *env,
		    const struct account *account)
{
	char **image = guest_defaults()->env;
	size_t i;

	clearenv();
	setenv("PATH", default_path, 1);
	setenv("HOME", account->home, 1);
	setenv("USER", account->name, 1);
	setenv("LOGNAME", account->name, 1);
	if (spec->tty)
		setenv("TERM", "xterm", 1);
	for (i = 0; image && image[i]; i++)
		putenv(image[i]);
	extend_path();
	for (i = 0; env && env[i]; i++)
		putenv(env[i]);
	setenv("SBX_NAME", name, 1);
	for (i = 0; spec->env && spec->env[i]; i++)
		if (strchr(spec->env[i], '='))
			putenv(spec->env[i]);
}

/*
 * The streams are the user's: opening /dev/stdout, /dev/stderr or /dev/stdin (as nginx, gpg and tee do) asks
 * who owns the pipe, and opening /dev/tty or ttyname(3)'s who owns the terminal. Without privilege they are the
 * user's already. What is no stream of ours (/dev/null) stays as it is.
 */
static void give_streams(const struct job_spec *spec, const struct account *account)
{
	int fd;

	for (fd = spec->stdin_open || spec->tty ? STDIN_FILENO : STDOUT_FILENO; fd <= STDERR_FILENO; fd++)
		(void)!fchown(fd, account->uid, spec->tty ? (gid_t)-1 : account->gid);
}

static int enter_directory(const struct job_spec *spec, const struct account *account, struct err *err)
{
	if (spec->cwd)
		return chdir(spec->cwd) < 0 ? err_sys(err, -errno, "%.128s", spec->cwd) : 0;
	if (guest_defaults()->workdir && !chdir(guest_defaults()->workdir))
		return 0;
	if (chdir(account->home) < 0 && chdir("/") < 0)
		return err_sys(err, -errno, "/");
	return 0;
}

static int take_streams(const struct job_spec *spec, const struct ends *ends, struct err *err)
{
	if (setsid() < 0)
		return err_sys(err, -errno, "cannot make a session");
	if (spec->tty && ioctl(ends->in, TIOCSCTTY, 0) < 0)
		return err_sys(err, -errno, "cannot take the terminal");
	if (dup2(ends->in, STDIN_FILENO) < 0 || dup2(ends->out, STDOUT_FILENO) < 0 ||
	    dup2(ends->error, STDERR_FILENO) < 0)
		return err_sys(err, -errno, "cannot set up the streams");
	return 0;
}

/* Returns only when it could not. */
static int run_argv(const struct job_spec *spec, struct err *err)
{
	const char *p = spec->cmd, *end = spec->cmd + spec->cmd_len;
	char **argv;
	size_t n = 0;

	/* At most one argument a byte; cmd has a NUL of its own after its end. */
	argv = calloc(spec->cmd_len + 2, sizeof(*argv));
	if (!argv)
		return err_sys(err, -ENOMEM, "cannot run the command");
	for (; p < end; p += strlen(p) + 1)
		argv[n++] = (char *)p;
	/* A program has a name: what begins with none is the agent's own. */
	if (n == 3 && !*argv[0] && !strcmp(argv[1], "dial"))
		return guest_dial(argv[2], err);
	if (!n || !*argv[0]) {
		free(argv);
		return err_set(err, -EINVAL, "the command is empty");
	}
	execvp(argv[0], argv);
	err_sys(err, -errno, "%.128s", argv[0]);
	free(argv);
	return err->code;
}

/* What a shell says of a program that exec refused. */
static uint8_t shell_code(int err)
{
	return err == -ENOENT || err == -ENOTDIR ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
}

static int run_child(const struct job_spec *spec, const char *name, char *const *env, const struct ends *ends,
		     struct guest_failure *failure)
{
	const char *user = spec->user ? spec->user : guest_defaults()->user;
	static struct account account;
	struct err *err = &failure->err;
	int rc;

	failure->shell = EXIT_NOT_BEGUN;
	guest_child_reset();
	rc = take_streams(spec, ends, err);
	if (!rc)
		rc = find_account(user ? user : "root", &account, err);
	if (!rc)
		give_streams(spec, &account);
	if (!rc)
		rc = become(&account, err);
	if (!rc)
		rc = enter_directory(spec, &account, err);
	if (rc)
		return rc;
	set_env(spec, name, env, &account);
	if (spec->is_argv) {
		rc = run_argv(spec, err);
	} else {
		execl("/bin/sh", "sh", "-c", spec->cmd, (char *)NULL);
		rc = err_sys(err, -errno, "/bin/sh");
	}
	failure->shell = shell_code(rc);
	return rc;
}

/* ---- streams */

static void close_ends(struct ends *ends)
{
	if (ends->error != ends->out)
		close_fd(&ends->error);
	if (ends->out != ends->in)
		close_fd(&ends->out);
	close_fd(&ends->in);
}

static int open_pty(const struct job_spec *spec, struct ends *ends, struct guest_process *ours,
		    struct err *err)
{
	const struct winsize size = { .ws_row = spec->rows ? spec->rows : 24,
				      .ws_col = spec->cols ? spec->cols : 80 };
	int unlock = 0;

	ours->in = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (ours->in < 0 || ioctl(ours->in, TIOCSPTLCK, &unlock) < 0)
		return err_sys(err, -errno, "cannot open a terminal");
	ends->in = ends->out = ends->error = ioctl(ours->in, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (ends->in < 0)
		return err_sys(err, -errno, "cannot open the other side of a terminal");
	ioctl(ours->in, TIOCSWINSZ, &size);
	/* A descriptor for each direction, to be closed on its own. */
	ours->out = fcntl(ours->in, F_DUPFD_CLOEXEC, 0);
	return ours->out < 0 ? err_sys(err, -errno, "cannot open a terminal") : 0;
}

/* A pipe whose end that is ours is non-blocking. */
static int open_pipe(int *theirs, int *ours, bool to_child, struct err *err)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_sys(err, -errno, "cannot make a pipe");
	*theirs = fds[to_child ? 0 : 1];
	*ours = fds[to_child ? 1 : 0];
	if (fcntl(*ours, F_SETFL, O_NONBLOCK) < 0)
		return err_sys(err, -errno, "cannot set up a pipe");
	return 0;
}

static int open_pipes(const struct job_spec *spec, struct ends *ends, struct guest_process *ours,
		      struct err *err)
{
	int rc = 0;

	if (spec->stdin_open) {
		rc = open_pipe(&ends->in, &ours->in, true, err);
	} else {
		ends->in = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (ends->in < 0)
			rc = err_sys(err, -errno, "/dev/null");
	}
	if (!rc)
		rc = open_pipe(&ends->out, &ours->out, false, err);
	if (!rc && spec->merge)
		ends->error = ends->out;
	else if (!rc)
		rc = open_pipe(&ends->error, &ours->error, false, err);
	return rc;
}

int guest_spawn(const struct job_spec *spec, const char *name, char *const *env, struct guest_process *ret,
		struct err *err)
{
	struct guest_process ours = { .status = -1, .in = -1, .out = -1, .error = -1 };
	struct ends ends = { -1, -1, -1 };
	int status = -1, rc;

	rc = spec->tty ? open_pty(spec, &ends, &ours, err) : open_pipes(spec, &ends, &ours, err);
	if (!rc)
		rc = open_pipe(&status, &ours.status, false, err);
	if (rc)
		goto fail;
	ours.pid = fork();
	if (!ours.pid) {
		struct guest_failure failure = { 0 };

		run_child(spec, name, env, &ends, &failure);
		_exit(write(status, &failure, sizeof(failure)) == sizeof(failure) ? 127 : 126);
	}
	if (ours.pid < 0) {
		rc = err_sys(err, -errno, "cannot make a process");
		goto fail;
	}
	close_fd(&status);
	close_ends(&ends);
	*ret = ours;
	return 0;
fail:
	close_fd(&status);
	close_ends(&ends);
	close_fd(&ours.status);
	close_fd(&ours.in);
	close_fd(&ours.out);
	close_fd(&ours.error);
	return rc;
}
