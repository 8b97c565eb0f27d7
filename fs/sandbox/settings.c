/* SPDX-License-Identifier: MIT */
/* settings.c - values people write: memory, cpus, env, and k=v options of verbs */
#include "fs/sandbox/settings.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fs/life/life.h"
#include "util/size.h"
#include "vm/kernel_args.h"

static int set_memory(uint64_t *field, const char *key, const char *value, struct err *err)
{
	uint64_t n = 0;
	const int rc = size_parse(value, &n);

	if (rc == -EINVAL)
		return err_set(err, rc, "%s: \"%.64s\" is not a size such as 512M", key, value);
	if (rc || n < MEMORY_MIN || n > MEMORY_LIMIT)
		return err_set(err, -ERANGE, "%s: %.64s is not between %" PRIu64 "M and %" PRIu64 "G", key,
			       value, MEMORY_MIN >> 20, MEMORY_LIMIT >> 30);
	if (n % (1 << 20))
		return err_set(err, -EINVAL, "%s: %.64s is not a multiple of 1M", key, value);
	*field = n;
	return 0;
}

static int set_cpus(uint32_t *field, const char *key, const char *value, struct err *err)
{
	uint64_t n = 0;
	const int rc = number_parse(value, &n);

	if (rc == -EINVAL)
		return err_set(err, rc, "%s: \"%.64s\" is not a number", key, value);
	if (rc || !n || n > CPUS_LIMIT)
		return err_set(err, -ERANGE, "%s: %.64s is not between 1 and %d", key, value, CPUS_LIMIT);
	*field = (uint32_t)n;
	return 0;
}

/* It becomes a word of the kernel's command line. */
static int set_init(char field[SHAPE_INIT_MAX], const char *value, struct err *err)
{
	size_t i;

	for (i = 0; value[i]; i++)
		if (value[i] <= ' ' || value[i] > '~' || value[i] == '"' || value[i] == '\\')
			break;
	if (value[0] != '/' || value[i] || i >= SHAPE_INIT_MAX)
		return err_set(
			err, -EINVAL,
			"init: \"%.64s\" is not the path of a program: it begins with /, has no blanks and "
			"quotes, and less than %d letters",
			value, SHAPE_INIT_MAX);
	memcpy(field, value, i + 1);
	return 0;
}

int shape_set(struct shape *shape, const char *key, const char *value, struct err *err)
{
	if (!strcmp(key, "memory"))
		return set_memory(&shape->memory, key, value, err);
	if (!strcmp(key, "memory_max"))
		return set_memory(&shape->memory_max, key, value, err);
	if (!strcmp(key, "cpus"))
		return set_cpus(&shape->cpus, key, value, err);
	if (!strcmp(key, "cpus_max"))
		return set_cpus(&shape->cpus_max, key, value, err);
	if (!strcmp(key, "init"))
		return set_init(shape->init, value, err);
	return err_set(err, -EINVAL, "there is no setting \"%.64s\"", key);
}

int shape_check(const struct shape *shape, struct err *err)
{
	if (shape->memory > shape->memory_max)
		return err_set(err, -ERANGE, "memory (%" PRIu64 "M) is above memory_max (%" PRIu64 "M)",
			       shape->memory >> 20, shape->memory_max >> 20);
	if (shape->cpus > shape->cpus_max)
		return err_set(err, -ERANGE, "cpus (%u) is above cpus_max (%u)", shape->cpus,
			       shape->cpus_max);
	return 0;
}

int shape_check_start(const struct shape *shape, struct err *err)
{
	const uint64_t floor = memory_floor(shape);

	if (shape->memory >= floor)
		return 0;
	return err_set(err, -ERANGE,
		       "memory (%" PRIu64 "M) is below the %" PRIu64 "M that a guest with memory_max=%" PRIu64
		       "M needs",
		       shape->memory >> 20, floor >> 20, shape->memory_max >> 20);
}

/* ---- environments */

/* Length of the line at text, without its newline. */
static size_t line_length(const char *text, size_t n)
{
	const char *end = memchr(text, '\n', n);

	return end ? (size_t)(end - text) : n;
}

/* Length of the K of a line K=V, 0 if there is none. */
static size_t key_length(const char *line, size_t n)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";
	size_t i;

	for (i = 0; i < n && line[i] != '='; i++)
		if (!line[i] || !strchr(letters, line[i]))
			return 0;
	return i < n && !(line[0] >= '0' && line[0] <= '9') ? i : 0;
}

