/* SPDX-License-Identifier: MIT */
/* options.c - the options of sbxfs: what there is, and what each value sets */
#include "fs/options.h"

#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>

#include "util/log.h"
#include "util/size.h"
#include "vm/agent/channel.h"
#include "vm/net/resolvers.h"

enum {
	OPT_STATE = OPTION_CONFIG + 1,
	OPT_ENGINE,
	OPT_MODE,
	OPT_GROUP,
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
	OPT_METRICS_SANDBOXES,
	OPT_LIMITS,
	OPT_BOOT,
	OPT_BOOT_SNAPSHOTS,
	OPT_FORK,
	OPT_KEEP,
	OPT_JAIL,
	OPT_JAIL_UIDS,
	OPT_UNTRUSTED
};

const struct program_option option_table[] = {
	{ OPTION_CONFIG, "config", "FILE",
	  "options from a file, one a line: NAME = VALUE, as /etc/sbxfs.conf has\nthem; what the command "
	  "line says counts more" },
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
	{ OPT_GROUP, "group", "GROUP",

	  "group of the root: with --mode 1775 who is in it may (default:\nsbxfs's own)" },
	{ OPT_MEMORY, "memory-default", "SIZE", "memory of a new sandbox (default: 512M)" },
	{ OPT_NET, "net", "MODE", "network of a new sandbox: none, allow, public or all (default: public)" },
	{ OPT_RESOLVER, "resolver", "ADDRESS[:PORT]",
	  "who is asked for the names that guests look up (default: those of\n/etc/resolv.conf)" },
	{ OPT_POOL, "pool", "N",
	  "machines kept ready for each snapshot that is forked, and as many as\nits last rows of forks took "
	  "(default: 2)" },
	{ OPT_POOL_TOTAL, "pool-total", "N", "and at most, for all snapshots together (default: 16)" },
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
	{ OPT_METRICS_SANDBOXES, "metrics-sandboxes", NULL, "let `metrics` have values of each sandbox" },
	{ OPT_BOOT, "boot-timeout", "SECONDS", "how long a guest may take to boot (default: 60)" },
	{ OPT_BOOT_SNAPSHOTS, "boot-snapshots", "N",
	  "start sandboxes as forks of machines that just booted, and keep so\nmany of those; 0: each boots "
	  "(default: 8)" },
	{ OPT_FORK, "fork-timeout", "SECONDS", "how long a fork may take to answer (default: 30)" },
	{ OPT_KEEP, "keep", NULL,
	  "suspend all sandboxes when sbxfs ends, and keep what is stored of one\nwhile it runs: the next "
	  "start "
	  "finds them again" },
	{ OPT_GUEST, "guest", "DIR", "where the guest's vmlinuz and initramfs are" },
	{ OPT_LIBEXEC, "libexec", "DIR", "where sbx-vmm, sbx-browse, sbx-net and sbx-track.so are" },
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

const struct program_option *option_find(const char *name, size_t n)
{
	const struct program_option *option = option_table;

	for (; option->key; option++)
		if (option->name && strlen(option->name) == n && !memcmp(option->name, name, n))
			return option;
	return NULL;
}

/* ---- values */

static int set_size(const char *text, uint64_t *ret, struct err *err)
{
	return size_parse(text, ret) ? err_set(err, -EINVAL, "\"%s\" is not a size", text) : 0;
}

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

static int set_number(int key, const char *text, struct options *options, struct err *err)
{
	const struct number_option *option = number_options;
	void *value;
	uint64_t n;

	while (option->key != key)
		option++;
	value = (char *)options + option->offset;
	if (!option->unit)
		return set_size(text, value, err);
	if (number_parse(text, &n) || n > option->max)
		return err_set(err, -EINVAL, "\"%s\" is not a number up to %u", text, option->max);
	*(unsigned *)value = (unsigned)n * option->unit;
	return 0;
}

/* Of an option that takes no value on the command line. */
static int set_flag(const char *text, bool *ret, struct err *err)
{
	if (text && strcmp(text, "yes") != 0 && strcmp(text, "no") != 0)
		return err_set(err, -EINVAL, "\"%s\" is neither yes nor no", text);
	*ret = !text || !strcmp(text, "yes");
	return 0;
}

/* The sticky bit and permissions, in octal. */
static int set_mode(const char *text, mode_t *ret, struct err *err)
{
	const size_t n = strlen(text);

	if (!n || n > 4 || strspn(text, "01234567") != n || strtoul(text, NULL, 8) > 01777)
		return err_set(err, -EINVAL, "\"%s\" is not a mode such as 0755 or 1777", text);
	*ret = (mode_t)strtoul(text, NULL, 8);
	return 0;
}

static int set_group(const char *text, struct arguments *args, struct err *err)
{
	const struct group *group = getgrnam(text);
	uint64_t n;

	if (!group && (number_parse(text, &n) || n >= UINT32_MAX))
		return err_set(err, -EINVAL, "there is no group \"%s\"", text);
	args->group = group ? group->gr_gid : (gid_t)n;
	args->has_group = true;
	return 0;
}

static int set_memory(const char *text, struct shape *shape, struct err *err)
{
	if (shape_set(shape, "memory", text, err))
		return -EINVAL;
	if (shape->memory > shape->memory_max)
		shape->memory_max = shape->memory;
	return 0;
}

static int set_net(const char *text, struct options *options, struct err *err)
{
	return net_mode_parse(text, &options->net) ? 0
						   : err_set(err, -EINVAL, "there is no mode \"%s\"", text);
}

static int set_engine(const char *text, const char **ret, struct err *err)
{
	const struct engine *const *engine = engines;

	while (*engine && strcmp((*engine)->name, text) != 0)
		engine++;
	if (!*engine && strcmp(text, "auto") != 0)
		return err_set(err, -EINVAL, "there is no engine \"%s\"", text);
	*ret = text;
	return 0;
}

static int set_jail(const char *text, struct jail_config *jail, struct err *err)
{
	jail->none = !strcmp(text, "none");
	if (jail->none || !strcmp(text, "on"))
		return 0;
	return err_set(err, -EINVAL, "\"%s\" is neither on nor none", text);
}

/* Root's own id, and what distributions give to users, are no ids for machines. */
static int set_uids(const char *text, struct jail_config *jail, struct err *err)
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
	return err_set(err, -EINVAL, "\"%s\" is not FIRST-LAST, from 1000 on", text);
}

