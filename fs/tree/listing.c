/* SPDX-License-Identifier: MIT */
/* listing.c - what a directory of the tree had when it was opened */
#include "fs/tree/listing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/fs.h"
#include "fs/tree/kept.h"
#include "fs/tree/tree.h"
#include "util/buf.h"

/* All that readdir tells. */
struct item {
	uint64_t ino;
	uint32_t name; /* where it begins in the listing's names */
	mode_t type;
};

struct listing {
	struct fs *fs;
	uid_t uid;               /* who opened it */
	struct buf items;        /* struct item */
	struct buf names;        /* each ended by a NUL */
	struct kept kept;        /* of both */
	bool forgotten;          /* to keep others' */
	struct request *request; /* the opendir, while it waits */
	bool abandoned;          /* whoever waited has gone */
	struct fuse_file_info fi;
};

static void add_item(struct listing *listing, const char *name, uint64_t ino, mode_t mode)
{
	const struct item item = { ino, (uint32_t)listing->names.len, mode };

	buf_add(&listing->names, name, strlen(name) + 1);
	buf_add(&listing->items, &item, sizeof(item));
}

void listing_add(struct listing *listing, const char *name, const struct object *obj,
		 const struct entry *entry)
{
	add_item(listing, name, tree_ino(obj, entry), entry->mode & S_IFMT);
}

static void listing_free(struct listing *listing)
{
	kept_drop(listing->fs, &listing->kept);
	buf_release(&listing->items);
	buf_release(&listing->names);
	free(listing);
}

static void listing_forget(struct kept *kept)
{
	struct listing *listing = container_of(kept, struct listing, kept);

	listing->forgotten = true;
	buf_release(&listing->items);
	buf_release(&listing->names);
}

static struct listing *listing_new(fuse_req_t req)
{
	struct listing *listing = calloc(1, sizeof(*listing));

	if (listing) {
		listing->fs = fuse_req_userdata(req);
		listing->uid = fuse_req_ctx(req)->uid;
		listing->kept.forget = listing_forget;
	}
	return listing;
}

/* All names are in it. */
static int listing_count(struct listing *listing)
{
	if (listing->items.failed || listing->names.failed)
		return -ENOMEM;
	kept_use(listing->fs, &listing->kept, listing->uid, listing->items.size + listing->names.size);
	return 0;
}

void listing_end(struct listing *listing, int rc)
{
	if (!rc)
		rc = listing_count(listing);
	if (!listing->abandoned && rc)
		request_err(listing->request, rc);
	if (listing->abandoned || rc || request_open(listing->request, &listing->fi))
		listing_free(listing);
}

static void listing_abandon(void *arg)
{
	((struct listing *)arg)->abandoned = true;
}

static void gather(fuse_req_t req, struct listing *listing, struct object *obj, const struct entry *place,
		   const struct fuse_file_info *fi)
{
	listing->request = request_new(req, 0);
	if (!listing->request) {
		listing_free(listing);
		return;
	}
	listing->request->cancel = listing_abandon;
	listing->request->arg = listing;
	listing->fi = *fi;
	place->dir->gather(obj, listing);
}

void listing_open(fuse_req_t req, struct object *obj, const struct entry *place, struct fuse_file_info *fi)
{
	const struct dir_ops *dir = place->dir;
	struct listing *listing = listing_new(req);
	const struct entry *entry;
	int rc;

	if (!listing) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	add_item(listing, ".", tree_ino(obj, place), S_IFDIR);
	add_item(listing, "..", tree_ino(obj, place), S_IFDIR);
	for (entry = dir->entries; entry && entry->name && !obj->gone; entry++)
		listing_add(listing, entry->name, obj, entry);
	if (dir->list && !obj->gone)
		dir->list(obj, listing);
	fi->fh = (uintptr_t)listing;
	if (dir->gather && !obj->gone) {
		gather(req, listing, obj, place, fi);
		return;
	}
	rc = listing_count(listing);
	if (rc)
		fuse_reply_err(req, -rc);
	if (rc || fuse_reply_open(req, fi))
		listing_free(listing);
}

static size_t put_item(char *text, size_t left, const struct listing *listing, size_t i, bool plus)
{
	const struct item *item = (const struct item *)buf_bytes(&listing->items) + i;
	const char *name = (const char *)buf_bytes(&listing->names) + item->name;
	/* No node: the kernel is told no more than by READDIR, and looks names up when they are used. */
	const struct fuse_entry_param param = { .attr = { .st_ino = item->ino, .st_mode = item->type } };
	const off_t next = (off_t)i + 1;

	return plus ? fuse_add_direntry_plus(NULL, text, left, name, &param, next)
		    : fuse_add_direntry(NULL, text, left, name, &param.attr, next);
}

static void list_items(fuse_req_t req, size_t size, off_t off, const struct fuse_file_info *fi, bool plus)
{
	const struct listing *listing = (const void *)(uintptr_t)fi->fh;
	const size_t n = listing->items.len / sizeof(struct item);
	char *text = listing->forgotten ? NULL : malloc(size ? size : 1);
	size_t at = 0, i, len;

	if (!text) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	for (i = (size_t)off; i < n; i++) {
		len = put_item(text + at, size - at, listing, i, plus);
		if (len > size - at)
			break;
		at += len;
	}
	fuse_reply_buf(req, text, at);
	free(text);
}

void listing_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)ino;
	list_items(req, size, off, fi, false);
}

void listing_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)ino;
	list_items(req, size, off, fi, true);
}

void listing_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	listing_free((void *)(uintptr_t)fi->fh);
	fuse_reply_err(req, 0);
}
