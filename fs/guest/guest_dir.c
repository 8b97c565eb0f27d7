/* SPDX-License-Identifier: MIT */
/*
 * guest_dir.c - fs/: listings of a guest's directories
 *
 * A listing is passed on as it comes. The agent gives it in chunks, each of which says how to ask for what
 * follows (a cookie); the one at hand is all that is kept of it. The kernel's offsets are ours and not the
 * guest's cookies: entries are counted, "." and ".." first. For a program that goes back the cookie of each
 * chunk is remembered.
 *
 * Whoever reads on finds the next chunk here, or on its way: it is asked for when one is begun with, so that the guest
 * makes it while the program looks at this one. What comes too late to be true is asked for anew, and then no more
 * ahead.
 *
 * A guest can go on for ever, so what one pass over a directory may bring is bounded; so is what it makes us
 * remember, since a chunk counts for at least CHUNK_LEAST bytes.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/guest/guest_names.h"

enum {
	LISTING_MAX = 128 << 20, /* bytes as the agent sends them: over a million entries */
	CHUNK_LEAST = 4096,
	FIRST = 2, /* the number of the first entry after "." and ".." */
};

static const uint64_t valid_ns = (uint64_t)(GUEST_CACHE_S * 1e9);

/* How to ask for entries from number `first` on. */
struct dir_place {
	uint64_t first, cookie;
};

struct guest_dir {
	struct buf places;       /* struct dir_place: of all chunks so far; the last is the one at hand */
	struct buf entries;      /* of the chunk at hand, as the agent sent them */
	uint64_t n;              /* how many */
	uint64_t next;           /* the cookie of what follows it */
	bool more;               /* something does */
	bool fresh;              /* it was read by opendir, and by nobody since */
	uint64_t at;             /* an entry of the chunk... */
	size_t offset;           /* ...and where it is */
	uint64_t epoch;          /* of the machine that is asked */
	struct guest_file *file; /* open in the guest; NULL: it is asked by its path */
	struct guest_call *next_chunk; /* asked for ahead; once it is answered, that is in its value */
	bool slow;                     /* the reader: such a one came too early for it */
	uint64_t asked_ns;             /* the chunk's attributes are as of then, */
	uint64_t changes;              /* and hold as far as is known, while this is guest->changes */
	uint64_t total;                /* bytes of this pass */
	struct fs *fs;                 /* once it is open */
	uid_t uid;                     /* for whom it counts */
	struct kept kept;              /* of places and entries */
	struct dir_place resume;       /* of the chunk that was at hand when it was forgotten; or nothing */
};

static struct guest_dir *dir_of(const struct fuse_file_info *fi)
{
	return (struct guest_dir *)(uintptr_t)fi->fh;
}

static void drop_next(struct guest_dir *dir)
{
	struct guest_call *next = dir->next_chunk;

	dir->next_chunk = NULL;
	if (!next)
		return;
	if (!next->answered)
		agent_fs_cancel(next->call);
	guest_call_free(next);
}

static void dir_free(struct guest_dir *dir)
{
	drop_next(dir);
	kept_drop(dir->fs, &dir->kept);
	buf_release(&dir->places);
	buf_release(&dir->entries);
	guest_file_free(dir->file);
	free(dir);
}

static size_t places(const struct guest_dir *dir)
{
	return dir->places.len / sizeof(struct dir_place);
}

static struct dir_place place_at(const struct guest_dir *dir, size_t i)
{
	struct dir_place place;

	memcpy(&place, buf_bytes(&dir->places) + i * sizeof(place), sizeof(place));
	return place;
}

/* The number after the last entry of the chunk at hand. */
static uint64_t chunk_end(const struct guest_dir *dir)
{
	return place_at(dir, places(dir) - 1).first + dir->n;
}

static void count(struct guest_dir *dir)
{
	const size_t ahead = dir->next_chunk ? dir->next_chunk->value.size : 0;

	kept_use(dir->fs, &dir->kept, dir->uid, dir->entries.size + dir->places.size + ahead);
}

