/* SPDX-License-Identifier: MIT */
/* images.c - the directory images/ of the root */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/dirs/dirs.h"
#include "fs/dirs/info.h"
#include "fs/fs.h"
#include "snap/image.h"

static int image_info(struct object *obj, struct buf *text, struct err *err)
{
	struct image image;
	int rc = image_get(obj->fs->store, obj->name, &image, err);

	if (rc)
		return rc;
	info_word(text, "name", image.name);
	info_number(text, "size", image.size);
	info_number(text, "stored", image.stored);
	info_time(text, "created", image.created);
	info_word(text, "source", image.source);
	image_release(&image);
	return 0;
}

static int image_config(struct object *obj, struct buf *text, struct err *err)
{
	struct image image;
	int rc = image_get(obj->fs->store, obj->name, &image, err);

	if (rc)
		return rc;
	if (image.config.len)
		buf_add(text, buf_bytes(&image.config), image.config.len);
	image_release(&image);
	return 0;
}

static const struct entry image_files[] = {
	{ "info", S_IFREG | 0444, 0, "size, stored, created, source", .show = image_info },
	{ "config", S_IFREG | 0444, 0,
	  "what it says of commands: env, workdir and user hold for those that say nothing else; entrypoint "
	  "and cmd, "
	  "a word a line, are what `sbx run` runs",
	  .show = image_config },
	{ 0 },
};

static const struct dir_ops image_dir = { .entries = image_files };

static const struct entry image_entry = {
	"NAME", S_IFDIR, ENTRY_VOLATILE, "an image, a disk to begin with; `sbx image` makes and removes them",
	.dir = &image_dir
};

static void image_free(struct object *obj)
{
	object_leave(obj);
	free(obj);
}

/* Images come and go on disk. An object is made at the first look and kept: there are few. */
static struct object *image_object(struct fs *fs, const char *name)
{
	const struct owner owner = { fs->root.owner.uid, fs->root.owner.gid, 0755 };
	struct object *obj = object_named(&fs->images, name);

	if (obj)
		return obj;
	obj = calloc(1, sizeof(*obj));
	if (!obj)
		return NULL;
	object_init(obj, OBJECT_IMAGE, fs, name, &owner, image_free);
	object_enter(&fs->images, obj);
	return obj;
}

static struct object *images_find(struct object *dir, const char *name, const struct entry **ret)
{
	struct image image;

	if (!name_valid(name) || image_get(dir->fs->store, name, &image, NULL))
		return NULL;
	image_release(&image);
	*ret = &image_entry;
	return image_object(dir->fs, name);
}

struct image_listing {
	struct fs *fs;
	struct listing *listing;
};

static void list_image(void *arg, const char *name)
{
	const struct image_listing *il = arg;
	struct object *obj = image_object(il->fs, name);

	if (obj)
		listing_add(il->listing, name, obj, &image_entry);
}

static void images_list(struct object *dir, struct listing *listing)
{
	struct image_listing il = { dir->fs, listing };

	(void)image_list(dir->fs->store, list_image, &il);
}

const struct dir_ops images_dir = {
	.child = &image_entry,
	.find = images_find,
	.list = images_list,
};