/* 0, or -EINVAL: every line is K=V. */
static int check_lines(const char *text, size_t n, struct err *err)
{
	size_t at, len;

	for (at = 0; at < n; at += len + 1) {
		len = line_length(text + at, n - at);
		if (!key_length(text + at, len))
			return err_set(
				err, -EINVAL,
				"env: \"%.*s\" is not NAME=VALUE; a value with newlines goes in a text "
				"with NUL bytes between its values, as env -0 prints",
				(int)(len < 64 ? len : 64), text + at);
	}
	return 0;
}

/* Between a text with NULs and lines, in either direction. */
static void swap_ends(char *text, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (!text[i])
			text[i] = '\n';
		else if (text[i] == '\n')
			text[i] = 0;
}

int env_parse(const char *text, size_t n, struct buf *ret, struct err *err)
{
	char *lines = malloc(n + 1);
	int rc;

	if (!lines)
		return err_sys(err, -ENOMEM, "env");
	memcpy(lines, text, n);
	if (memchr(text, 0, n))
		swap_ends(lines, n);
	rc = check_lines(lines, n, err);
	if (!rc)
		env_merge(ret, lines, n);
	if (!rc && ret->failed)
		rc = err_sys(err, -ENOMEM, "env");
	if (rc)
		buf_release(ret);
	free(lines);
	return rc;
}

void env_text(const struct buf *env, struct buf *text)
{
	const size_t at = text->len;

	buf_add(text, buf_bytes(env), env->len);
	if (!text->failed && env->len && memchr(buf_bytes(env), 0, env->len))
		swap_ends((char *)buf_bytes(text) + at, env->len);
}

void env_add(struct buf *env, const char *entry)
{
	const size_t n = strlen(entry), at = env->len;

	buf_add(env, entry, n);
	if (!env->failed)
		swap_ends((char *)buf_bytes(env) + at, n); /* newlines only: there is no NUL in it */
	buf_add(env, "\n", 1);
}

int env_fits(const struct buf *env, struct err *err)
{
	if (env->len <= ENV_MAX)
		return 0;
	return err_set(err, -E2BIG,
		       "env: a sandbox's has at most %d bytes; a command's own has more (exec/J/env)",
		       ENV_MAX);
}

struct line {
	const char *text;
	size_t n, key;            /* length without newline; of the name, with its '=' */
	size_t at;                /* which line it is */
	const struct line *value; /* the last with the same name; NULL: it is not the first */
};

static int by_key(const void *a, const void *b)
{
	const struct line *x = *(const struct line *const *)a, *y = *(const struct line *const *)b;
	const int rc = memcmp(x->text, y->text, x->key < y->key ? x->key : y->key);

	if (rc)
		return rc;
	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return x->at < y->at ? -1 : 1;
}

static size_t cut(const char *text, size_t n, struct line *lines, size_t nlines)
{
	size_t at, len;

	for (at = 0; at < n; at += len + 1) {
		len = line_length(text + at, n - at);
		lines[nlines] = (struct line){ text + at, len, key_length(text + at, len) + 1, nlines, NULL };
		nlines++;
	}
	return nlines;
}

static size_t count(const char *text, size_t n)
{
	size_t at, lines = 0;

	for (at = 0; at < n; at += line_length(text + at, n - at) + 1)
		lines++;
	return lines;
}

/* The last of the lines with the same name stands where the first did. */
static void settle(struct line *lines, struct line **sorted, size_t n)
{
	struct line *first = NULL;
	size_t i;

	for (i = 0; i < n; i++)
		sorted[i] = &lines[i];
	qsort(sorted, n, sizeof(struct line *), by_key);
	for (i = 0; i < n; i++) {
		if (!first || first->key != sorted[i]->key ||
		    memcmp(first->text, sorted[i]->text, first->key) != 0)
			first = sorted[i];
		first->value = sorted[i];
	}
}

void env_merge(struct buf *env, const char *more, size_t n)
{
	const char *text = (const char *)buf_bytes(env);
	const size_t room = count(text, env->len) + count(more, n);
	struct line *lines = calloc(room + 1, sizeof(*lines));
	struct line **sorted = calloc(room + 1, sizeof(struct line *));
	struct buf merged = { 0 };
	size_t i, nlines;

	merged.failed = env->failed || !lines || !sorted;
	if (!merged.failed) {
		nlines = cut(more, n, lines, cut(text, env->len, lines, 0));
		settle(lines, sorted, nlines);
		for (i = 0; i < nlines; i++) {
			if (!lines[i].value)
				continue;
			buf_add(&merged, lines[i].value->text, lines[i].value->n);
			buf_add(&merged, "\n", 1);
		}
	}
	free(lines);
	free(sorted);
	buf_release(env);
	*env = merged;
}