/* ---- entries */

void guest_item_get(struct reader *r, struct dir_item *ret)
{
	size_t target;

	ret->cookie = get_u64(r);
	get_str(r, ret->name, sizeof(ret->name));
	fs_attr_get(r, &ret->attr);
	ret->target = *r;
	if (S_ISLNK(ret->attr.mode))
		get_bytes(r, &target);
}

/* A name that the kernel would refuse the whole directory for is left out. */
bool guest_item_named(const struct dir_item *item)
{
	const char *name = item->name;

	return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* 0: it has to be looked at, as what is no type, and FIFOs, which are shown as another (guest_node.c). */
static uint32_t listed_type(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFSOCK:
		return mode & S_IFMT;
	default:
		return 0;
	}
}

/* The answer to READDIR for `place` is now the chunk at hand; 0 or a negative errno. */
static int take_chunk(struct guest_dir *dir, const struct dir_place *place, struct reader *results)
{
	const uint8_t more = get_u8(results);
	const uint32_t n = get_u32(results);
	const size_t size = reader_left(results);
	struct reader r = *results;
	struct dir_item item = { .cookie = place->cookie };
	bool any = false;
	uint32_t i;

	for (i = 0; i < n && !r.bad; i++) {
		guest_item_get(&r, &item);
		any |= guest_item_named(&item);
	}
	/* One that leads to itself or to nothing would be asked for again and again. */
	if (r.bad || (more && (!any || item.cookie == place->cookie)))
		return -EIO;
	dir->total += size > CHUNK_LEAST ? size : CHUNK_LEAST;
	if (dir->total > LISTING_MAX)
		return -EIO;
	buf_clear(&dir->entries);
	buf_add(&dir->entries, results->p, size);
	buf_add(&dir->places, place, sizeof(*place));
	if (dir->entries.failed || dir->places.failed)
		return -ENOMEM;
	dir->n = n;
	dir->next = item.cookie;
	dir->more = more;
	dir->at = place->first;
	dir->offset = 0;
	count(dir);
	return places(dir) ? 0 : -ENOMEM;
}

/* To keep others': the chunk at hand is asked for again. */
static void dir_forget(struct kept *kept)
{
	struct guest_dir *dir = container_of(kept, struct guest_dir, kept);

	if (places(dir))
		dir->resume = place_at(dir, places(dir) - 1);
	if (dir->next_chunk && dir->next_chunk->answered)
		drop_next(dir);
	dir->n = 0;
	buf_release(&dir->places);
	buf_release(&dir->entries);
}

/* Go on from a chunk there was before: those after it are counted anew. */
static void drop_places(struct guest_dir *dir, size_t keep)
{
	dir->places.len = keep * sizeof(struct dir_place);
	dir->n = 0;
	buf_clear(&dir->entries);
}

/* Which chunk has to be asked for to have entry `number`; false: none, it is at hand or behind the end. */
static bool wanted(struct guest_dir *dir, uint64_t number, struct dir_place *ret)
{
	size_t i = places(dir);

	if (i && number >= place_at(dir, i - 1).first) {
		if (number < chunk_end(dir) || !dir->more)
			return false;
		*ret = (struct dir_place){ chunk_end(dir), dir->next };
		return true;
	}
	while (i && place_at(dir, i - 1).first > number)
		i--;
	if (i)
		*ret = place_at(dir, i - 1);
	else if (dir->resume.first && dir->resume.first <= number)
		*ret = dir->resume;
	else
		*ret = (struct dir_place){ FIRST, 0 };
	drop_places(dir, i ? i - 1 : 0);
	return true;
}

/* ---- what the kernel is given */

/* An entry's node: the kernel counts a lookup. */
struct told {
	struct guest_node *node;
};

struct text {
	char *bytes;
	size_t size, len;
	bool plus;        /* READDIRPLUS */
	struct buf nodes; /* struct told */
};

