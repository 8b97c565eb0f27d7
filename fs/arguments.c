/* SPDX-License-Identifier: MIT */
/* arguments.c - the command lines of sbxfs, its own and mount(8)'s, and where what they name is */
#include "fs/arguments.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/config.h"
#include "fs/options.h"
#include "fs/tree/session.h"
#include "snap/image.h"

static const struct program program = {
	.name = "sbxfs",
	.forms = "[OPTION...] MOUNTPOINT",
	.about = "Mounts a filesystem in which every directory is a running virtual machine and every\n"
		 "snapshot is a directory. The file README in it says how to use it.\n",
	.options = option_table,
	.notes = "fusermount3 -u MOUNTPOINT ends it, and all sandboxes in it.\n",
};

/* What mount(8) calls it by, and how (mount(8), external helpers). */
static const struct program_option mount_table[] = {
	{ 'o', NULL, "OPTIONS", "mount options, and those of sbxfs by their names" },
	{ 't', NULL, "TYPE", "what mount(8) was told; not used" },
	{ 'N', NULL, "NAMESPACE", "where mount(8) is already; not used" },
	{ 'f', NULL, NULL, "only check the options" },
	{ 'n', NULL, NULL, "not used" },
	{ 's', NULL, NULL, "not used" },
	{ 'v', NULL, NULL, "not used" },
	{ 0 },
};

static const struct program mount_program = {
	.name = MOUNT_HELPER,
	.forms = "SOURCE MOUNTPOINT [-o OPTIONS]",
	.about = "Mounts an sbxfs for mount -t fuse.sbxfs. SOURCE is its name in the list of mounts.\n"
		 "Options are those of " CONFIG_FILE ", if there is one, and in -o: keep, pool=3.\n",
	.options = mount_table,
	.notes = "umount MOUNTPOINT ends it, and all sandboxes in it.\n",
};

/* ---- options */

struct parsing {
	const struct program *program;
	struct arguments *args;
	struct options *options;
};

static int set(const struct parsing *parsing, const char *dashes, const struct program_option *option,
	       const char *value)
{
	struct err err = { 0 };

	if (option_set(option->key, value, parsing->args, parsing->options, &err))
		return program_refuse(parsing->program, "%s%s: %s", dashes, option->name, err.text);
	return 0;
}

static int set_from_file(void *arg, const char *name, const char *value, struct err *err)
{
	const struct parsing *parsing = arg;
	const struct program_option *option = option_find(name, strlen(name));
	int rc;

	if (!option || option->key == OPTION_CONFIG)
		return err_set(err, -EINVAL, "there is no option \"%s\"", name);
	rc = option_set(option->key, value, parsing->args, parsing->options, err);
	if (rc)
		err_prefix(err, "%s", name);
	return rc;
}

static int read_config(struct parsing *parsing, const char *path, bool may_lack)
{
	struct err err = { 0 };
	const int rc = config_read(path, &parsing->args->config, set_from_file, parsing, &err);

	if (!rc || (rc == -ENOENT && may_lack))
		return 0;
	return program_refuse(parsing->program, "%s", err.text);
}

/* What is for mount(8), systemd and people, and for no filesystem. */
static bool is_for_mount(const char *word, size_t n)
{
	static const char *const words[] = { "",        "defaults", "auto",    "noauto", "user",
					     "nouser",  "users",    "nousers", "owner",  "group",
					     "_netdev", "nofail",   NULL };
	unsigned i;

	for (i = 0; words[i]; i++)
		if (strlen(words[i]) == n && !memcmp(words[i], word, n))
			return true;
	return !strncmp(word, "x-", 2) || !strncmp(word, "comment=", 8) || !strncmp(word, "user=", 5);
}

struct mount_words {
	const struct parsing *parsing;
	bool helper;     /* for mount(8) */
	struct buf rest; /* what is not ours, for libfuse */
};

static int take_word(void *arg, char *word, size_t n)
{
	struct mount_words *words = arg;
	const size_t name = strcspn(word, "=") < n ? strcspn(word, "=") : n;
	const struct program_option *option = option_find(word, name);
	char *value = name < n ? word + name + 1 : NULL;

	if (option && option->key != OPTION_CONFIG && (value || !option->arg)) {
		/* It may point there for good. In the argument itself: nobody reads that a second time. */
		word[n] = '\0';
		return set(words->parsing, "-o ", option, value ? config_unquote(value) : NULL);
	}
	if ((option && option->key == OPTION_CONFIG) || (words->helper && is_for_mount(word, n)))
		return 0;
	if (words->rest.len)
		buf_add(&words->rest, ",", 1);
	buf_add(&words->rest, word, n);
	return 0;
}