int option_set(int key, const char *value, struct arguments *args, struct options *options, struct err *err)
{
	switch (key) {
	case OPT_STATE:
		args->state = value;
		return 0;
	case OPT_ENGINE:
		return set_engine(value, &args->engine, err);
	case OPT_MODE:
		return set_mode(value, &args->mode, err);
	case OPT_GROUP:
		return set_group(value, args, err);
	case OPT_GUEST:
		args->guest = value;
		return 0;
	case OPT_LIBEXEC:
		args->libexec = value;
		return 0;
	case OPT_MEMORY:
		return set_memory(value, &options->shape, err);
	case OPT_NET:
		return set_net(value, options, err);
	case OPT_RESOLVER:
		return net_resolvers_use(value) ? 0
						: err_set(err, -EINVAL, "\"%s\" is not an address", value);
	case OPT_STORE_RESERVE:
		options->has_reserve = true;
		return set_size(value, &options->reserve, err);
	case OPT_LIMITS:
		return limits_parse(value, &options->limits, err) ? -EINVAL : 0;
	case OPT_JAIL:
		return set_jail(value, &args->jail, err);
	case OPT_JAIL_UIDS:
		return set_uids(value, &args->jail, err);
	case OPT_METRICS_SANDBOXES:
		return set_flag(value, &options->metrics_sandboxes, err);
	case OPT_KEEP:
		return set_flag(value, &options->keep, err);
	case OPT_UNTRUSTED:
		return set_flag(value, &args->untrusted, err);
	case 'f':
		args->foreground = true;
		return 0;
	case 'v':
		log_threshold = LOG_DEBUG;
		return 0;
	default:
		return set_number(key, value, options, err);
	}
}
