/* SPDX-License-Identifier: MIT */
/*
 * snapshot.c - sbx snapshot: what takes long with a snapshot, with a bar that says how long still
 *
 * The write that does it waits until it is done, in a thread; `status` of the snapshot says how far it is.
 * There is a bar where stderr is a terminal.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/bar.h"
#include "cli/mount.h"
#include "cli/sbx.h"
#include "snap/dump.h"
#include "snap/image.h"
#include "snap/store.h"

enum { TICK_MS = 100, CHUNK = 1 << 20 };

const struct program snapshot_program = {
	.name = "sbx snapshot",
	.forms = "save VM NAME\n"
		 "load FILE|- NAME\n"
		 "verify NAME\n"
		 "dump NAME|DIR [--state DIR]",
	.about = "Save, load, verify and dump snapshots, with a progress bar on a terminal.\n"
		 "`save` does what `echo snapshot NAME > VM/ctl` does. `load` makes a snapshot of an "
		 "archive, - for\n"
		 "stdin. `verify` checks every stored block. `dump` shows as text what the store holds of a "
		 "snapshot,\n"
		 "by its name or by its directory in objects/; no sbxfs needs to run.\n",
	.options =
		(const struct program_option[]){
			{ PROGRAM_LONG, "state", "DIR",
			  "dump: the state directory (default: /var/lib/sbxfs for\n"
			  "root, else $XDG_STATE_HOME/sbxfs or ~/.local/state/sbxfs)" },
			{ 0 },
		},
};

/* ---- files of the tree */

static int read_line(const char *dir, const char *name, char *ret, size_t size)
{
	char path[PATH_MAX + 16];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, ret, size - 1);
	if (fd >= 0)
		close(fd);
	ret[n > 0 ? n : 0] = 0;
	ret[strcspn(ret, "\n")] = 0;
	return n > 0 ? 0 : -1;
}

/* `error` of dir has the reason. */
static int failed(const char *what, const char *dir, int error)
{
	char line[512];

	if (read_line(dir, "error", line, sizeof(line)))
		snprintf(line, sizeof(line), "%s", strerror(error));
	fprintf(stderr, "sbx snapshot: %s: %s\n", what, line);
	return SBX_FAILED;
}

/* ---- a write that takes long */

struct snapshot_work {
	char ctl[PATH_MAX + 16]; /* where to write, or "": close fd */
	char command[128];
	int fd;
	int error; /* errno, or 0 */
};

static void *run(void *arg)
{
	struct snapshot_work *work = arg;
	const size_t n = strlen(work->command);

	if (!*work->ctl) {
		work->error = close(work->fd) < 0 ? errno : 0;
		return NULL;
	}
	work->fd = open(work->ctl, O_WRONLY | O_CLOEXEC);
	if (work->fd < 0 || write(work->fd, work->command, n) != (ssize_t)n)
		work->error = errno;
	if (work->fd >= 0)
		close(work->fd);
	return NULL;
}

/* errno or 0. Shows what dir's status says meanwhile. */
static int show_while(struct snapshot_work *work, const char *dir)
{
	const bool bar = isatty(STDERR_FILENO);
	char status[64], label[32];
	struct timespec until;
	pthread_t thread;
	unsigned percent;

	if (pthread_create(&thread, NULL, run, work))
		return ENOMEM;
	do {
		if (bar && !read_line(dir, "status", status, sizeof(status)) &&
		    sscanf(status, "%31s %u%%", label, &percent) == 2 && percent <= 100)
			bar_draw(label, percent);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += TICK_MS * 1000000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
	} while (pthread_timedjoin_np(thread, NULL, &until));
	if (bar)
		bar_clear();
	return work->error;
}

/* ---- save, verify, load */

static int command(const char *dir, const char *text, const char *shown)
{
	struct snapshot_work work = { .fd = -1 };
	int error;

	snprintf(work.ctl, sizeof(work.ctl), "%s/ctl", dir);
	snprintf(work.command, sizeof(work.command), "%s", text);
	error = show_while(&work, shown);
	return error ? failed(dir, dir, error) : 0;
}

static int save(const char *vm, const char *name)
{
	char dir[PATH_MAX], shown[PATH_MAX + 80], text[128];
	struct err err;

	if (name_check(name, &err)) {
		fprintf(stderr, "sbx snapshot: %s\n", err.text);
		return SBX_FAILED;
	}
	if (find_in_mount("", vm, dir))
		return SBX_FAILED;
	snprintf(shown, sizeof(shown), "%s/../snapshots/%s", dir, name);
	snprintf(text, sizeof(text), "snapshot %s", name);
	return command(dir, text, shown);
}

