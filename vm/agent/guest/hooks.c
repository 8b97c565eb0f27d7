/* SPDX-License-Identifier: MIT */
/*
 * hooks.c - programs of the image's that are run at turns of a machine's life
 *
 * Each directory's run in the order of their names, one after the other, and have five seconds together. The first that
 * fails ends it. Their output goes to the console. What one of snapshot.d says last on stderr is why it refuses: that
 * goes through a pipe, read when the hook has ended.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vm/agent/guest/agent.h"

enum { HOOKS_SECONDS = 5, WORDS_MAX = 64 << 10 };

static const char *const directories[] = {
	[HOOKS_FORK] = "/etc/sbx/fork.d",
	[HOOKS_RESUME] = "/etc/sbx/resume.d",
	[HOOKS_SNAPSHOT] = "/etc/sbx/snapshot.d",
	[HOOKS_STOP] = "/etc/sbx/stop.d",
};

/* What they are told, of the last identity. */
static char name[PROTO_NAME_MAX + 1];
static uint32_t generation;

void hooks_identity(const char *new_name, uint32_t new_generation)
{
	snprintf(name, sizeof(name), "%s", new_name);
	generation = new_generation;
}

void hooks_renamed(const char *new_name)
{
	snprintf(name, sizeof(name), "%s", new_name);
}

static void run_child(const char *path, char *const *env, int error)
{
	char number[16];
	size_t i;
	int fd;

	guest_child_reset();
	setsid();
	fd = open("/dev/null", O_RDONLY);
	if (fd >= 0)
		dup2(fd, STDIN_FILENO);
	fd = open("/dev/console", O_WRONLY | O_NOCTTY);
	if (fd >= 0) {
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
	}
	if (error >= 0)
		dup2(error, STDERR_FILENO);
	/* What was opened here must not stay with the hook. */
	close_range(STDERR_FILENO + 1, ~0u, 0);
	clearenv();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	for (i = 0; env && env[i]; i++)
		putenv(env[i]);
	setenv("SBX_NAME", name, 1);
	snprintf(number, sizeof(number), "%u", generation);
	setenv("SBX_GENERATION", number, 1);
	if (chdir("/") == 0)
		execl(path, path, (char *)NULL);
	_exit(127);
}

/* Wait for pid until `end` (CLOCK_MONOTONIC); SIGCHLD is blocked. Other children are left for the loop. */
static int wait_until(pid_t pid, const struct timespec *end, int *ret_status)
{
	struct timespec now, left;
	sigset_t child;
	pid_t rc;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	for (;;) {
		rc = waitpid(pid, ret_status, WNOHANG);
		if (rc == pid)
			return 0;
		if (rc < 0)
			return -errno;
		clock_gettime(CLOCK_MONOTONIC, &now);
		left.tv_sec = end->tv_sec - now.tv_sec;
		left.tv_nsec = end->tv_nsec - now.tv_nsec;
		if (left.tv_nsec < 0) {
			left.tv_sec--;
			left.tv_nsec += 1000000000;
		}
		if (left.tv_sec < 0)
			return -ETIMEDOUT;
		sigtimedwait(&child, NULL, &left);
	}
}

/* What is in the pipe now, also for the console; *ret is its last line with something in it, or "". */
static void last_words(int fd, char ret[ERR_TEXT_MAX])
{
	static char text[WORDS_MAX + 1];
	char *line, *save;
	ssize_t n;
	int console;

	*ret = '\0';
	n = fd < 0 ? 0 : read(fd, text, WORDS_MAX);
	if (n <= 0)
		return;
	console = open("/dev/console", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (console >= 0) {
		(void)!write(console, text, (size_t)n);
		close(console);
	}
	text[n] = '\0';
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (line[strspn(line, " \t\r")])
			snprintf(ret, ERR_TEXT_MAX, "%.160s", line);
}

static int outcome(const char *path, int status, const char *words, struct err *err)
{
	if (WIFSIGNALED(status))
		return err_set(err, -EIO, "%s was ended by signal %d", path, WTERMSIG(status));
	if (!WEXITSTATUS(status))
		return 0;
	if (*words)
		return err_set(err, -EIO, "%s: %s", path, words);
	return err_set(err, -EIO, "%s ended with status %d", path, WEXITSTATUS(status));
}

static int run(const char *path, char *const *env, bool tells, const struct timespec *end, struct err *err)
{
	char words[ERR_TEXT_MAX];
	int fds[2] = { -1, -1 }, status, rc;
	struct stat st;
	pid_t pid;

	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || !(st.st_mode & 0111))
		return 0;
	if (tells && pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, -errno, "cannot run %s", path);
	pid = fork();
	if (!pid) {
		if (tells)
			(void)fcntl(fds[1], F_SETFL, 0);
		run_child(path, env, fds[1]);
	}
	rc = pid < 0 ? -errno : 0;
	if (fds[1] >= 0)
		close(fds[1]);
	if (rc) {
		err_sys(err, rc, "cannot run %s", path);
		goto out;
	}
	rc = wait_until(pid, end, &status);
	if (rc == -ETIMEDOUT) {
		kill(-pid, SIGKILL);
		err_set(err, rc, "%s did not end within %d seconds", path, HOOKS_SECONDS);
		goto out;
	}
	if (rc) {
		err_sys(err, rc, "cannot wait for %s", path);
		goto out;
	}
	last_words(fds[0], words);
	rc = outcome(path, status, words, err);
out:
	if (fds[0] >= 0)
		close(fds[0]);
	return rc;
}

static int not_hidden(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

bool hooks_there(enum guest_hooks hooks)
{
	DIR *dir = opendir(directories[hooks]);
	struct dirent *entry;

	if (!dir)
		return false;
	while ((entry = readdir(dir)) && !not_hidden(entry))
		;
	closedir(dir);
	return entry;
}

void hooks_look(void)
{
	unsigned i;

	for (i = 0; i < sizeof(directories) / sizeof(directories[0]); i++)
		(void)hooks_there((enum guest_hooks)i);
}

int hooks_run(enum guest_hooks hooks, char *const *env, struct err *err)
{
	struct dirent **names;
	struct timespec end;
	char path[512];
	int i, n, rc = 0;

	n = scandir(directories[hooks], &names, not_hidden, alphasort);
	if (n < 0)
		return 0; /* no directory, no hooks */
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += HOOKS_SECONDS;
	for (i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%.255s", directories[hooks], names[i]->d_name);
		if (!rc)
			rc = run(path, env, hooks == HOOKS_SNAPSHOT, &end, err);
		free(names[i]);
	}
	free(names);
	return rc;
}
