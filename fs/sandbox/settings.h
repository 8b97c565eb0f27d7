/* SPDX-License-Identifier: MIT */
/*
 * settings.h - values people write: memory, cpus, env, and k=v options of verbs
 *
 * Pure functions on text. Errors: -EINVAL for what is malformed, -ERANGE for numbers outside their limits.
 */
#ifndef SBX_FS_SANDBOX_SETTINGS_H
#define SBX_FS_SANDBOX_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>

#include "fs/sandbox/limits.h"
#include "fs/sandbox/rights.h"
#include "snap/template.h"
#include "util/buf.h"
#include "util/err.h"
#include "vm/net/policy.h"

#define MEMORY_MIN ((uint64_t)128 << 20)
#define MEMORY_LIMIT ((uint64_t)SHAPE_MEMORY_LIMIT)
enum { CPUS_LIMIT = SHAPE_CPUS_LIMIT };

/*
 * Set one of memory, memory_max, cpus, cpus_max in *shape. Only the number itself is checked; how the
 * four fit together is shape_check's.
 */
int shape_set(struct shape *shape, const char *key, const char *value, struct err *err);
/* -ERANGE where memory or cpus is above its maximum. */
int shape_check(const struct shape *shape, struct err *err);
/* Likewise before a start: where memory is less than what a guest with this memory_max needs. */
int shape_check_start(const struct shape *shape, struct err *err);

/*
 * Environments. The text of an `env` file is lines K=V, where K is a name as shells have it and the last newline
 * may be missing; or, where there is a NUL byte in it, values K=V with a NUL after each, which may have newlines
 * in them. In a struct buf an environment is lines, with a newline at the end of each, in which a NUL stands for
 * a newline of the value.
 */
enum { ENV_MAX = 32 * 1024 }; /* of a sandbox: all of it fits a frame of the agent's protocol */

/* *ret is empty before and where it fails: -EINVAL or -ENOMEM. Of values with the same K the last holds. */
int env_parse(const char *text, size_t n, struct buf *ret, struct err *err);
/* Append the text of the file: lines if they can say it. */
void env_text(const struct buf *env, struct buf *text);
/* Append "K=V", whatever is in V. */
void env_add(struct buf *env, const char *entry);
/* 0, or -E2BIG: a sandbox's is bounded. */
int env_fits(const struct buf *env, struct err *err);
/* Add the lines of `more` to *env; the later of two lines with the same K takes the earlier's place. */
void env_merge(struct buf *env, const char *more, size_t n);
/* An array of "K=V" ending with NULL, in one allocation for free(); NULL when out of memory. */
char **env_array(const struct buf *env);

/* What k=v words of `create` and `fork` ask for. Zero-initialised is nothing. */
struct overrides {
	struct shape shape; /* fields that are 0 were not given */
	const char *image;  /* points into the words; NULL if not given */
	struct buf env;     /* lines */
	bool has_net;
	bool cold; /* boot=cold */
	enum net_mode net;
	struct limits limits;
	bool has_rights;
	struct rights rights;
	/* Of copies that a guest makes of its machine: each is told which it is, and their names go on after `first`;
	 * *failed counts those that came to nothing. */
	bool copies;
	unsigned first, *failed;
	uint32_t idle, ttl; /* seconds; 0: none */
};
/* words ends with NULL. image, boot, memory_max and cpus_max are only taken where `fresh`. */
int overrides_parse(const char *const *words, bool fresh, struct overrides *ret, struct err *err);
void overrides_release(struct overrides *overrides);
/* Change *shape to what is asked for, within its maxima: -ERANGE with the numbers. */
int overrides_apply(const struct shape *want, struct shape *shape, struct err *err);

#endif
