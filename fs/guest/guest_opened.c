/* SPDX-License-Identifier: MIT */
/*
 * guest_opened.c - fs/: small files that are opened ahead, for who reads one after the other
 *
 * Who copies a directory opens its files one by one, and waits for the guest each time, which has to wake up for
 * each. So once files were opened in the order in which they were listed (tar), or in that of their numbers (cp), the
 * next ones are opened ahead, several with one write, and the kernel's OPEN is answered with what came of it: a handle
 * of that very file, and its content. It is so as of when it was asked for, at most a tenth of a second ago; a command
 * that says something ends it, and before one begins what nobody has wanted is closed, since a filesystem with an
 * open file cannot be unmounted.
 *
 * Whoever stops in the middle has made the guest read up to WINDOW files more than he did, whose time of the last
 * access may say so. Only files that have blocks are opened ahead: those of /sys and its like are not, where
 * reading one may do something.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fs/guest/guest_names.h"

/* How many are ahead at most, of a reader and of all of a guest; how long they wait for him; how many entries are looked
 * at to find them. A reply has attributes besides the content. */
enum { WINDOW = 16, OPENED_MAX = 64, WAIT_MS = 50, NEAR = 64, FAR = 4096, REPLY_MAX = PROTO_READ_BEST + 512 };
/* So many in a row begin it: of those that are listed behind each other, or nearly so, and of numbers that grow, which
 * they also do by chance. Where so many more were in vain than were wanted, nothing is opened ahead for a second. */
enum { LISTED_ROW = 1, NUMBERS_ROW = 3, BEHIND = 4, SCORE_MAX = 32, SCORE_MIN = -32 };

static const uint64_t valid_ns = (uint64_t)(GUEST_CACHE_S * 1e9), second_ns = 1000000000;

/* ---- what is open */

/* The kernel's OPEN will not find it any more. */
static void take(struct guest_call *gc)
{
	list_del(&gc->ahead);
	gc->node->guest->n_opened--;
	gc->node->opened = NULL;
}

static void drop(struct guest_call *gc)
{
	struct reader r = reader_init(buf_bytes(&gc->value), gc->value.len);

	take(gc);
	gc->done = guest_done_open; /* without a request it closes the handle */
	if (!gc->answered)
		return;
	guest_close_handle(gc->node, gc->epoch, get_u32(&r));
	guest_call_free(gc);
}

static void expired(void *arg)
{
	struct guest_call *gc = arg;
	struct guest_mount *guest = gc->node->guest;

	if (--guest->opened_score <= SCORE_MIN) {
		guest->opened_score = 0;
		guest->vain_ns = now_mono_ns();
	}
	drop(gc);
}

static void done_ahead(struct guest_call *gc, int err, struct reader *results)
{
	if (!err && reader_left(results) <= REPLY_MAX)
		buf_add(&gc->value, results->p, reader_left(results));
	if (!gc->value.len || gc->value.failed) {
		take(gc);
		guest_done_open(gc, err, results);
		return;
	}
	gc->answered = true;
	timer_start(gc->node->guest->obj->fs->loop, &gc->lock_timer, WAIT_MS * 1000000ull, expired, gc);
}

bool guest_opened_answers(fuse_req_t req, struct guest_node *gn, const struct fuse_file_info *fi)
{
	struct guest_call *gc = gn->opened;
	struct reader r;

	if (!gc || fi->flags & (O_ACCMODE | O_TRUNC | O_APPEND))
		return false;
	if (now_mono_ns() - gc->sent_ns >= valid_ns || gc->voids != gn->guest->voids ||
	    gc->epoch != guest_epoch(gn)) {
		drop(gc);
		return false;
	}
	if (!guest_call_adopt(gc, req))
		return true;
	take(gc);
	gc->fi = *fi;
	gc->done = guest_done_open;
	gn->guest->opened_ns = now_mono_ns();
	if (gn->guest->opened_score < SCORE_MAX)
		gn->guest->opened_score++;
	if (!gc->answered)
		return true;
	timer_stop(&gc->lock_timer);
	r = reader_init(buf_bytes(&gc->value), gc->value.len);
	guest_done_open(gc, 0, &r);
	return true;
}

void guestfs_let_go(struct guest_mount *guest)
{
	struct guest_call *gc, *next;

	if (!guest->n_opened)
		return;
	list_for_each_safe (gc, next, &guest->obj->fs->guest_opened, ahead)
		if (gc->node->guest == guest)
			drop(gc);
}

/* ---- who is next */

void guest_opened_listed(struct guest_node *dir, struct guest_node *gn)
{
	if (gn->type != S_IFREG)
		return;
	guest_opened_unlisted(gn);
	list_add(&dir->listed, &gn->entries);
	gn->listed_in = dir;
}

void guest_opened_unlisted(struct guest_node *gn)
{
	if (gn->listed_in && gn->listed_in->row.last == gn)
		gn->listed_in->row.last = NULL;
	gn->listed_in = NULL;
	list_del(&gn->entries);
}

