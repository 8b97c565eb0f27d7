/* SPDX-License-Identifier: MIT */
/* kept.c - what open files keep and waiting writes hold, and how much of it there may be */
#include "fs/tree/kept.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/fs.h"
#include "util/heap.h"

enum { BUCKETS = 256 };

/* Who has some of it: the user and nothing else decides. */
struct keeper {
	struct list link;      /* in its bucket, by uid */
	struct list kept;      /* struct kept, the longest unused first */
	struct heap_node node; /* among those who keep something */
	uid_t uid;
	size_t bytes, held;
};

struct keepers {
	struct list buckets[BUCKETS];
	struct heap heap;   /* who keeps the most on top */
	size_t bytes, held; /* of all */
};

static struct keeper *of_node(const struct heap_node *node)
{
	return node ? container_of(node, struct keeper, node) : NULL;
}

static bool has_more(const struct heap_node *a, const struct heap_node *b)
{
	return of_node(a)->bytes > of_node(b)->bytes;
}

int kept_open(struct fs *fs, struct err *err)
{
	struct keepers *keepers = calloc(1, sizeof(*keepers));
	unsigned i;

	if (!keepers)
		return err_sys(err, -ENOMEM, "cannot count what open files keep");
	for (i = 0; i < BUCKETS; i++)
		list_init(&keepers->buckets[i]);
	keepers->heap.before = has_more;
	fs->keepers = keepers;
	return 0;
}

void kept_close(struct fs *fs)
{
	free(fs->keepers);
	fs->keepers = NULL;
}

/* NULL: somebody who has nothing. */
static struct keeper *keeper_find(const struct keepers *keepers, uid_t uid)
{
	struct keeper *keeper;

	list_for_each (keeper, &keepers->buckets[uid % BUCKETS], link)
		if (keeper->uid == uid)
			return keeper;
	return NULL;
}

/* NULL when out of memory. */
static struct keeper *keeper_of(struct keepers *keepers, uid_t uid)
{
	struct keeper *keeper = keeper_find(keepers, uid);

	if (keeper)
		return keeper;
	keeper = calloc(1, sizeof(*keeper));
	if (!keeper)
		return NULL;
	keeper->uid = uid;
	list_init(&keeper->kept);
	list_add(&keepers->buckets[uid % BUCKETS], &keeper->link);
	return keeper;
}

static void keeper_unused(struct keeper *keeper)
{
	if (keeper->held || !list_empty(&keeper->kept))
		return;
	list_del(&keeper->link);
	free(keeper);
}

/* ---- what can be forgotten */

/* It keeps n bytes more, or less. */
static void keeper_count(struct keepers *keepers, struct keeper *keeper, ssize_t n)
{
	if (keeper->bytes)
		heap_remove(&keepers->heap, &keeper->node);
	keeper->bytes += (size_t)n;
	keepers->bytes += (size_t)n;
	if (keeper->bytes)
		heap_add(&keepers->heap, &keeper->node);
}

/* What could be given up, but for `except`: of whoever has the most. NULL: nothing. */
static struct kept *least_needed(struct keepers *keepers, const struct kept *except)
{
	struct keeper *most = of_node(keepers->heap.top), *next = most;

	/* The one that was used last is also its keeper's first: there is no other of theirs. */
	if (most && list_first(&most->kept, struct kept, link) == except) {
		heap_remove(&keepers->heap, &most->node);
		next = of_node(keepers->heap.top);
		heap_add(&keepers->heap, &most->node);
	}
	return next ? list_first(&next->kept, struct kept, link) : NULL;
}

void kept_drop(struct fs *fs, struct kept *kept)
{
	struct keeper *keeper = kept->keeper;

	if (!keeper)
		return;
	list_del(&kept->link);
	keeper_count(fs->keepers, keeper, -(ssize_t)kept->bytes);
	kept->keeper = NULL;
	kept->bytes = 0;
	keeper_unused(keeper);
}

static void forget(struct fs *fs, struct kept *kept)
{
	kept_drop(fs, kept);
	kept->forget(kept);
}

void kept_use(struct fs *fs, struct kept *kept, uid_t uid, size_t bytes)
{
	struct kept *other;

	kept_drop(fs, kept);
	if (!bytes)
		return;
	kept->keeper = keeper_of(fs->keepers, uid);
	if (!kept->keeper) {
		kept->forget(kept);
		return;
	}
	kept->bytes = bytes;
	keeper_count(fs->keepers, kept->keeper, (ssize_t)bytes);
	list_add(&kept->keeper->kept, &kept->link); /* the last used: others of its keeper's go before it */
	while (uid != geteuid() && kept->keeper->bytes > KEPT_EACH &&
	       (other = list_first(&kept->keeper->kept, struct kept, link)) != kept)
		forget(fs, other);
	while (fs->keepers->bytes > KEPT_ALL && (other = least_needed(fs->keepers, kept)))
		forget(fs, other);
}

/* ---- what cannot */

int kept_hold(struct fs *fs, uid_t uid, size_t n, struct err *err)
{
	struct keepers *keepers = fs->keepers;
	struct keeper *keeper = keeper_of(keepers, uid);
	int rc = 0;

	if (!keeper)
		return err_sys(err, -ENOMEM, "cannot count what writes hold that wait");
	if (uid != geteuid() && keeper->held + n > HELD_EACH)
		rc = err_set(err, -EDQUOT,
			     "writes of the user %u that wait hold %zuM already, and may not hold more here",
			     (unsigned)uid, keeper->held >> 20);
	else if (keepers->held + n > HELD_ALL)
		rc = err_set(err, -ENOMEM,
			     "writes that wait hold %zuM already, and more there may not be here",
			     keepers->held >> 20);
	if (!rc) {
		keeper->held += n;
		keepers->held += n;
	}
	keeper_unused(keeper);
	return rc;
}

void kept_release(struct fs *fs, uid_t uid, size_t n)
{
	struct keeper *keeper = n ? keeper_find(fs->keepers, uid) : NULL;

	if (!keeper)
		return;
	keeper->held -= n;
	fs->keepers->held -= n;
	keeper_unused(keeper);
}
