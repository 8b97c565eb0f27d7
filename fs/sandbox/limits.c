/* SPDX-License-Identifier: MIT */
/* limits.c - what a sandbox may use of its host, beyond what its machine is made of */
#include "fs/sandbox/limits.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/sandbox/sandbox.h"
#include "fs/tree/command.h"
#include "util/size.h"
#include "vm/net/helper.h"

enum { MILLI_DIGITS = 3 };

/* A number of CPUs with up to three decimals, in thousandths. */
static int cpus_parse(const char *text, uint64_t *ret)
{
	unsigned decimals = 0;
	bool point = false;
	const char *p;
	uint64_t n = 0;

	for (p = text; *p; p++) {
		if (*p == '.' && !point && p > text && p[1]) {
			point = true;
			continue;
		}
		if (*p < '0' || *p > '9' || decimals == MILLI_DIGITS)
			return -EINVAL;
		decimals += point;
		n = 10 * n + (uint64_t)(*p - '0');
		if (n > UINT32_MAX)
			return -ERANGE;
	}
	for (; decimals < MILLI_DIGITS; decimals++)
		n *= 10;
	*ret = n;
	return p == text ? -EINVAL : 0;
}

static void cpus_show(uint64_t value, struct buf *text)
{
	char line[32];
	size_t n = (size_t)snprintf(line, sizeof(line), "%" PRIu64 ".%03u", value / 1000,
				    (unsigned)(value % 1000));

	while (line[n - 1] == '0')
		n--;
	buf_printf(text, "%.*s", (int)(line[n - 1] == '.' ? n - 1 : n), line);
}

static void number_show(uint64_t value, struct buf *text)
{
	buf_printf(text, "%" PRIu64, value);
}

static const struct {
	const char *name, *what;
	uint64_t min, max; /* as they are kept */
	const char *bounds;
	int (*parse)(const char *text, uint64_t *ret);
	void (*show)(uint64_t value, struct buf *text);
} keys[LIMITS_ALL] = {
	[LIMIT_MEMORY] = { "memory", "a size such as 512M", 64 << 20, UINT64_C(1) << 46, "64M and 64T",
			   size_parse, number_show },
	[LIMIT_CPU] = { "cpu", "a number of CPUs such as 1.5", 10, 1000000, "0.01 and 1000", cpus_parse,
			cpus_show },
	[LIMIT_PIDS] = { "pids", "a number", 16, 1 << 22, "16 and 4194304", number_parse, number_show },
	[LIMIT_IO] = { "io", "bytes a second such as 50M", 64 << 10, UINT64_C(1) << 46, "64K and 64T",
		       size_parse, number_show },
	[LIMIT_DISK] = { "disk", "a size such as 10G", 16 << 20, UINT64_C(1) << 46, "16M and 64T", size_parse,
			 number_show },
};

const struct limits limits_none = { { LIMIT_NONE, LIMIT_NONE, LIMIT_NONE, LIMIT_NONE, LIMIT_NONE } };

int limits_set(struct limits *limits, const char *key, const char *value, struct err *err)
{
	uint64_t n = LIMIT_NONE;
	int i, rc = 0;

	for (i = 0; i < LIMITS_ALL && strcmp(keys[i].name, key) != 0; i++)
		;
	if (i == LIMITS_ALL)
		return err_set(err, -EINVAL,
			       "there is no limit \"%.64s\"; the limits are memory, cpu, pids, io and disk",
			       key);
	if (strcmp(value, "max") != 0)
		rc = keys[i].parse(value, &n);
	else
		goto out;
	if (rc == -EINVAL)
		return err_set(err, rc, "%s: \"%.64s\" is neither %s nor max", key, value, keys[i].what);
	if (rc || n < keys[i].min || n > keys[i].max)
		return err_set(err, -ERANGE, "%s: %.64s is not between %s", key, value, keys[i].bounds);
out:
	limits->value[i] = n;
	return 0;
}

