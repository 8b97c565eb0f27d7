/* SPDX-License-Identifier: MIT */
/*
 * guest_ahead.c - fs/: entries that are asked for ahead of their lookups
 *
 * A program that looks at one file after the other of a directory (git status) would make the guest answer for
 * each. The third name in a row that is looked up makes us ask for the beginning of the directory, with the
 * attributes of what is in it, and further names are answered from that: for as long as the kernel might have
 * kept them, counted from when they were asked for, and until anything is known to have changed. While somebody lists
 * the directory, and takes so long that the kernel has to look up what it was told of, it is that part of it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "fs/guest/guest_names.h"

enum { IN_A_ROW = 3, AHEADS_MAX = 64 };

static const uint64_t valid_ns = (uint64_t)(GUEST_CACHE_S * 1e9);

struct guest_ahead {
	struct list link; /* guest->aheads */
	struct guest_node *dir;
	struct buf entries;         /* as the agent sent them */
	uint32_t *slots, n_slots;   /* where in them, plus one, by the hash of the name */
	uint64_t asked_ns, changes; /* as of a struct guest_dir */
};

/* It waits for the answer. */
struct asked {
	struct guest_node *dir; /* a reference */
	uint64_t asked_ns, changes;
};

void guest_ahead_free(struct guest_ahead *ahead)
{
	if (!ahead)
		return;
	list_del(&ahead->link);
	ahead->dir->guest->n_aheads--;
	ahead->dir->ahead = NULL;
	buf_release(&ahead->entries);
	free(ahead->slots);
	free(ahead);
}

void guest_ahead_void(struct guest_mount *guest)
{
	guest->changes++;
	guest->changed_ns = now_mono_ns();
}

static uint32_t slot_of(const struct guest_ahead *ahead, const char *name)
{
	return (uint32_t)XXH3_64bits_withSeed(name, strlen(name), ahead->asked_ns) % ahead->n_slots;
}

/* The slot a name is in, or would be. */
static uint32_t *find(const struct guest_ahead *ahead, const char *name, struct dir_item *ret)
{
	uint32_t i = slot_of(ahead, name);
	struct reader r;

	for (; ahead->slots[i]; i = (i + 1) % ahead->n_slots) {
		r = reader_init(buf_bytes(&ahead->entries), ahead->entries.len);
		r.p += ahead->slots[i] - 1;
		guest_item_get(&r, ret);
		if (!strcmp(ret->name, name))
			break;
	}
	return &ahead->slots[i];
}

/* False: the answer is not one, or memory is out. */
static bool take(struct guest_ahead *ahead, struct reader *results)
{
	uint32_t n;
	struct dir_item item, same;
	struct reader r;
	size_t at;

	get_u8(results); /* whether there is more */
	n = get_u32(results);
	/* No entry is shorter than its attributes. */
	if (results->bad || n > PROTO_PAYLOAD_MAX / 100)
		return false;
	ahead->n_slots = n * 2 + 1;
	ahead->slots = calloc(ahead->n_slots, sizeof(*ahead->slots));
	buf_add(&ahead->entries, results->p, reader_left(results));
	if (!ahead->slots || ahead->entries.failed)
		return false;
	r = reader_init(buf_bytes(&ahead->entries), ahead->entries.len);
	for (uint32_t i = 0; i < n && !r.bad; i++) {
		at = ahead->entries.len - reader_left(&r);
		guest_item_get(&r, &item);
		if (!r.bad)
			*find(ahead, item.name, &same) = (uint32_t)at + 1;
	}
	return !r.bad;
}

static void on_entries(void *arg, int err, struct reader *results)
{
	struct asked *asked = arg;
	struct guest_node *dir = asked->dir;
	struct guest_mount *guest = dir->guest;
	struct guest_ahead *ahead = NULL;

	if (!err && asked->changes == guest->changes)
		ahead = calloc(1, sizeof(*ahead));
	if (ahead) {
		guest_ahead_free(dir->ahead);
		ahead->dir = dir;
		ahead->asked_ns = asked->asked_ns;
		ahead->changes = asked->changes;
		dir->ahead = ahead;
		list_add(&guest->aheads, &ahead->link);
		guest->n_aheads++;
		if (!take(ahead, results))
			guest_ahead_free(ahead);
		else if (guest->n_aheads > AHEADS_MAX)
			guest_ahead_free(list_first(&guest->aheads, struct guest_ahead, link));
	}
	free(asked);
	guest_unref(dir);
}

static void ask(struct guest_node *dir, uint64_t now)
{
	struct asked *asked = calloc(1, sizeof(*asked));
	struct agent_call *call;

	if (!asked)
		return;
	*asked = (struct asked){ guest_ref(dir), now, dir->guest->changes };
	call = guest_list(dir, dir->listed_at, on_entries, asked);
	if (!call) {
		guest_unref(dir);
		free(asked);
	}
}

/* One was looked up that is not known. */
static void missed(struct guest_node *dir, uint64_t now)
{
	const struct guest_mount *guest = dir->guest;

	if (now - dir->missed_ns > valid_ns)
		dir->missed = 0;
	dir->missed_ns = now;
	/* Not where the host is at work itself, since each of its changes would void it. */
	if (++dir->missed == IN_A_ROW && now - guest->changed_ns > valid_ns)
		ask(dir, now);
}

bool guest_ahead_answers(fuse_req_t req, struct guest_node *dir, const char *name)
{
	const uint64_t now = now_mono_ns();
	struct guest_ahead *ahead = dir->ahead;
	struct fuse_entry_param param;
	struct guest_node *gn;
	struct dir_item item;

	if (ahead && (now - ahead->asked_ns > valid_ns || ahead->changes != dir->guest->changes)) {
		/* Who has gone on for so long will, most likely. */
		dir->missed = ahead->changes == dir->guest->changes ? IN_A_ROW - 1 : 0;
		dir->missed_ns = now;
		guest_ahead_free(ahead);
		ahead = NULL;
	}
	if (!ahead) {
		missed(dir, now);
		return false;
	}
	/* One that is not listed may be there all the same: in /proc, or written in other letters. */
	if (!*find(ahead, name, &item))
		return false;
	if (guest_entry_of(dir, name, &item.attr, &item.target, ahead->asked_ns, false, &param, &gn))
		return false;
	guest_keep(gn, &item.attr, ahead->asked_ns);
	if (fuse_reply_entry(req, &param))
		node_forget(&gn->node, 1);
	return true;
}