/* What is known of an entry, if it may still be said; else the kernel looks the name up when it is used. */
static void add_node(struct text *text, const struct guest_dir *dir, struct guest_node *gn,
		     const struct dir_item *item, struct fuse_entry_param *param)
{
	struct reader target = item->target;
	struct fs_attr attr = item->attr;
	struct told told;

	if (dir->changes != gn->guest->changes || now_mono_ns() - dir->asked_ns > valid_ns ||
	    S_ISFIFO(attr.mode) || !buf_reserve(&text->nodes, sizeof(told)))
		return;
	if (guest_entry_of(gn, item->name, &attr, &target, dir->asked_ns, false, param, &told.node)) {
		param->ino = 0;
	} else {
		guest_keep(told.node, &attr, dir->asked_ns);
		guest_opened_listed(gn, told.node);
		buf_add(&text->nodes, &told, sizeof(told));
	}
}

/* False: it does not fit any more. dir: NULL for what is no child. */
static bool add(struct text *text, const char *name, uint64_t ino, uint32_t mode, uint64_t next,
		const struct guest_dir *dir, struct guest_node *gn, const struct dir_item *item)
{
	struct fuse_entry_param param = { .attr = { .st_ino = ino, .st_mode = mode } };
	const struct stat st = param.attr;
	const size_t left = text->size - text->len;
	size_t n;

	if (!text->plus) {
		n = fuse_add_direntry(NULL, text->bytes + text->len, left, name, &st, (off_t)next);
	} else {
		n = fuse_add_direntry_plus(NULL, NULL, 0, name, NULL, 0);
		if (n <= left && dir)
			add_node(text, dir, gn, item, &param);
		if (n <= left)
			fuse_add_direntry_plus(NULL, text->bytes + text->len, left, name, &param,
					       (off_t)next);
	}
	if (n > left)
		return false;
	text->len += n;
	return true;
}

/* As stat has it: the root is a place in our tree. */
static uint64_t ino_of(const struct guest_node *gn)
{
	struct stat st;

	if (!gn->entry)
		return guest_ino(gn->guest, &gn->id);
	tree_attr(gn->guest->obj, gn->entry, &st);
	return st.st_ino;
}

static bool add_dots(struct text *text, const struct guest_node *gn, uint64_t *number)
{
	const struct guest_node *up = guest_parent(gn);

	if (*number == 0 && add(text, ".", ino_of(gn), S_IFDIR, 1, NULL, NULL, NULL))
		++*number;
	if (*number == 1 && add(text, "..", ino_of(up ? up : gn), S_IFDIR, FIRST, NULL, NULL, NULL))
		++*number;
	return *number >= FIRST;
}

/* Entries of the chunk at hand, from *number on. */
static void add_entries(struct text *text, struct guest_dir *dir, struct guest_node *gn, uint64_t *number)
{
	struct reader r;
	struct dir_item item;

	if (*number < dir->at) {
		dir->at = place_at(dir, places(dir) - 1).first;
		dir->offset = 0;
	}
	r = reader_init(buf_bytes(&dir->entries), dir->entries.len);
	r.p += dir->offset;
	for (; dir->at < chunk_end(dir); dir->at++, dir->offset = dir->entries.len - reader_left(&r)) {
		guest_item_get(&r, &item);
		if (dir->at < *number)
			continue;
		if (guest_item_named(&item) && !add(text, item.name, guest_ino(gn->guest, &item.attr.id),
						    listed_type(item.attr.mode), dir->at + 1, dir, gn, &item))
			return;
		*number = dir->at + 1;
	}
}

/* ---- requests */

static void done_opendir(struct guest_call *gc, int err, struct reader *results)
{
	struct guest_dir *dir = dir_of(&gc->fi);
	const uint32_t handle = err ? 0 : get_u32(results);

	if (!err && handle) {
		dir->file = guest_file_new(gc->node, handle);
		if (!dir->file)
			err = -ENOMEM;
	}
	if (!err)
		err = take_chunk(dir, &(struct dir_place){ FIRST, 0 }, results);
	if (err && gc->request)
		request_err(gc->request, err);
	if (err || !gc->request || request_open(gc->request, &gc->fi))
		dir_free(dir);
	guest_call_free(gc);
}

