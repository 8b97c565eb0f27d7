/* SPDX-License-Identifier: MIT */
/*
 * ext4_names.c - the names of a new filesystem, in memory
 *
 * They are found through a hash table with a seed of its own, and are also lists of their directories' names.
 * Each knows the layer that brought it or something below it, which is what a whiteout asks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "snap/image/ext4_priv.h"

enum { BUCKETS_MIN = 1024, LINKS_MAX = 40, REST_MAX = 2 * 4096 };

static size_t hash(const struct ext4 *fs, const struct name *dir, const char *text, size_t len)
{
	return XXH3_64bits_withSeed(text, len, fs->seed ^ dir->inode->ino) & (fs->nbuckets - 1);
}

struct name *ext4_name_find(const struct ext4 *fs, const struct name *dir, const char *text)
{
	const size_t len = strlen(text);
	struct name *name = fs->buckets[hash(fs, dir, text, len)];

	while (name && (name->parent != dir || name->len != len || memcmp(name->text, text, len) != 0))
		name = name->chain;
	return name;
}

static int grow(struct ext4 *fs)
{
	const size_t old = fs->nbuckets;
	struct name **buckets = fs->buckets, *name, *next;
	size_t i, at;

	fs->buckets = calloc(old * 2, sizeof(struct name *));
	if (!fs->buckets) {
		fs->buckets = buckets;
		return -ENOMEM;
	}
	fs->nbuckets = old * 2;
	for (i = 0; i < old; i++) {
		for (name = buckets[i]; name; name = next) {
			next = name->chain;
			at = hash(fs, name->parent, name->text, name->len);
			name->chain = fs->buckets[at];
			fs->buckets[at] = name;
		}
	}
	free(buckets);
	return 0;
}

void ext4_name_mark(struct ext4 *fs, struct name *name)
{
	for (; name && name->layer != fs->layer; name = name->parent)
		name->layer = fs->layer;
}

static struct name *name_new(const char *text, struct name *parent, struct inode *inode)
{
	const size_t len = strlen(text);
	struct name *name = calloc(1, sizeof(*name) + len + 1);

	if (!name)
		return NULL;
	memcpy(name->text, text, len + 1);
	name->len = (uint8_t)len;
	name->parent = parent;
	name->depth = parent ? (uint16_t)(parent->depth + 1) : 0;
	name->inode = inode;
	list_init(&name->siblings);
	return name;
}

int ext4_name_add(struct ext4 *fs, const struct place *at, struct inode *inode, struct err *err)
{
	struct name *name = NULL;
	size_t bucket;
	int rc = -ENOMEM;

	if (fs->nnames >= EXT4_NAMES_MAX)
		rc = err_set(err, -E2BIG, "%.160s is one name too many: an image has at most %d", fs->path,
			     EXT4_NAMES_MAX);
	else if (at->dir->depth >= EXT4_DEPTH_MAX)
		rc = err_set(err, -ENAMETOOLONG, "%.160s is more than %d directories deep", fs->path,
			     EXT4_DEPTH_MAX);
	else if ((fs->nnames >= fs->nbuckets && grow(fs)) || !(name = name_new(at->name, at->dir, inode)))
		err_set(err, rc, "out of memory");
	if (!name) {
		if (!inode->links)
			ext4_inode_free(inode);
		return rc;
	}
	inode->links++;
	bucket = hash(fs, at->dir, name->text, name->len);
	name->chain = fs->buckets[bucket];
	fs->buckets[bucket] = name;
	list_add(&at->dir->inode->children, &name->siblings);
	at->dir->inode->rewrite = true;
	fs->nnames++;
	ext4_name_mark(fs, name);
	return 0;
}

/* Without asking for what is below it, and without a word to the disk. */
static void forget(struct ext4 *fs, struct name *name)
{
	struct name **at = &fs->buckets[hash(fs, name->parent, name->text, name->len)];

	while (*at != name)
		at = &(*at)->chain;
	*at = name->chain;
	list_del(&name->siblings);
	name->parent->inode->rewrite = true;
	fs->nnames--;
	free(name);
}

int ext4_name_remove(struct ext4 *fs, struct name *name, struct err *err)
{
	struct inode *inode = name->inode;
	struct name *below;
	int rc = 0;

	while (!rc && (below = list_first(&inode->children, struct name, siblings)))
		rc = ext4_name_remove(fs, below, err);
	if (rc)
		return rc;
	if (fs->last == inode)
		fs->last = NULL;
	forget(fs, name);
	inode->links--;
	rc = ext4_inode_drop(fs, inode, err);
	if (!inode->links)
		ext4_inode_free(inode);
	return rc;
}