int limits_parse(const char *text, struct limits *ret, struct err *err)
{
	char word[96], *value;
	size_t n;
	int rc = 0;

	for (; !rc; text += n + 1) {
		n = strcspn(text, ",");
		snprintf(word, sizeof(word), "%.*s", (int)n, text);
		value = strchr(word, '=');
		if (!value || n >= sizeof(word))
			return err_set(err, -EINVAL, "\"%.64s\" is not of the form key=value", word);
		*value++ = '\0';
		rc = limits_set(ret, word, value, err);
		if (!text[n])
			break;
	}
	return rc;
}

int limits_check_host(const struct limits *limits, struct err *err)
{
	int i;

	for (i = 0; i < LIMITS; i++)
		if (limits->value[i] && limits->value[i] != LIMIT_NONE && !launcher_may_limit((enum limit)i))
			return err_set(
				err, -EOPNOTSUPP,
				"%s: this host has no cgroups for the daemon that could limit it: %.160s",
				keys[i].name, launcher_limits());
	return 0;
}

int limits_check(const struct fs *fs, const struct caller *caller, const struct limits *want, struct err *err)
{
	const struct limits *given = &fs->options.limits;
	int i, rc = limits_check_host(want, err);

	if (rc || !caller->uid || caller->uid == geteuid())
		return rc;
	for (i = 0; i < LIMITS_ALL; i++)
		if (want->value[i] > given->value[i])
			return err_set(err, -EPERM, "%s: only root may give more than the daemon's --limits",
				       keys[i].name);
	return 0;
}

void limits_merge(struct limits *limits, const struct limits *want)
{
	int i;

	for (i = 0; i < LIMITS_ALL; i++)
		if (want->value[i])
			limits->value[i] = want->value[i];
}

static pid_t machine_pid(const struct sandbox *sb)
{
	return sb->vm ? sb->obj.fs->engine->pid(sb->vm) : -1;
}

int limits_apply(const struct sandbox *sb, pid_t pid, struct err *err)
{
	int i, rc = 0;

	for (i = 0; !rc && pid > 0 && i < LIMITS; i++)
		if (sb->limits.value[i] != LIMIT_NONE)
			rc = launcher_limit(pid, (enum limit)i, sb->limits.value[i], err);
	return rc;
}

int limits_show(struct object *obj, struct buf *text, struct err *err)
{
	const struct limits *limits = &sandbox_of(obj)->limits;
	int i;

	(void)err;
	for (i = 0; i < LIMITS_ALL; i++) {
		buf_printf(text, "%s ", keys[i].name);
		if (limits->value[i] == LIMIT_NONE)
			buf_printf(text, "max");
		else
			keys[i].show(limits->value[i], text);
		buf_printf(text, "\n");
	}
	return 0;
}

static int change_of(const struct sandbox *sb, pid_t pid, const struct limits *want, struct err *err)
{
	int i, rc = 0;

	for (i = 0; !rc && pid > 0 && i < LIMITS; i++)
		if (want->value[i] && want->value[i] != sb->limits.value[i])
			rc = launcher_limit(pid, (enum limit)i, want->value[i], err);
	return rc;
}

/* A machine that runs is held to it at once; what does not hold does not stand in the file either. */
static int change(struct sandbox *sb, const struct limits *want, struct err *err)
{
	const struct net_helper *helper = sb->network.helper;
	int rc = change_of(sb, machine_pid(sb), want, err);

	if (!rc && helper)
		rc = change_of(sb, net_helper_pid(helper), want, err);
	if (!rc) {
		limits_merge(&sb->limits, want);
		life_setting_changed(sb);
	}
	if (!rc && want->value[LIMIT_DISK])
		room_watch(sb->obj.fs);
	return rc;
}

void limits_write(struct object *obj, const char *text, struct request *request)
{
	struct command *command = command_new(COMMAND_WRITE, obj, request);
	struct limits want = { { 0 } };
	struct words words;
	struct err err = { 0 };

	if (!command)
		return;
	if (!words_parse(text, request->size, &words, &err) && words.n != 2)
		err_set(&err, -EINVAL, "limits: one line is expected, a key and its value");
	if (!err.code && !limits_set(&want, words.word[0], words.word[1], &err) &&
	    !limits_check(obj->fs, &command->caller, &want, &err))
		(void)change(sandbox_of(obj), &want, &err);
	command_done(command, &err);
}