void guest_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct guest_node *gn = guest_node_of(req, ino);
	struct guest_call *gc = guest_call_new(req, gn, NULL, done_opendir);
	struct guest_dir *dir = NULL;
	struct buf args = { 0 };
	int rc;

	if (!gc)
		return;
	rc = guest_put_named(&args, gn);
	if (!rc)
		rc = guest_usable(gn);
	if (!rc)
		dir = calloc(1, sizeof(*dir));
	if (!rc && (!dir || args.failed))
		rc = -ENOMEM;
	if (rc) { /* guest_call_send would free gc, and leak the directory */
		free(dir);
		buf_release(&args);
		request_err(gc->request, rc);
		guest_call_free(gc);
		return;
	}
	dir->fs = gn->guest->obj->fs;
	dir->uid = gn->guest->obj->owner.uid;
	dir->kept.forget = dir_forget;
	dir->fresh = true;
	dir->epoch = guest_epoch(gn);
	dir->asked_ns = now_mono_ns();
	dir->changes = gn->guest->changes;
	gc->fi = *fi;
	gc->fi.fh = (uintptr_t)dir;
	gc->opens = true; /* the directory must not be lost */
	guest_call_send(gc, FS_OPENDIR, 0, &args);
}

/* The caller is gone, and the kernel was told of none. */
static void forget(const struct text *text)
{
	const struct told *told = (const void *)buf_bytes(&text->nodes);
	const size_t n = text->nodes.len / sizeof(*told);

	for (size_t i = 0; i < n; i++)
		node_forget(&told[i].node->node, 1);
}

/* Answer with what is at hand of what gc asks for; false: nothing is, *ret has to be asked for first. */
static bool answer(struct guest_call *gc, struct dir_place *ret)
{
	struct guest_dir *dir = dir_of(&gc->fi);
	struct text text = { .bytes = malloc(gc->size ? gc->size : 1), .size = gc->size, .plus = gc->plus };
	uint64_t number = gc->offset;
	bool asks = false;

	if (!text.bytes) {
		request_err(gc->request, -ENOMEM);
		return true;
	}
	if (add_dots(&text, gc->node, &number)) {
		asks = wanted(dir, number, ret);
		if (!asks && number < chunk_end(dir)) {
			add_entries(&text, dir, gc->node, &number);
			/* Names may have been left out up to the chunk's end. */
			asks = !text.len && wanted(dir, number, ret);
		}
	}
	if (!asks || text.len) {
		asks = false;
		if (places(dir))
			gc->node->listed_at = place_at(dir, places(dir) - 1).cookie;
		if (request_data(gc->request, text.bytes, text.len))
			forget(&text);
	}
	buf_release(&text.nodes);
	free(text.bytes);
	return !asks;
}

/* The arguments of a READDIR; 0 or a negative errno. */
static int put_readdir(struct buf *args, const struct guest_node *gn, const struct guest_dir *dir,
		       const struct dir_place *place)
{
	int rc = dir->epoch != guest_epoch(gn) ? -ESTALE : 0;

	if (!rc && dir->file)
		fs_file_put(args, dir->file->handle, "", NULL);
	else if (!rc)
		rc = guest_put_named(args, gn);
	buf_put_u64(args, place->cookie);
	return rc;
}

/* ---- the next chunk, ahead */

static void done_next(struct guest_call *gc, int err, struct reader *results)
{
	struct guest_dir *dir = dir_of(&gc->fi);

	gc->answered = true;
	buf_add(&gc->value, results->p, reader_left(results));
	if (err || gc->value.failed)
		drop_next(dir); /* whoever reads on asks himself, and is told */
	else
		count(dir);
}

