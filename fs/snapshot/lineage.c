/* SPDX-License-Identifier: MIT */
/* lineage.c - what a snapshot was taken after, and what was taken after it: `parent` and children/ */
#include "fs/snapshot/lineage.h"

#include <string.h>
#include <sys/stat.h>

bool has_parent(struct snapshot *snap)
{
	return !snapshot_read_meta(snap, NULL) && *snap->meta.parent &&
	       snapshot_find(&snap->obj.fs->snapshot_names, snap->meta.parent);
}

static void parent_target(struct object *obj, struct buf *text)
{
	const struct snapshot *snap = snapshot_of(obj);

	buf_printf(text, "%s%s", snap->named ? "../" : "../../../snapshots/", snap->meta.parent);
}

const struct entry parent_entry = { "parent", S_IFLNK | 0777, 0,
				    "a link to the named snapshot it was taken after, if there is one",
				    .target = parent_target };

static void child_target(struct object *obj, struct buf *text)
{
	buf_printf(text, "../../%s", obj->name);
}

static const struct entry child_entry = { "NAME", S_IFLNK | 0777, 0, "a link to the snapshot NAME",
					  .target = child_target };

struct search {
	struct fs *fs;
	const char *name;
	struct snapshot *found;
	struct listing *listing;
};

static void match(void *arg, const char *name)
{
	struct search *search = arg;

	if (!strcmp(name, search->name))
		search->found = snapshot_find(&search->fs->snapshot_names, name);
}

static struct object *children_find(struct object *dir, const char *name, const struct entry **ret)
{
	struct search search = { .fs = dir->fs, .name = name };

	if (snapshot_of(dir)->stored)
		snapshot_children(dir->fs->store, dir->name, match, &search);
	*ret = &child_entry;
	return search.found ? &search.found->obj : NULL;
}

static void list_one(void *arg, const char *name)
{
	struct search *search = arg;
	const struct snapshot *child = snapshot_find(&search->fs->snapshot_names, name);

	if (child)
		listing_add(search->listing, name, &child->obj, &child_entry);
}

static void children_list(struct object *dir, struct listing *listing)
{
	struct search search = { .fs = dir->fs, .listing = listing };

	if (snapshot_of(dir)->stored)
		snapshot_children(dir->fs->store, dir->name, list_one, &search);
}

const struct dir_ops children_dir = {
	.child = &child_entry,
	.find = children_find,
	.list = children_list,
};