void guest_opened_forget(struct guest_node *gn)
{
	struct guest_node *entry;

	guest_opened_unlisted(gn);
	while ((entry = list_first(&gn->listed, struct guest_node, entries)))
		guest_opened_unlisted(entry);
}

/* Small, not open, and on a disk. Its size may have changed since, and then it is opened in vain. */
static bool is_worth_it(const struct guest_node *gn)
{
	const struct fs_attr *attr = &gn->kept;

	return S_ISREG(attr->mode) && attr->size && attr->size <= PROTO_READ_BEST && attr->blocks &&
	       list_empty(&gn->files) && !list_empty(&gn->names);
}

/* Is it one of the first behind another? Not all are opened: tar opens no empty file. */
static bool follows(const struct guest_node *last, const struct guest_node *gn)
{
	const struct list *at = &last->entries;
	unsigned i;

	for (i = 0; i < BEHIND && at->next != &gn->listed_in->listed; i++) {
		at = at->next;
		if (at == &gn->entries)
			return true;
	}
	return false;
}

static unsigned next_listed(const struct guest_node *gn, struct guest_node *ret[WINDOW])
{
	const struct list *head = &gn->listed_in->listed;
	struct list *at;
	unsigned i = 0, n = 0;

	for (at = gn->entries.next; at != head && i < NEAR && n < WINDOW; at = at->next, i++) {
		ret[n] = list_entry(at, struct guest_node, entries);
		n += is_worth_it(ret[n]);
	}
	return n;
}

static unsigned next_numbers(const struct guest_node *gn, struct guest_node *ret[WINDOW])
{
	struct guest_node *entry;
	unsigned at, seen = 0, n = 0;

	list_for_each (entry, &gn->listed_in->listed, entries) {
		if (++seen > FAR)
			break;
		if (entry->id.ino <= gn->id.ino || !is_worth_it(entry))
			continue;
		for (at = n; at && ret[at - 1]->id.ino > entry->id.ino; at--)
			if (at < WINDOW)
				ret[at] = ret[at - 1];
		if (at < WINDOW)
			ret[at] = entry;
		n += n < WINDOW;
	}
	return n;
}

/* How many were opened in a row, each by its place in the listing and by its number. */
static void count(const struct guest_node *gn, struct guest_row *row, uint64_t now)
{
	const struct guest_mount *guest = gn->guest;
	const bool going = now - guest->opened_ns < valid_ns;

	if (row->last && now - row->ns < second_ns) {
		row->listed = follows(row->last, gn) ? row->listed + 1 : 0;
		row->numbers = gn->id.ino > row->last->id.ino ? row->numbers + 1 : 0;
	} else { /* who goes through one directory after the other has begun with the next */
		row->listed = going && guest->opened_listed ? LISTED_ROW : 0;
		row->numbers = going && !guest->opened_listed ? NUMBERS_ROW : 0;
	}
}

static struct guest_call *open_ahead(struct guest_node *gn)
{
	struct buf args = { 0 };
	const int rc = guest_put_named(&args, gn);

	buf_put_u32(&args, O_RDONLY | FS_OPEN_DATA);
	buf_put_u8(&args, false);
	return guest_call_ahead(gn, FS_OPEN, rc, &args, done_ahead);
}

static void ask(struct guest_node *const next[WINDOW], unsigned n)
{
	struct guest_mount *guest = next[0]->guest;
	struct agent *agent = guest_agent(next[0]);
	struct guest_call *gc;

	agent_cork(agent);
	for (; n && guest->n_opened < OPENED_MAX; next++, n--) {
		if ((*next)->opened)
			continue;
		gc = open_ahead(*next);
		if (!gc)
			break;
		(*next)->opened = gc;
		list_add(&guest->obj->fs->guest_opened, &gc->ahead);
		guest->n_opened++;
	}
	agent_uncork(agent);
}

void guest_opened_next(struct guest_node *gn)
{
	struct guest_node *dir = gn->listed_in, *next[WINDOW];
	struct guest_mount *guest = gn->guest;
	struct guest_row *row = dir ? &dir->row : NULL;
	const uint64_t now = now_mono_ns();
	unsigned n, i, missing = 0;

	if (!dir || row->last == gn || guest_usable(gn) || agent_silent(guest_agent(gn)))
		return;
	count(gn, row, now);
	row->last = gn;
	row->ns = now;
	if ((row->listed < LISTED_ROW && row->numbers < NUMBERS_ROW) || now - guest->vain_ns < second_ns)
		return;
	guest->opened_listed = row->listed >= LISTED_ROW && row->listed >= row->numbers;
	n = guest->opened_listed ? next_listed(gn, next) : next_numbers(gn, next);
	for (i = 0; i < n; i++)
		missing += !next[i]->opened;
	if (missing >= WINDOW / 2 || (missing && n < WINDOW))
		ask(next, n);
}
