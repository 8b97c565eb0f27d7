/* SPDX-License-Identifier: MIT */
/* arguments.c - the command line of sbxfs, and where what it names is */
#include "fs/arguments.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/tree/session.h"
#include "snap/image.h"
#include "util/log.h"
#include "util/program.h"
#include "util/size.h"
#include "vm/agent/channel.h"
#include "vm/net/resolvers.h"

enum {
	OPT_STATE = PROGRAM_LONG,
	OPT_ENGINE,
	OPT_MODE,
	OPT_GUEST,
	OPT_LIBEXEC,
	OPT_MEMORY,
	OPT_NET,
	OPT_RESOLVER,
	OPT_POOL,
	OPT_POOL_TOTAL,
	OPT_POOL_MEMORY,
	OPT_STORE_RESERVE,
	OPT_MAX_SANDBOXES,
	OPT_MAX_PER_USER,
	OPT_MAX_JOBS,
	OPT_MAX_JOBS_TOTAL,
	OPT_MAX_JOBS_PER_USER,
	OPT_MAX_MEMORY,
	OPT_MAX_MEMORY_PER_USER,
	OPT_MAX_FILES_PER_USER,
	OPT_LIMITS,
	OPT_BOOT,
	OPT_BOOT_SNAPSHOTS,
	OPT_FORK,
	OPT_JAIL,
	OPT_JAIL_UIDS,
	OPT_UNTRUSTED
};

static const struct program_option option_table[] = {
	{ OPT_STATE, "state", "DIR",
	  "where images and named snapshots are kept (default:\n"
	  "/var/lib/sbxfs for root, else $XDG_STATE_HOME/sbxfs\n"
	  "or ~/.local/state/sbxfs)" },
	{ OPT_ENGINE, "engine", "NAME", "kvm, qemu or auto: the best this host can run (default: auto)" },
	{ 'f', NULL, NULL, "stay in the foreground" },
	{ 'o', NULL, "OPTIONS", "more mount options, separated by commas" },
	{ OPT_MODE, "mode", "MODE",
	  "permissions of the root: who may make sandboxes and named\n"
	  "snapshots (default: 0755; 1777: everybody)" },
	{ OPT_MEMORY, "memory-default", "SIZE", "memory of a new sandbox (default: 512M)" },
	{ OPT_NET, "net", "MODE", "network of a new sandbox: none, allow, public or all (default: public)" },
	{ OPT_RESOLVER, "resolver", "ADDRESS[:PORT]",
	  "who is asked for the names that guests look up (default: those of\n/etc/resolv.conf)" },
	{ OPT_POOL, "pool", "N", "machines kept ready for each snapshot that is forked (default: 2)" },
	{ OPT_POOL_TOTAL, "pool-total", "N", "and for all snapshots together (default: 8)" },
	{ OPT_POOL_MEMORY, "pool-memory", "SIZE",
	  "keep no further machine ready once those that are have this much\n"
	  "memory of their own (default: 1G)" },
	{ OPT_STORE_RESERVE, "store-reserve", "SIZE",
	  "below so much free space in the store, machines that go on filling\nit are paused (default: a "
	  "twentieth of it, at most 1G)" },
	{ OPT_MAX_SANDBOXES, "max-sandboxes", "N", "how many sandboxes there may be (default: 4096)" },
	{ OPT_MAX_PER_USER, "max-per-user", "N", "and how many of one owner (default: 4096)" },
	{ OPT_MAX_JOBS, "max-jobs", "N", "how many jobs a sandbox may have (default: 1024; at most 4096)" },
	{ OPT_MAX_JOBS_TOTAL, "max-jobs-total", "N", "how many all of them may have (default: 65536)" },
	{ OPT_MAX_JOBS_PER_USER, "max-jobs-per-user", "N",
	  "how many those of one owner may have (default: 16384)" },
	{ OPT_MAX_MEMORY, "max-memory", "SIZE",
	  "how much memory the machines may have together (default: no bound)" },
	{ OPT_MAX_MEMORY_PER_USER, "max-memory-per-user", "SIZE",
	  "and those of one owner (default: no bound)" },
	{ OPT_MAX_FILES_PER_USER, "max-files-per-user", "N",
	  "how many of the daemon's descriptors the machines and snapshots of one\nowner may keep open "
	  "(default: half of them)" },
	{ OPT_LIMITS, "limits", "K=V,...",
	  "what a new sandbox may use of this host: memory, cpu, pids, io, disk;\nmore is for root to give "
	  "(default: "
	  "max)" },
	{ OPT_BOOT, "boot-timeout", "SECONDS", "how long a guest may take to boot (default: 60)" },
	{ OPT_BOOT_SNAPSHOTS, "boot-snapshots", "N",
	  "start sandboxes as forks of machines that just booted, and keep so\nmany of those; 0: each boots "
	  "(default: 0)" },
	{ OPT_FORK, "fork-timeout", "SECONDS", "how long a fork may take to answer (default: 30)" },
	{ OPT_GUEST, "guest", "DIR", "where the guest's vmlinuz and initramfs are" },
	{ OPT_LIBEXEC, "libexec", "DIR", "where sbx-vmm, sbx-browse and sbx-net are" },
	{ OPT_JAIL, "jail", "on|none",
	  "run machines and helpers each in a jail, or (none) with all that sbxfs\nitself may do (default: "
	  "on)" },
	{ OPT_JAIL_UIDS, "jail-uids", "FIRST-LAST",
	  "user ids for them, one each, where sbxfs is root (default:\n1900000000-1900065535)" },
	{ OPT_UNTRUSTED, "untrusted", NULL,
	  "refuse to start where guests could harm this host: without hardware\nvirtualization, or without a "
	  "jail" },
	{ 'v', NULL, NULL, "log more" },
	{ 0 },
};

