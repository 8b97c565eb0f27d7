/* SPDX-License-Identifier: MIT */
/*
 * run.c - sbx run: a command in a sandbox of its own, which is gone when it ends
 *
 * It makes the sandbox with one verb, copies what is to be there, lets a child do what `sbx exec` does, and
 * removes the sandbox, whatever ended the child. Only a kill that nobody can catch leaves one behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/mount.h"
#include "cli/sbx.h"
#include "snap/image_config.h"
#include "util/io.h"

struct run_copy {
	char *from, *to; /* on the host, and in the guest */
	bool is_dir;
};

struct run_options {
	const char *name, *net, *memory, *cpus;
	bool keep;
	char **exec; /* options for exec, then what it is to run, and NULL */
	size_t nexec, exec_size;
	struct run_copy *copies;
	size_t ncopies, copies_size;
};

struct running {
	char mount[PATH_MAX], name[64], dir[PATH_MAX + 72];
};

enum { OPT_RM = PROGRAM_LONG, OPT_KEEP, OPT_NET, OPT_MEMORY, OPT_CPUS, OPT_NAME };

const struct program run_program = {
	.name = "sbx run",
	.forms = "[OPTION...] IMAGE [COMMAND [ARGUMENT...]]",
	.about = "Run a command in a new sandbox, which is removed when the command has ended.\n"
		 "Without a COMMAND the image's own runs; with one, it takes the place of the image's Cmd, "
		 "behind its\n"
		 "Entrypoint. Streams, terminal, signals and exit status are those of `sbx exec`.\n",
	.options =
		(const struct program_option[]){
			{ OPT_RM, "rm", NULL, "remove the sandbox at the end; that is so anyway" },
			{ OPT_KEEP, "keep", NULL, "leave the sandbox running at the end" },
			{ OPT_NAME, "name", "NAME", "the sandbox's name (default: run- and a number)" },
			{ OPT_MEMORY, "memory", "SIZE", "its memory; it cannot grow later" },
			{ OPT_CPUS, "cpus", "N", "its CPUs" },
			{ OPT_NET, "net", "MODE", "what its network may reach: none, allow, public or all" },
			{ 'v', NULL, "HOST:GUEST",
			  "copy a directory or file of this host to that path in it; may be repeated" },
			{ 'e', NULL, "K=V", "set an environment variable, to any text; may be repeated" },
			{ 'C', NULL, "DIR", "run the command in this directory" },
			{ 'u', NULL, "USER", "run it as this user" },
			{ 'T', NULL, NULL, "no terminal, even where stdin and stdout are one" },
			{ 0 },
		},
	.stop_at_operand = true,
};

/* Room for one more than n elements; -1 after a message. */
static int make_room(void **array, size_t n, size_t *size, size_t element)
{
	void *more;

	if (n + 1 < *size)
		return 0;
	*size = *size ? 2 * *size : 64;
	more = reallocarray(*array, *size, element);
	if (!more) {
		fprintf(stderr, "sbx run: out of memory\n");
		return -1;
	}
	*array = more;
	return 0;
}

static int add(struct run_options *options, const char *word)
{
	char *copy;

	if (make_room((void **)&options->exec, options->nexec, &options->exec_size, sizeof(*options->exec)))
		return -1;
	copy = strdup(word);
	if (!copy)
		fprintf(stderr, "sbx run: out of memory\n");
	options->exec[options->nexec] = copy;
	options->nexec += copy ? 1 : 0;
	options->exec[options->nexec] = NULL;
	return copy ? 0 : -1;
}

static int add_pair(struct run_options *options, const char *option, const char *value)
{
	return add(options, option) || add(options, value) ? -1 : 0;
}

/* ---- the command */

/* Words of the image's config with this key. */
static int add_words(struct run_options *options, const struct buf *config, const char *key, unsigned *n)
{
	static char value[IMAGE_CONFIG_MAX];
	char found[16];
	size_t pos = 0;

	while (image_config_next(config, &pos, found, value, sizeof(value))) {
		if (strcmp(found, key) != 0)
			continue;
		if (add(options, value))
			return -1;
		(*n)++;
	}
	return 0;
}

static int read_config(const struct running *running, const char *image, struct buf *ret)
{
	char path[PATH_MAX + 80];
	int rc;

	snprintf(path, sizeof(path), "%s/images/%.64s/config", running->mount, image);
	rc = read_file_at(AT_FDCWD, path, IMAGE_CONFIG_MAX, ret);
	if (rc == -ENOENT)
		fprintf(stderr, "sbx run: there is no image %.64s\n", image);
	if (!rc)
		rc = image_config_check(ret, NULL);
	if (rc && rc != -ENOENT)
		fprintf(stderr, "sbx run: cannot read %s\n", path);
	return rc ? -1 : 0;
}

static int add_command(struct run_options *options, const struct running *running, const char *image,
		       char *const *command)
{
	struct buf config = { 0 };
	unsigned n = 0;
	int rc = read_config(running, image, &config);

	if (!rc)
		rc = add_words(options, &config, "entrypoint", &n);
	if (!rc && !*command)
		rc = add_words(options, &config, "cmd", &n);
	for (; !rc && *command; command++, n++)
		rc = add(options, *command);
	if (!rc && !n)
		rc = add(options, "/bin/sh");
	buf_release(&config);
	return rc;
}

/* ---- the sandbox */

static int write_verb(const struct running *running, const char *verb)
{
	char path[PATH_MAX + 8];
	int fd, rc, saved;

	snprintf(path, sizeof(path), "%s/ctl", running->mount);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	rc = write(fd, verb, strlen(verb)) < 0 ? -1 : 0;
	saved = errno;
	close(fd);
	errno = saved;
	return rc;
}

