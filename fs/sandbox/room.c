/* SPDX-License-Identifier: MIT */
/* room.c - the room that machines take of the store */
#include "fs/sandbox/room.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "fs/sandbox/machine.h"
#include "fs/sandbox/pause.h"
#include "fs/sandbox/sandbox.h"
#include "util/log.h"

enum {
	LOOK_MS = 1000,    /* at the latest, */
	LOOK_SOON_MS = 50, /* and at the earliest */
	LOOK_SHARE = 20,   /* looking takes at most one part in so many of the daemon's time */
};

/* The reserve where nobody said: a twentieth of the filesystem, at most this. */
#define RESERVE_MAX (UINT64_C(1) << 30)
/* Below the reserve a machine that grows by less in a second is nobody's trouble: this when the reserve is all there,
 * and less as that goes, down to a few clusters. */
#define GROWTH_MAX (UINT64_C(4) << 20)
#define GROWTH_MIN (UINT64_C(256) << 10)
/* So far past its limit, a machine that cannot be stopped is ended. */
#define EXCESS_MAX (UINT64_C(256) << 20)

struct room_watch {
	struct timer timer;
	uint64_t due_ns;
	uint64_t window_ns; /* growth is since then */
};

int room_open(struct fs *fs, struct err *err)
{
	fs->room = calloc(1, sizeof(*fs->room));
	return fs->room ? 0 : err_sys(err, -ENOMEM, "cannot watch the store");
}

void room_close(struct fs *fs)
{
	if (fs->room)
		timer_stop(&fs->room->timer);
	free(fs->room);
	fs->room = NULL;
}

/* Bytes that are free in the store, and the reserve. What cannot be asked is plenty. */
static uint64_t free_bytes(const struct fs *fs, uint64_t *ret_reserve)
{
	struct statvfs st;
	uint64_t reserve;

	*ret_reserve = 0;
	if (statvfs(store_dir(fs->store), &st) < 0)
		return UINT64_MAX;
	reserve = (uint64_t)st.f_blocks * st.f_frsize / 20;
	if (reserve > RESERVE_MAX)
		reserve = RESERVE_MAX;
	*ret_reserve = fs->options.has_reserve ? fs->options.reserve : reserve;
	return (uint64_t)st.f_bavail * st.f_frsize;
}

uint64_t room_reserve(const struct fs *fs)
{
	uint64_t reserve;

	(void)free_bytes(fs, &reserve);
	return reserve;
}

void room_begin(struct sandbox *sb)
{
	sb->room.below = sb->room.window_ns = 0;
}

void room_frozen(struct sandbox *sb)
{
	sb->room.below = room_used(sb);
	sb->room.window_ns = 0;
}

uint64_t room_used(const struct sandbox *sb)
{
	return sb->room.below + (sb->disk ? layer_stored(sb->disk) : 0);
}

uint64_t room_max(const struct sandbox *sb)
{
	const uint64_t max = sb->limits.value[LIMIT_DISK];

	return max ? max : LIMIT_NONE;
}

static int check_limit(const struct sandbox *sb, struct err *err)
{
	const uint64_t used = room_used(sb);

	if (used < room_max(sb))
		return 0;
	return err_set(err, -ENOSPC,
		       "its disk takes %" PRIu64 "M of the store, and may take %" PRIu64
		       "M (disk in limits): allow it more, then resume it",
		       used >> 20, room_max(sb) >> 20);
}

static int check_reserve(uint64_t left, uint64_t reserve, struct err *err)
{
	if (left >= reserve)
		return 0;
	return err_set(err, -ENOSPC,
		       "the store is almost full: %" PRIu64 "M are free, and %" PRIu64
		       "M are kept for those who write little: make room, then resume it",
		       left >> 20, reserve >> 20);
}

int room_check(const struct sandbox *sb, struct err *err)
{
	uint64_t reserve;
	const uint64_t left = free_bytes(sb->obj.fs, &reserve);
	int rc = check_limit(sb, err);

	if (!rc)
		rc = check_reserve(left, reserve, err);
	if (rc)
		err_prefix(err, "%s cannot go on", sb->obj.name);
	return rc;
}

int room_to_save(const struct fs *fs, struct err *err)
{
	uint64_t reserve;
	const uint64_t left = free_bytes(fs, &reserve);

	if (left >= reserve / 2)
		return 0;
	return err_set(err, -ENOSPC,
		       "the store is almost full: %" PRIu64 "M are free, of a reserve of %" PRIu64 "M",
		       left >> 20, reserve >> 20);
}

int room_to_keep(const struct fs *fs, uint64_t bytes, struct err *err)
{
	uint64_t reserve;
	const uint64_t left = free_bytes(fs, &reserve);

	if (left >= 2 * reserve && left - 2 * reserve >= bytes)
		return 0;
	return err_set(err, -ENOSPC, "the store has %" PRIu64 "M free, of which others may need %" PRIu64 "M",
		       left >> 20, 2 * reserve >> 20);
}