char **env_array(const struct buf *env)
{
	const char *text = (const char *)buf_bytes(env);
	size_t at, lines = 0;
	char **array, *copy;

	for (at = 0; at < env->len; at += line_length(text + at, env->len - at) + 1)
		lines++;
	array = malloc((lines + 1) * sizeof(*array) + env->len + 1);
	if (!array)
		return NULL;
	copy = (char *)(array + lines + 1);
	if (env->len)
		memcpy(copy, text, env->len);
	copy[env->len] = 0;
	swap_ends(copy, env->len);
	for (lines = at = 0; at < env->len; at++) {
		array[lines++] = copy + at;
		at += strlen(copy + at);
	}
	array[lines] = NULL;
	return array;
}

/* ---- overrides */

static int parse_one(const char *word, bool fresh, struct overrides *ret, struct err *err)
{
	static const char env_prefix[] = "env.", limits_prefix[] = "limits.";
	const char *value = strchr(word, '=');
	struct buf line = { 0 };
	char key[24];
	size_t n;

	if (!value)
		return err_set(err, -EINVAL, "\"%.64s\" is not of the form key=value", word);
	n = (size_t)(value++ - word);
	if (!strncmp(word, env_prefix, strlen(env_prefix))) {
		word += strlen(env_prefix);
		n = strlen(word);
		if (!key_length(word, n))
			return err_set(err, -EINVAL,
				       "\"env.%.64s\": the name of a variable has letters, digits and _",
				       word);
		env_add(&line, word);
		env_merge(&ret->env, (const char *)buf_bytes(&line), line.len);
		ret->env.failed |= line.failed;
		buf_release(&line);
		return 0;
	}
	if (n >= sizeof(key))
		return err_set(err, -EINVAL, "there is no key \"%.64s\"", word);
	memcpy(key, word, n);
	key[n] = 0;
	if (!strncmp(key, limits_prefix, strlen(limits_prefix)))
		return limits_set(&ret->limits, key + strlen(limits_prefix), value, err);
	if (!strcmp(key, "image") && fresh) {
		ret->image = value;
		return 0;
	}
	if (!strcmp(key, "boot") && fresh) {
		ret->cold = !strcmp(value, "cold");
		return ret->cold || !strcmp(value, "warm")
			       ? 0
			       : err_set(err, -EINVAL, "boot: \"%.32s\" is neither cold nor warm", value);
	}
	if (!strcmp(key, "idle"))
		return life_seconds(key, value, &ret->idle, err);
	if (!strcmp(key, "ttl"))
		return life_seconds(key, value, &ret->ttl, err);
	if (!strcmp(key, "net")) {
		ret->has_net = net_mode_parse(value, &ret->net);
		return ret->has_net ? 0
				    : err_set(err, -EINVAL,
					      "net: \"%.32s\" is not none, allow, public or all", value);
	}
	if (!strcmp(key, "guest")) {
		ret->has_rights = true;
		return rights_parse(value, &ret->rights, err);
	}
	if (!strcmp(key, "memory") || !strcmp(key, "cpus") ||
	    (fresh && (!strcmp(key, "memory_max") || !strcmp(key, "cpus_max") || !strcmp(key, "init"))))
		return shape_set(&ret->shape, key, value, err);
	return err_set(err, -EINVAL,
		       "there is no key \"%s\"; the keys are %smemory, cpus, net, guest, idle, ttl, "
		       "limits.NAME and env.NAME",
		       key, fresh ? "image, boot, init, memory_max, cpus_max, " : "");
}

int overrides_parse(const char *const *words, bool fresh, struct overrides *ret, struct err *err)
{
	int rc = 0;

	for (; *words && !rc; words++)
		rc = parse_one(*words, fresh, ret, err);
	if (!rc && ret->env.failed)
		rc = err_set(err, -ENOMEM, "no memory for the environment");
	return rc;
}

void overrides_release(struct overrides *overrides)
{
	buf_release(&overrides->env);
}

int overrides_apply(const struct shape *want, struct shape *shape, struct err *err)
{
	struct shape result = *shape;
	int rc;

	if (want->memory)
		result.memory = want->memory;
	if (want->cpus)
		result.cpus = want->cpus;
	rc = shape_check(&result, err);
	if (!rc)
		*shape = result;
	return rc;
}