/* ---- paths */

static int make_parent(struct ext4 *fs, const struct place *at, struct err *err)
{
	struct inode *inode = ext4_inode_new(fs, &ext4_parent_attr, err);
	struct ext2_inode_large large;
	int rc;

	if (!inode)
		return err ? err->code : -ENOMEM;
	ext4_inode_fill(&large, &ext4_parent_attr);
	rc = ext4_inode_write(fs, inode->ino, &large, err);
	if (rc) {
		ext4_inode_free(inode);
		return rc;
	}
	return ext4_name_add(fs, at, inode, err);
}

/* What is left of a path to walk: a link's target takes the place of its name. */
struct rest {
	char text[REST_MAX];
	const char *at;
	unsigned links;
};

static int follow(struct ext4 *fs, struct rest *rest, const char *target, struct err *err)
{
	char text[REST_MAX];

	if (rest->links++ >= LINKS_MAX)
		return err_set(err, -ELOOP, "%.160s: too many links on the way", fs->path);
	if (snprintf(text, sizeof(text), "%s/%s", target, rest->at) >= (int)sizeof(text))
		return err_set(err, -ENAMETOOLONG, "%.160s: a link leads too far", fs->path);
	memcpy(rest->text, text, sizeof(text));
	rest->at = rest->text;
	return 0;
}

/* Go into ret->name. */
static int descend(struct ext4 *fs, struct place *at, bool make, struct rest *rest, struct err *err)
{
	struct name *name = ext4_name_find(fs, at->dir, at->name);
	int rc;

	if (!name && make) {
		rc = make_parent(fs, at, err);
		if (rc)
			return rc;
		name = ext4_name_find(fs, at->dir, at->name);
	}
	at->name[0] = '\0';
	if (!name) {
		at->dir = NULL;
		return 0;
	}
	if (name->inode->type == S_IFLNK) {
		if (*name->inode->target == '/')
			at->dir = fs->root;
		return follow(fs, rest, name->inode->target, err);
	}
	if (name->inode->type != S_IFDIR)
		return err_set(err, -ENOTDIR, "%.160s: %.60s is not a directory", fs->path, name->text);
	at->dir = name;
	return 0;
}

/* The next part of what is left, as ret->name; links may have "..", and the root is its own parent. */
static int step(struct ext4 *fs, struct place *at, struct rest *rest, struct err *err)
{
	const char *p = rest->at;
	const size_t n = strcspn(p, "/");

	rest->at = p + n + strspn(p + n, "/");
	if (n == 1 && *p == '.')
		return 0;
	if (n == 2 && !memcmp(p, "..", 2)) {
		if (at->dir->parent)
			at->dir = at->dir->parent;
		return 0;
	}
	if (n > EXT2_NAME_LEN)
		return err_set(err, -ENAMETOOLONG, "%.160s: a name is too long", fs->path);
	memcpy(at->name, p, n);
	at->name[n] = '\0';
	return 0;
}

/* A path without "/" at its ends, and without ".", has the same meaning; ret has room for it. */
static bool normalize(const char *path, char *ret)
{
	size_t n, len = 0;

	for (; *path; path += n) {
		path += strspn(path, "/");
		n = strcspn(path, "/");
		if (n == 2 && !memcmp(path, "..", 2))
			return false;
		if (!n || (n == 1 && *path == '.'))
			continue;
		if (len)
			ret[len++] = '/';
		memcpy(ret + len, path, n);
		len += n;
	}
	ret[len] = '\0';
	return true;
}

int ext4_name_resolve(struct ext4 *fs, const char *path, bool make, struct place *ret, struct err *err)
{
	struct rest rest;
	int rc = 0;

	snprintf(fs->path, sizeof(fs->path), "%s", path);
	*ret = (struct place){ .dir = fs->root };
	if (strlen(path) >= sizeof(fs->path))
		return err_set(err, -ENAMETOOLONG, "%.160s...: a path is too long", path);
	if (!normalize(path, rest.text))
		return err_set(err, -EINVAL, "%.160s: a path with .. is refused", path);
	rest.at = rest.text;
	rest.links = 0;
	while (!rc && ret->dir && *rest.at) {
		if (*ret->name)
			rc = descend(fs, ret, make, &rest, err);
		if (!rc && ret->dir && *rest.at == '/')
			rest.at += strspn(rest.at, "/");
		if (!rc && ret->dir && *rest.at)
			rc = step(fs, ret, &rest, err);
	}
	return rc;
}