/* A chunk is begun with: ask for what follows it. Not where the host is at work, whose changes would void it. */
static void ask_ahead(struct guest_node *gn, struct guest_dir *dir)
{
	struct guest_mount *guest = gn->guest;
	struct dir_place place;
	struct buf args = { 0 };
	int rc;

	if (!dir->n || !dir->more || dir->slow || dir->next_chunk || dir->total >= LISTING_MAX ||
	    guest_usable(gn) || agent_silent(guest_agent(gn)) || now_mono_ns() - guest->changed_ns < valid_ns)
		return;
	place = (struct dir_place){ chunk_end(dir), dir->next };
	rc = put_readdir(&args, gn, dir, &place);
	dir->next_chunk = guest_call_ahead(gn, FS_READDIR, rc, &args, done_next);
	if (!dir->next_chunk)
		return;
	dir->next_chunk->fi.fh = (uintptr_t)dir;
	dir->next_chunk->first = place.first;
	dir->next_chunk->cookie = place.cookie;
}

/* Is what was asked for ahead what is asked for now, and as true as if it had been asked for now? */
static bool is_wanted(struct guest_dir *dir, const struct guest_call *next, const struct dir_place *place,
		      bool plus)
{
	const struct guest_mount *guest = next->node->guest;

	if (next->first != place->first || next->cookie != place->cookie || next->voids != guest->voids ||
	    next->epoch != guest_epoch(next->node) || (plus && next->changes != guest->changes))
		return false;
	dir->slow = next->answered && now_mono_ns() - next->sent_ns > valid_ns / 2;
	return !dir->slow;
}

/* ---- listings as they are asked for */

static void ask(struct guest_call *gc, const struct dir_place *place);

/* Answer from the chunk that came, or ask for another. */
static void answer_or_ask(struct guest_call *gc)
{
	struct dir_place place;

	if (answer(gc, &place))
		guest_call_free(gc);
	else
		ask(gc, &place);
}

static void done_readdir(struct guest_call *gc, int err, struct reader *results)
{
	const struct dir_place place = { gc->first, gc->cookie };
	struct guest_dir *dir = dir_of(&gc->fi);

	dir->asked_ns = gc->sent_ns;
	dir->changes = gc->changes;
	if (!err)
		err = take_chunk(dir, &place, results);
	if (err) {
		request_err(gc->request, err);
		guest_call_free(gc);
		return;
	}
	ask_ahead(gc->node, dir);
	answer_or_ask(gc);
}

static void send_readdir(struct guest_call *gc, const struct dir_place *place)
{
	struct buf args = { 0 };
	const int rc = put_readdir(&args, gc->node, dir_of(&gc->fi), place);

	gc->first = place->first;
	gc->cookie = place->cookie;
	guest_call_send(gc, FS_READDIR, rc, &args);
}

static void ask(struct guest_call *gc, const struct dir_place *place)
{
	struct guest_dir *dir = dir_of(&gc->fi);
	struct guest_call *next = dir->next_chunk;
	struct reader r;

	if (!next || !is_wanted(dir, next, place, gc->plus)) {
		drop_next(dir);
		send_readdir(gc, place);
		return;
	}
	dir->next_chunk = NULL;
	guest_call_take_over(next, gc);
	next->done = done_readdir;
	if (!next->answered)
		return;
	r = reader_init(buf_bytes(&next->value), next->value.len);
	done_readdir(next, 0, &r);
}

static void read_entries(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi,
			 bool plus)
{
	struct guest_call *gc = guest_call_new(req, guest_node_of(req, ino), NULL, done_readdir);
	struct guest_dir *dir = dir_of(fi);

	if (!gc)
		return;
	if (!off && !dir->fresh) {
		drop_places(dir, 0);
		dir->total = 0;
		dir->resume = (struct dir_place){ 0 };
	}
	dir->fresh = false;
	gc->fi = *fi;
	gc->size = size;
	gc->plus = plus;
	gc->offset = (uint64_t)off;
	ask_ahead(gc->node, dir);
	answer_or_ask(gc);
}

void guest_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_entries(req, ino, size, off, fi, false);
}

void guest_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_entries(req, ino, size, off, fi, true);
}

void guest_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	guest_node_of(req, ino)->listed_at = 0;
	dir_free(dir_of(fi));
	fuse_reply_err(req, 0);
}