/* ---- looking */

static bool runs(const struct sandbox *sb)
{
	return sb->vm && sb->disk && sb->state == SANDBOX_RUNNING;
}

/* What it wrote since its window began, which is the present one. */
static uint64_t growth(struct sandbox *sb, uint64_t stored)
{
	struct room *room = &sb->room;
	const uint64_t began_ns = sb->obj.fs->room->window_ns;

	if (room->window_ns != began_ns) {
		room->window_ns = began_ns;
		room->seen = stored;
	}
	return stored > room->seen ? stored - room->seen : 0;
}

static uint64_t growth_allowed(uint64_t left, uint64_t reserve)
{
	const uint64_t n = GROWTH_MAX / 256 * (left / (reserve / 256 + 1));

	return n > GROWTH_MIN ? n : GROWTH_MIN;
}

/* False: something else is under way on it, and it goes on for now. */
static bool stop(struct sandbox *sb, const struct err *why, uint64_t excess)
{
	if (!machine_stall(sb, why))
		return true;
	if (excess < EXCESS_MAX)
		return false;
	log_error("%s: it cannot be stopped, and is ended", sb->obj.name);
	machine_end(sb, why);
	return true;
}

/* When this is to be looked at again, if so much is left: in ms. */
static unsigned soon_enough(uint64_t left)
{
	const uint64_t ms = left / (ROOM_RATE / 1000);

	return ms < LOOK_SOON_MS ? LOOK_SOON_MS : ms < LOOK_MS ? (unsigned)ms : LOOK_MS;
}

static void sooner(unsigned *ms, unsigned than)
{
	if (than < *ms)
		*ms = than;
}

/* Those at their limit are stopped; whoever took the most in this window is found. */
static struct sandbox *look_at_all(struct fs *fs, unsigned *ms, bool *ret_any, uint64_t *ret_most)
{
	struct sandbox *sb, *next, *found = NULL;
	struct err err;
	uint64_t used, grown, max;

	*ret_most = 0;
	list_for_each_safe (sb, next, &fs->sandboxes, link) {
		if (!runs(sb))
			continue;
		*ret_any = true;
		used = layer_stored(sb->disk);
		grown = growth(sb, used);
		used += sb->room.below;
		max = room_max(sb);
		if (used < max) {
			sooner(ms, soon_enough(max - used));
		} else if (check_limit(sb, &err)) {
			sooner(ms, stop(sb, &err, used - max) ? LOOK_MS : LOOK_SOON_MS);
			continue;
		}
		if (grown > *ret_most) {
			*ret_most = grown;
			found = sb;
		}
	}
	return found;
}

/* What is being written to the store by workers ends, too, if the machines could not be stopped in time. */
static void end_writers(struct fs *fs, uint64_t left, uint64_t reserve)
{
	if (left < reserve / 2)
		fs->store_full(fs);
}

static void look_in(struct fs *fs, unsigned ms);

static void look(void *arg)
{
	struct fs *fs = arg;
	struct room_watch *watch = fs->room;
	const uint64_t now = now_mono_ns();
	uint64_t reserve, most, cost_ms;
	const uint64_t left = free_bytes(fs, &reserve);
	bool any = fs->working;
	unsigned ms = LOOK_MS;
	struct sandbox *grows;
	struct err err;

	if (now - watch->window_ns >= LOOK_MS * 1000000ull)
		watch->window_ns = now;
	grows = look_at_all(fs, &ms, &any, &most);
	if (left < reserve) {
		fs->store_short(fs);
		check_reserve(left, reserve, &err);
		if (grows && most >= growth_allowed(left, reserve))
			(void)stop(grows, &err, 0);
		end_writers(fs, left, reserve);
		sooner(&ms, LOOK_SOON_MS);
	} else if (reserve) {
		sooner(&ms, soon_enough(left - reserve));
	}
	cost_ms = (now_mono_ns() - now) * LOOK_SHARE / 1000000;
	if (ms < cost_ms)
		ms = (unsigned)cost_ms;
	if (any)
		look_in(fs, ms);
}

static void look_in(struct fs *fs, unsigned ms)
{
	fs->room->due_ns = now_mono_ns() + ms * 1000000ull;
	timer_start(fs->loop, &fs->room->timer, ms * 1000000ull, look, fs);
}

void room_watch(struct fs *fs)
{
	if (!fs->room) /* the daemon ends */
		return;
	/* One that is begun every moment must not put the look off. */
	if (!timer_running(&fs->room->timer) || fs->room->due_ns > now_mono_ns() + LOOK_SOON_MS * 1000000ull)
		look_in(fs, LOOK_SOON_MS);
}