/* -o: those of ours count, and others follow what args->mount_options has. */
static int take_mount_options(const struct parsing *parsing, char *text, bool helper)
{
	struct arguments *args = parsing->args;
	struct mount_words words = { .parsing = parsing, .helper = helper, .rest = args->mount_options };
	const int rc = config_each_word(text, take_word, &words);

	args->mount_options = words.rest;
	return rc;
}

/* ---- the command line of sbxfs */

static int take_options(struct parsing *parsing, int argc, char **argv, int *status)
{
	const struct program_option *option;
	int c, rc = 0;

	optind = 0;
	while (!rc && (c = program_next(&program, argc, argv, status)) != PROGRAM_OPERANDS) {
		for (option = option_table; option->key != c; option++)
			;
		if (c == 'o')
			rc = take_mount_options(parsing, optarg, false);
		else if (c != OPTION_CONFIG)
			rc = set(parsing, "--", option, option->arg ? optarg : NULL);
	}
	*status = rc;
	return rc;
}

static int parse_own(struct parsing *parsing, int argc, char **argv, int *status)
{
	const char *config = NULL;
	int c;

	/* What the file says counts less, and so comes first. */
	optind = 0;
	while ((c = program_next(&program, argc, argv, status)) != PROGRAM_OPERANDS) {
		if (c == PROGRAM_EXIT)
			return PROGRAM_EXIT;
		if (c == OPTION_CONFIG)
			config = optarg;
	}
	*status = config ? read_config(parsing, config, false) : 0;
	if (*status || take_options(parsing, argc, argv, status))
		return PROGRAM_EXIT;
	*status = PROGRAM_USAGE;
	if (optind == argc)
		program_refuse(&program, "a mount point is needed");
	else if (optind < argc - 1)
		program_refuse(&program, "\"%s\" is one mount point too many", argv[optind + 1]);
	else
		*status = 0;
	parsing->args->operand = argv[optind];
	return *status ? PROGRAM_EXIT : 0;
}

/* ---- the one that mount(8) makes */

static int find_config(void *arg, char *word, size_t n)
{
	static const char name[] = "config=";
	char **ret = arg;

	if (n > sizeof(name) - 1 && !memcmp(word, name, sizeof(name) - 1)) {
		free(*ret);
		*ret = strndup(word + sizeof(name) - 1, n - (sizeof(name) - 1));
	}
	return 0;
}

static int read_config_of(struct parsing *parsing, char *options)
{
	char *config = NULL;
	int rc;

	(void)config_each_word(options, find_config, &config);
	rc = read_config(parsing, config ? config_unquote(config) : CONFIG_FILE, !config);
	free(config);
	return rc;
}

static int parse_for_mount(struct parsing *parsing, int argc, char **argv, int *status)
{
	/* mount(8) starts its helpers without one, and QEMU is found by it. */
	static const char path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	static char none[] = "";
	char *options = none;
	bool check_only = false;
	int c;

	(void)setenv("PATH", path, 0);
	(void)prctl(PR_SET_NAME, "sbxfs"); /* as ps(1) and pgrep(1) show it otherwise */
	optind = 0;
	while ((c = program_next(&mount_program, argc, argv, status)) != PROGRAM_OPERANDS) {
		if (c == PROGRAM_EXIT)
			return PROGRAM_EXIT;
		if (c == 'o')
			options = optarg;
		check_only |= c == 'f';
	}
	*status = PROGRAM_USAGE;
	if (optind != argc - 2)
		program_refuse_form(&mount_program, 0);
	else if (strpbrk(argv[optind], ",\\"))
		program_refuse(&mount_program, "%s: a name with a comma or backslash cannot be mounted",
			       argv[optind]);
	else
		*status = read_config_of(parsing, options);
	if (*status)
		return PROGRAM_EXIT;
	buf_printf(&parsing->args->mount_options, "fsname=%s", argv[optind]);
	*status = take_mount_options(parsing, options, true);
	parsing->args->operand = argv[optind + 1];
	return *status || check_only ? PROGRAM_EXIT : 0;
}

int arguments_parse(int argc, char **argv, struct arguments *args, struct options *options, int *status)
{
	const char *name = strrchr(argv[0], '/');
	struct parsing parsing = { &program, args, options };
	int rc;

	name = name ? name + 1 : argv[0];
	if (!strcmp(name, MOUNT_HELPER)) {
		parsing.program = &mount_program;
		rc = parse_for_mount(&parsing, argc, argv, status);
	} else {
		rc = parse_own(&parsing, argc, argv, status);
	}
	if (!rc)
		buf_add(&args->mount_options, "", 1);
	if (args->mount_options.failed) {
		fprintf(stderr, "sbxfs: out of memory\n");
		*status = 1;
		return PROGRAM_EXIT;
	}
	return rc;
}