static const struct program program = {
	.name = "sbxfs",
	.forms = "[OPTION...] MOUNTPOINT",
	.about = "Mounts a filesystem in which every directory is a running virtual machine and every\n"
		 "snapshot is a directory. The file README in it says how to use it.\n",
	.options = option_table,
	.notes = "fusermount3 -u MOUNTPOINT ends it, and all sandboxes in it.\n",
};

/* ---- options */

/* Options that are a number, in struct options: a size, or so many of a unit. */
static const struct number_option {
	int key;
	unsigned unit; /* 0: a size, which is a uint64_t there; otherwise an unsigned, in this unit */
	unsigned max;
	size_t offset;
} number_options[] = {
	{ OPT_POOL, 1, 1000, offsetof(struct options, pool) },
	{ OPT_POOL_TOTAL, 1, 10000, offsetof(struct options, pool_total) },
	{ OPT_POOL_MEMORY, 0, 0, offsetof(struct options, pool_memory) },
	{ OPT_MAX_SANDBOXES, 1, 1000000, offsetof(struct options, max_sandboxes) },
	{ OPT_MAX_PER_USER, 1, 1000000, offsetof(struct options, max_per_user) },
	{ OPT_MAX_JOBS, 1, AGENT_JOBS_MAX, offsetof(struct options, max_jobs) },
	{ OPT_MAX_JOBS_TOTAL, 1, 1u << 24, offsetof(struct options, max_jobs_total) },
	{ OPT_MAX_JOBS_PER_USER, 1, 1u << 24, offsetof(struct options, max_jobs_per_user) },
	{ OPT_MAX_MEMORY, 0, 0, offsetof(struct options, max_memory) },
	{ OPT_MAX_MEMORY_PER_USER, 0, 0, offsetof(struct options, max_memory_per_user) },
	{ OPT_MAX_FILES_PER_USER, 1, 1u << 24, offsetof(struct options, max_files_per_user) },
	{ OPT_BOOT, 1000, 86400, offsetof(struct options, boot_timeout_ms) },
	{ OPT_FORK, 1000, 86400, offsetof(struct options, fork_timeout_ms) },
	{ OPT_BOOT_SNAPSHOTS, 1, 1000, offsetof(struct options, boot_snapshots) },
};

static const char *long_name(int key)
{
	const struct program_option *option = option_table;

	while (option->key != key)
		option++;
	return option->name;
}

static int set_size(int key, const char *text, uint64_t *ret)
{
	if (!size_parse(text, ret))
		return 0;
	program_refuse(&program, "--%s: \"%s\" is not a size", long_name(key), text);
	return -EINVAL;
}

static int set_number(int key, const char *text, struct options *options)
{
	const struct number_option *option = number_options;
	void *value;
	uint64_t n;

	while (option->key != key)
		option++;
	value = (char *)options + option->offset;
	if (!option->unit)
		return set_size(key, text, value);
	if (number_parse(text, &n) || n > option->max) {
		program_refuse(&program, "--%s: \"%s\" is not a number up to %u", long_name(key), text,
			       option->max);
		return -EINVAL;
	}
	*(unsigned *)value = (unsigned)n * option->unit;
	return 0;
}

/* The sticky bit and permissions, in octal. */
static int set_mode(const char *text, mode_t *ret)
{
	const size_t n = strlen(text);

	if (!n || n > 4 || strspn(text, "01234567") != n || strtoul(text, NULL, 8) > 01777) {
		program_refuse(&program, "--mode: \"%s\" is not a mode such as 0755 or 1777", text);
		return -EINVAL;
	}
	*ret = (mode_t)strtoul(text, NULL, 8);
	return 0;
}

static int set_memory(const char *text, struct shape *shape)
{
	struct err err;

	if (shape_set(shape, "memory", text, &err)) {
		program_refuse(&program, "--memory-default: %s", err.text);
		return -EINVAL;
	}
	if (shape->memory > shape->memory_max)
		shape->memory_max = shape->memory;
	return 0;
}

static int set_limits(const char *text, struct limits *limits)
{
	struct err err;

	if (!limits_parse(text, limits, &err))
		return 0;
	program_refuse(&program, "--limits: %s", err.text);
	return -EINVAL;
}