static int create(const struct run_options *options, struct running *running, const char *image)
{
	char verb[1024];
	unsigned i;
	int n, rc = -1;

	for (i = 0; i < 1000; i++) {
		if (options->name)
			snprintf(running->name, sizeof(running->name), "%.63s", options->name);
		else
			snprintf(running->name, sizeof(running->name), "run-%d%s%.0u", (int)getpid(),
				 i ? "-" : "", i);
		n = snprintf(verb, sizeof(verb), "create %s image=%.64s", running->name, image);
		if (options->memory)
			n += snprintf(verb + n, sizeof(verb) - (size_t)n, " memory=%.32s memory_max=%.32s",
				      options->memory, options->memory);
		if (options->cpus)
			n += snprintf(verb + n, sizeof(verb) - (size_t)n, " cpus=%.32s", options->cpus);
		if (options->net)
			snprintf(verb + n, sizeof(verb) - (size_t)n, " net=%.32s", options->net);
		rc = write_verb(running, verb);
		if (!rc || errno != EEXIST || options->name)
			break;
	}
	snprintf(running->dir, sizeof(running->dir), "%s/%s", running->mount, running->name);
	return rc ? mount_complain("sbx run", running->mount, running->mount) : 0;
}

static int run_tool(const char *const argv[])
{
	const pid_t pid = child_spawn(argv, STDERR_FILENO, "coreutils");

	return pid < 0 ? -1 : child_reap(pid);
}

/* HOST:GUEST, which is cut in two. */
static int parse_copy(char *text, struct run_copy *ret)
{
	char *colon = strchr(text, ':');
	struct stat st;

	if (!colon || colon == text || colon[1] != '/') {
		fprintf(stderr, "sbx run: -v %s is not HOST:GUEST with a path that begins with /\n", text);
		return -1;
	}
	*colon = '\0';
	*ret = (struct run_copy){ .from = text, .to = colon + 1 };
	if (stat(text, &st) < 0) {
		fprintf(stderr, "sbx run: %s: %s\n", text, strerror(errno));
		return -1;
	}
	ret->is_dir = S_ISDIR(st.st_mode);
	return 0;
}

/* What is copied may be changed on either side without the other. */
static int copy_in(const struct running *running, const struct run_copy *copy)
{
	char path[2 * PATH_MAX], parent[2 * PATH_MAX];

	snprintf(path, sizeof(path), "%s/fs%s", running->dir, copy->to);
	snprintf(parent, sizeof(parent), "%s", path);
	if (!copy->is_dir)
		*strrchr(parent, '/') = '\0';
	if (run_tool((const char *[]){ "mkdir", "-p", "--", parent, NULL }))
		return -1;
	return run_tool((const char *[]){ "cp", "-aT", "--", copy->from, path, NULL });
}

static int run_in(struct run_options *options, struct running *running, struct child_guard *guard)
{
	size_t i;
	pid_t pid;

	for (i = 0; i < options->ncopies; i++)
		if (copy_in(running, &options->copies[i]))
			return SBX_FAILED;
	if (child_pending(guard))
		return 128 + guard->caught;
	pid = child_fork(guard);
	if (!pid) {
		optind = 0; /* glibc: options are parsed afresh */
		exit(cmd_exec((int)options->nexec, options->exec));
	}
	return pid < 0 ? SBX_FAILED : child_wait(pid);
}

static int run_image(struct run_options *options, const char *image, char *const *command)
{
	struct child_guard guard;
	struct running running;
	int status = SBX_FAILED;
	size_t where;

	if (find_in_mount("", "ctl", running.mount))
		return SBX_FAILED;
	*strrchr(running.mount, '/') = '\0';
	where = options->nexec;
	if (add(options, "") || add_command(options, &running, image, command))
		return SBX_FAILED;
	child_guard(&guard);
	if (!create(options, &running, image)) {
		free(options->exec[where]);
		options->exec[where] = running.dir;
		status = run_in(options, &running, &guard);
		if (!options->keep && rmdir(running.dir) < 0 && errno != ENOENT)
			(void)mount_complain("sbx run", running.mount, running.dir);
	}
	child_release(&guard);
	return status;
}

int cmd_run(int argc, char **argv)
{
	static struct run_options options;
	int opt, status, rc = 0;

	rc = add(&options, "sbx exec");
	while ((opt = program_next(&run_program, argc, argv, &status)) != PROGRAM_OPERANDS) {
		const char short_form[] = { '-', (char)opt, '\0' };

		switch (opt) {
		case OPT_RM:
			break;
		case OPT_KEEP:
			options.keep = true;
			break;
		case OPT_NET:
			options.net = optarg;
			break;
		case OPT_MEMORY:
			options.memory = optarg;
			break;
		case OPT_CPUS:
			options.cpus = optarg;
			break;
		case OPT_NAME:
			options.name = optarg;
			break;
		case 'v':
			if (make_room((void **)&options.copies, options.ncopies, &options.copies_size,
				      sizeof(*options.copies)) ||
			    parse_copy(optarg, &options.copies[options.ncopies++]))
				return SBX_FAILED;
			break;
		case 'T':
			rc = rc ? rc : add(&options, short_form);
			break;
		case 'e':
		case 'C':
		case 'u':
			rc = rc ? rc : add_pair(&options, short_form, optarg);
			break;
		default:
			return status;
		}
	}
	if (optind >= argc)
		return program_refuse(&run_program, "an image is needed");
	if (rc || add(&options, "--"))
		return SBX_FAILED;
	return run_image(&options, argv[optind], argv + optind + 1);
}