/* ---- paths */

/* The absolute path of what is there of `path`, and the rest as it is. */
static int resolve(const char *path, char *ret, struct err *err)
{
	char head[PATH_MAX], tail[PATH_MAX] = "", joined[PATH_MAX], *slash;

	if (*path == '/')
		snprintf(head, sizeof(head), "%s", path);
	else if (!getcwd(joined, sizeof(joined)) ||
		 snprintf(head, sizeof(head), "%s/%s", joined, path) >= (int)sizeof(head))
		return err_set(err, -ENAMETOOLONG, "cannot find %s", path);
	while (!realpath(head, ret)) {
		slash = strrchr(head, '/');
		if (errno != ENOENT || !slash)
			return err_sys(err, -errno, "cannot find %s", path);
		if (snprintf(joined, sizeof(joined), "%s%s", slash, tail) >= (int)sizeof(joined))
			return err_set(err, -ENAMETOOLONG, "cannot find %s", path);
		memcpy(tail, joined, sizeof(tail));
		*slash = 0;
		if (slash == head)
			snprintf(head, sizeof(head), "/");
	}
	if (strlen(ret) + strlen(tail) >= PATH_MAX)
		return err_set(err, -ENAMETOOLONG, "cannot find %s", path);
	memcpy(ret + strlen(ret), tail, strlen(tail) + 1);
	return 0;
}

static bool is_below(const char *path, const char *dir)
{
	const size_t n = strlen(dir);

	return !strncmp(path, dir, n) && (!path[n] || path[n] == '/' || dir[n - 1] == '/');
}

static int find_mountpoint(const char *path, struct arguments *args, struct err *err)
{
	struct stat st;
	int rc = session_detach_stale(path, err);

	if (rc)
		return rc;
	if (!realpath(path, args->mountpoint) || stat(args->mountpoint, &st) < 0)
		return err_sys(err, -errno, "cannot mount at %s", path);
	if (!S_ISDIR(st.st_mode))
		return err_set(err, -ENOTDIR, "cannot mount at %s: it is not a directory", path);
	return 0;
}

static int find_state(struct arguments *args, struct err *err)
{
	char *dir = args->state ? strdup(args->state) : store_default_dir();
	int rc;

	if (!dir)
		return err_set(err, -ENOENT,
			       "there is no default state directory without $HOME; name one with --state");
	rc = resolve(dir, args->state_dir, err);
	snprintf(args->layers_dir, sizeof(args->layers_dir), "%s/layers", args->state_dir);
	free(dir);
	if (!rc && is_below(args->state_dir, args->mountpoint))
		rc = err_set(err, -EINVAL, "the state directory %s must not be below the mount point",
			     args->state_dir);
	return rc;
}

/* What the guest needs lies beside the program in a build directory, and under PREFIX when installed. */
static int find_guest(struct arguments *args, struct err *err)
{
	char exe[PATH_MAX], dir[PATH_MAX + 32];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	char *slash;

	exe[n > 0 ? n : 0] = 0;
	slash = strrchr(exe, '/');
	if (slash)
		*slash = 0;
	if (args->guest) {
		if (!realpath(args->guest, dir))
			return err_sys(err, -errno, "cannot find %s", args->guest);
	} else {
		snprintf(dir, sizeof(dir), "%s/guest", exe);
		if (access(dir, F_OK))
			snprintf(dir, sizeof(dir), "%s/../lib/sbxfs", exe);
	}
	snprintf(args->kernel, sizeof(args->kernel), "%.*s/vmlinuz", PATH_MAX, dir);
	snprintf(args->initrd, sizeof(args->initrd), "%.*s/initramfs", PATH_MAX, dir);
	snprintf(args->modules, sizeof(args->modules), "%.*s/modules.pack", PATH_MAX, dir);
	if (access(args->kernel, R_OK) || access(args->initrd, R_OK))
		return err_set(err, -ENOENT, "no guest kernel and initramfs in %.200s", dir);
	if (args->libexec) {
		if (!realpath(args->libexec, args->libexec_dir))
			return err_sys(err, -errno, "cannot find %s", args->libexec);
		return 0;
	}
	snprintf(args->libexec_dir, sizeof(args->libexec_dir), "%s/sbx-vmm", exe);
	if (!access(args->libexec_dir, X_OK))
		snprintf(args->libexec_dir, sizeof(args->libexec_dir), "%s", exe);
	else
		snprintf(args->libexec_dir, sizeof(args->libexec_dir), "%s/../libexec/sbxfs", exe);
	return 0;
}

int arguments_find(struct arguments *args, struct err *err)
{
	int rc = find_mountpoint(args->operand, args, err);

	if (!rc)
		rc = find_state(args, err);
	return rc ? rc : find_guest(args, err);
}