/* ---- layers */

void ext4_layer(struct ext4 *fs)
{
	fs->layer++;
}

static const char wh[] = ".wh.", opaque[] = ".wh..wh..opq", meta[] = ".wh..wh.";

static const char *last_part(const char *path)
{
	size_t n = strlen(path);

	while (n && path[n - 1] != '/')
		n--;
	return path + n;
}

bool ext4_is_whiteout(const char *path)
{
	return !strncmp(last_part(path), wh, strlen(wh));
}

/* What this layer did not bring. */
static int drop_lower(struct ext4 *fs, struct name *name, struct err *err);

static int drop_lower_in(struct ext4 *fs, const struct inode *dir, struct err *err)
{
	struct name *name, *next;
	int rc = 0;

	list_for_each_safe (name, next, &dir->children, siblings)
		if (!rc)
			rc = drop_lower(fs, name, err);
	return rc;
}

static int drop_lower(struct ext4 *fs, struct name *name, struct err *err)
{
	return name->layer != fs->layer ? ext4_name_remove(fs, name, err)
					: drop_lower_in(fs, name->inode, err);
}

int ext4_whiteout(struct ext4 *fs, const char *path, struct err *err)
{
	struct name *name;
	struct place at;
	int rc = ext4_name_resolve(fs, path, false, &at, err);

	if (rc || !at.dir)
		return rc;
	if (!strcmp(at.name, opaque))
		return drop_lower_in(fs, at.dir->inode, err);
	if (!strncmp(at.name, meta, strlen(meta)))
		return 0;
	if (!strcmp(at.name, wh) || !strcmp(at.name, ".wh..") || !strcmp(at.name, ".wh..."))
		return err_set(err, -EINVAL, "%.160s takes no name away", path);
	name = ext4_name_find(fs, at.dir, at.name + strlen(wh));
	return name ? drop_lower(fs, name, err) : 0;
}

/* ---- begin and end */

/* mke2fs made one directory, for e2fsck. */
static int add_lost_found(struct ext4 *fs, struct err *err)
{
	struct place at = { .dir = fs->root, .name = "lost+found" };
	struct inode *inode;
	ext2_ino_t ino;
	int rc;

	if (ext2fs_lookup(fs->fs, EXT2_ROOT_INO, at.name, (int)strlen(at.name), NULL, &ino))
		return 0;
	inode = calloc(1, sizeof(*inode));
	if (!inode)
		return err_set(err, -ENOMEM, "out of memory");
	*inode = (struct inode){ .ino = ino, .type = S_IFDIR };
	list_init(&inode->children);
	rc = ext4_name_add(fs, &at, inode, err);
	return rc;
}

int ext4_names_open(struct ext4 *fs, struct err *err)
{
	struct inode *inode = calloc(1, sizeof(*inode));

	fs->buckets = calloc(BUCKETS_MIN, sizeof(struct name *));
	fs->nbuckets = BUCKETS_MIN;
	fs->root = inode ? name_new("", NULL, inode) : NULL;
	if (!fs->root || !fs->buckets) {
		if (!fs->root)
			free(inode);
		return err_set(err, -ENOMEM, "out of memory");
	}
	*inode = (struct inode){ .ino = EXT2_ROOT_INO, .type = S_IFDIR, .links = 1, .rewrite = true };
	list_init(&inode->children);
	if (getrandom(&fs->seed, sizeof(fs->seed), 0) != sizeof(fs->seed))
		return err_sys(err, -errno, "cannot get random numbers");
	return add_lost_found(fs, err);
}

static void free_below(struct name *dir)
{
	struct name *name;

	while ((name = list_first(&dir->inode->children, struct name, siblings))) {
		free_below(name);
		list_del(&name->siblings);
		if (!--name->inode->links)
			ext4_inode_free(name->inode);
		free(name);
	}
}

void ext4_names_close(struct ext4 *fs)
{
	if (fs->root) {
		free_below(fs->root);
		ext4_inode_free(fs->root->inode);
		free(fs->root);
	}
	free(fs->buckets);
}