static int verify(const char *name)
{
	char dir[PATH_MAX];

	return find_in_mount("snapshots/", name, dir) ? SBX_FAILED : command(dir, "verify", dir);
}

/* All of `from`, of `size` bytes or 0 if that is not known, to `to`: errno or 0. */
static int copy(int from, int to, uint64_t size)
{
	const bool bar = size && isatty(STDERR_FILENO);
	char *chunk = malloc(CHUNK);
	ssize_t n, done, step;
	uint64_t sum = 0;
	int error = chunk ? 0 : ENOMEM;

	while (!error && (n = read(from, chunk, CHUNK)) != 0) {
		for (done = 0; done < n; done += step) {
			step = write(to, chunk + done, (size_t)(n - done));
			if (step < 0)
				break;
		}
		error = n < 0 || done < n ? errno : 0;
		sum += n > 0 ? (uint64_t)n : 0;
		if (bar)
			bar_draw("loading", (unsigned)(sum < size ? sum * 100 / size : 100));
	}
	if (bar)
		bar_clear();
	free(chunk);
	return error;
}

static int load(const char *file, const char *name)
{
	const bool is_stdin = !strcmp(file, "-");
	const int from = is_stdin ? STDIN_FILENO : open(file, O_RDONLY | O_CLOEXEC);
	char dir[PATH_MAX], path[PATH_MAX + 16];
	struct snapshot_work work = { .fd = -1 };
	struct stat st;
	int error, rc;

	if (from < 0 || fstat(from, &st) < 0) {
		fprintf(stderr, "sbx snapshot: cannot read %s: %s\n", file, strerror(errno));
		return SBX_FAILED;
	}
	if (find_in_mount("snapshots/", name, dir))
		return SBX_FAILED;
	if (mkdir(dir, 0755) < 0) {
		fprintf(stderr, "sbx snapshot: cannot make %s: %s\n", dir, strerror(errno));
		return SBX_FAILED;
	}
	snprintf(path, sizeof(path), "%s/archive", dir);
	work.fd = open(path, O_WRONLY | O_CLOEXEC);
	error = work.fd < 0 ? errno : copy(from, work.fd, S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0);
	if (!error)
		error = show_while(&work, dir);
	else if (work.fd >= 0)
		close(work.fd);
	rc = error ? failed(file, dir, error) : 0;
	if (rc)
		rmdir(dir);
	if (!is_stdin)
		close(from);
	return rc;
}

/* The store's own files: works without a daemon, too. */
static int dump(const char *what, const char *state)
{
	char *dir = state ? NULL : store_default_dir();
	struct err err = { 0 };
	int rc;

	if (strchr(what, '/'))
		rc = snapshot_dump(what, stdout, &err);
	else if (state || dir)
		rc = snapshot_dump_named(state ? state : dir, what, stdout, &err);
	else
		rc = err_set(&err, -ENOENT, NO_STATE_DIR);
	free(dir);
	if (fflush(stdout) && !rc)
		rc = err_sys(&err, -errno, "cannot write");
	if (rc)
		fprintf(stderr, "sbx snapshot: %s\n", err.text);
	return rc ? SBX_FAILED : 0;
}

static int cmd_save(char **args, const char *state)
{
	(void)state;
	return save(args[0], args[1]);
}

static int cmd_load(char **args, const char *state)
{
	(void)state;
	return load(args[0], args[1]);
}

static int cmd_verify(char **args, const char *state)
{
	(void)state;
	return verify(args[0]);
}

static int cmd_dump(char **args, const char *state)
{
	return dump(args[0], state);
}

/* In the order of the forms. */
static const struct {
	const char *name;
	int operands;
	int (*run)(char **args, const char *state);
} verbs[] = {
	{ "save", 2, cmd_save },
	{ "load", 2, cmd_load },
	{ "verify", 1, cmd_verify },
	{ "dump", 1, cmd_dump },
};

int cmd_snapshot(int argc, char **argv)
{
	const char *state = NULL;
	int option, status;
	size_t i;

	while ((option = program_next(&snapshot_program, argc, argv, &status)) != PROGRAM_OPERANDS) {
		if (option == PROGRAM_EXIT)
			return status;
		state = optarg;
	}
	argc -= optind;
	argv += optind;
	if (!argc)
		return program_refuse(&snapshot_program, "save, load, verify or dump is needed");
	for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (strcmp(argv[0], verbs[i].name) != 0)
			continue;
		if (argc - 1 != verbs[i].operands)
			return program_refuse_form(&snapshot_program, (unsigned)i);
		return verbs[i].run(argv + 1, state);
	}
	return program_refuse(&snapshot_program, "there is no command \"%s\"", argv[0]);
}
