/* SPDX-License-Identifier: MIT */
/*
 * ttl.c - a sandbox with an end that was set
 *
 * It is removed then, as by an rmdir, whatever it does. Where somebody has something of it open, `error` says so
 * before, in the last minute, or in the second half of what is shorter.
 */
#include <errno.h>
#include <inttypes.h>

#include "fs/life/life.h"
#include "fs/sandbox/sandbox.h"
#include "fs/tree/tree.h"
#include "util/log.h"
#include "util/size.h"

#define SECOND_NS UINT64_C(1000000000)
enum { WARN_S = 60 };

int life_seconds(const char *key, const char *text, uint32_t *ret, struct err *err)
{
	uint64_t n = 0;
	const int rc = number_parse(text, &n);

	if (rc == -EINVAL)
		return err_set(err, rc, "%s: \"%.64s\" is not a number of seconds", key, text);
	if (rc || n > LIFE_SECONDS_MAX)
		return err_set(err, -ERANGE, "%s: %.64s is not between 0 (none) and %d seconds", key, text,
			       LIFE_SECONDS_MAX);
	*ret = (uint32_t)n;
	return 0;
}

static void next(struct sandbox *sb);

static void on_timer(void *arg)
{
	struct sandbox *sb = arg;
	struct life *life = &sb->life;
	struct err err;

	if (now_mono_ns() >= life->end_ns) {
		log_info("%s is removed: its ttl has ended", sb->obj.name);
		/* Nobody told the kernel: it is to look its names up again. */
		sb->obj.stale = true;
		tree_attr_changed(&sb->obj);
		sandbox_remove(sb);
		return;
	}
	life->warned = true;
	if (life_in_use(sb)) {
		err_set(&err, -EBUSY,
			"%s is removed in %" PRIu32 " s, at the end of its ttl, and somebody has something "
			"of it open; write to ttl to give it longer",
			sb->obj.name, life_ttl(sb));
		object_report(&sb->obj, &err);
	}
	next(sb);
}

static void next(struct sandbox *sb)
{
	struct life *life = &sb->life;
	const uint64_t now = now_mono_ns();
	uint64_t left = life->end_ns > now ? life->end_ns - now : 0;

	if (!life->warned)
		left -= left / 2 < WARN_S * SECOND_NS ? left / 2 : WARN_S * SECOND_NS;
	timer_start(sb->obj.fs->loop, &life->timer, left, on_timer, sb);
}

void life_set_ttl(struct sandbox *sb, uint32_t seconds)
{
	struct life *life = &sb->life;

	timer_stop(&life->timer);
	life->warned = false;
	life->end_ns = seconds ? now_mono_ns() + seconds * SECOND_NS : 0;
	if (seconds)
		next(sb);
}

uint32_t life_ttl(const struct sandbox *sb)
{
	const uint64_t now = now_mono_ns();

	if (!sb->life.end_ns)
		return 0;
	return sb->life.end_ns > now ? (uint32_t)((sb->life.end_ns - now + SECOND_NS - 1) / SECOND_NS) : 1;
}