static int set_engine(const char *text, const char **ret)
{
	const struct engine *const *engine = engines;

	while (*engine && strcmp((*engine)->name, text) != 0)
		engine++;
	if (!*engine && strcmp(text, "auto") != 0) {
		program_refuse(&program, "--engine: there is no engine \"%s\"", text);
		return -EINVAL;
	}
	*ret = text;
	return 0;
}

static int set_jail(const char *text, struct jail_config *jail)
{
	jail->none = !strcmp(text, "none");
	if (jail->none || !strcmp(text, "on"))
		return 0;
	program_refuse(&program, "--jail: \"%s\" is neither on nor none", text);
	return -EINVAL;
}

/* Root's own id, and what distributions give to users, are no ids for machines. */
static int set_uids(const char *text, struct jail_config *jail)
{
	const char *dash = strchr(text, '-');
	char first[16];
	uint64_t from, to;

	if (dash && dash - text < (int)sizeof(first)) {
		snprintf(first, sizeof(first), "%.*s", (int)(dash - text), text);
		if (!number_parse(first, &from) && !number_parse(dash + 1, &to) && from >= 1000 &&
		    from <= to && to < UINT32_MAX - 1) {
			jail->uid_first = (uid_t)from;
			jail->uid_last = (uid_t)to;
			return 0;
		}
	}
	program_refuse(&program, "--jail-uids: \"%s\" is not FIRST-LAST, from 1000 on", text);
	return -EINVAL;
}

int arguments_parse(int argc, char **argv, struct arguments *args, struct options *options, int *status)
{
	int c, rc = 0;

	while (!rc && (c = program_next(&program, argc, argv, status)) != PROGRAM_OPERANDS) {
		switch (c) {
		case OPT_STATE:
			args->state = optarg;
			break;
		case OPT_ENGINE:
			rc = set_engine(optarg, &args->engine);
			break;
		case OPT_MODE:
			rc = set_mode(optarg, &args->mode);
			break;
		case OPT_GUEST:
			args->guest = optarg;
			break;
		case OPT_LIBEXEC:
			args->libexec = optarg;
			break;
		case OPT_MEMORY:
			rc = set_memory(optarg, &options->shape);
			break;
		case OPT_NET:
			if (!net_mode_parse(optarg, &options->net)) {
				program_refuse(&program, "--net: there is no mode \"%s\"", optarg);
				rc = -EINVAL;
			}
			break;
		case OPT_RESOLVER:
			if (!net_resolvers_use(optarg)) {
				program_refuse(&program, "--resolver: \"%s\" is not an address", optarg);
				rc = -EINVAL;
			}
			break;
		case OPT_POOL:
		case OPT_POOL_TOTAL:
		case OPT_POOL_MEMORY:
		case OPT_MAX_SANDBOXES:
		case OPT_MAX_PER_USER:
		case OPT_MAX_JOBS:
		case OPT_MAX_JOBS_TOTAL:
		case OPT_MAX_JOBS_PER_USER:
		case OPT_MAX_MEMORY:
		case OPT_MAX_MEMORY_PER_USER:
		case OPT_MAX_FILES_PER_USER:
		case OPT_BOOT:
		case OPT_BOOT_SNAPSHOTS:
		case OPT_FORK:
			rc = set_number(c, optarg, options);
			break;
		case OPT_STORE_RESERVE:
			rc = set_size(c, optarg, &options->reserve);
			options->has_reserve = true;
			break;
		case OPT_LIMITS:
			rc = set_limits(optarg, &options->limits);
			break;
		case OPT_JAIL:
			rc = set_jail(optarg, &args->jail);
			break;
		case OPT_JAIL_UIDS:
			rc = set_uids(optarg, &args->jail);
			break;
		case OPT_UNTRUSTED:
			args->untrusted = true;
			break;
		case 'f':
			args->foreground = true;
			break;
		case 'o':
			args->mount_options = optarg;
			break;
		case 'v':
			log_threshold = LOG_DEBUG;
			break;
		default:
			return PROGRAM_EXIT;
		}
	}
	*status = PROGRAM_USAGE;
	if (!rc && optind == argc - 1)
		return 0;
	if (!rc && optind == argc)
		program_refuse(&program, "a mount point is needed");
	else if (!rc)
		program_refuse(&program, "\"%s\" is one mount point too many", argv[optind + 1]);
	return PROGRAM_EXIT;
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
			snprintf(dir, sizeof(dir), "%s/../share/sbxfs", exe);
	}
	snprintf(args->kernel, sizeof(args->kernel), "%.*s/vmlinuz", PATH_MAX, dir);
	snprintf(args->initrd, sizeof(args->initrd), "%.*s/initramfs", PATH_MAX, dir);
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

int arguments_find(struct arguments *args, const char *mountpoint, struct err *err)
{
	int rc = find_mountpoint(mountpoint, args, err);

	if (!rc)
		rc = find_state(args, err);
	return rc ? rc : find_guest(args, err);
}
