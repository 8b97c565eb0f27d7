/* SPDX-License-Identifier: MIT */
/*
 * guest_node.c - fs/: the nodes of a guest's files, and their names
 *
 * A guest says which file a name is, and may lie: two files of different types are never one node, so that the
 * kernel's inode is always of one type, and neither are two directories.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "fs/guest/guest_names.h"

/* Names that are remembered of a file: any one will do for its path. */
enum { REMEMBERED = 64 };

struct guest_node *guest_node_of(fuse_req_t req, fuse_ino_t ino)
{
	return container_of(node_of(req, ino), struct guest_node, node);
}

struct guest_node *guest_ref(struct guest_node *gn)
{
	gn->refs++;
	return gn;
}

/* Names and ids are a guest's to choose, so it must not know which meet. */
static uint64_t hash_of(const void *data, size_t n)
{
	static uint64_t seed;

	while (!seed)
		if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
			seed = now_mono_ns();
	return XXH3_64bits_withSeed(data, n, seed);
}

/* ---- children by name */

static struct guest_name **bucket(const struct guest_node *dir, uint32_t hash)
{
	return &dir->buckets[hash % dir->n_buckets];
}

/* Eight times as many buckets, if there is memory for them. */
static void more_buckets(struct guest_node *dir)
{
	const unsigned n = dir->n_buckets * 8;
	struct guest_name **buckets = calloc(n, sizeof(struct guest_name *)), *name;
	unsigned i;

	if (!buckets)
		return;
	for (i = 0; i < dir->n_buckets; i++) {
		while ((name = dir->buckets[i])) {
			dir->buckets[i] = name->next;
			name->next = buckets[name->hash % n];
			buckets[name->hash % n] = name;
		}
	}
	if (dir->buckets != &dir->first)
		free((void *)dir->buckets);
	dir->buckets = buckets;
	dir->n_buckets = n;
}

static void add_child(struct guest_name *name)
{
	struct guest_node *dir = name->parent;
	struct guest_name **p;

	name->hash = (uint32_t)hash_of(name->name, strlen(name->name));
	if (++dir->n_children > dir->n_buckets * 4)
		more_buckets(dir);
	p = bucket(dir, name->hash);
	name->next = *p;
	*p = name;
}

static void del_child(const struct guest_name *name)
{
	struct guest_name **p;

	for (p = bucket(name->parent, name->hash); *p != name; p = &(*p)->next)
		;
	*p = name->next;
	name->parent->n_children--;
}

struct guest_name *guest_child(const struct guest_node *dir, const char *name)
{
	const uint32_t hash = (uint32_t)hash_of(name, strlen(name));
	struct guest_name *gn;

	for (gn = *bucket(dir, hash); gn; gn = gn->next)
		if (gn->hash == hash && !strcmp(gn->name, name))
			return gn;
	return NULL;
}

bool guest_child_like(const struct guest_node *dir, const char *name)
{
	const struct guest_name *gn;
	unsigned i;

	for (i = 0; i < dir->n_buckets; i++)
		for (gn = dir->buckets[i]; gn; gn = gn->next)
			if (!strcasecmp(gn->name, name))
				return true;
	return false;
}

void guest_name_free(struct guest_name *gn)
{
	struct guest_node *parent = gn->parent;

	del_child(gn);
	guest_new_doubt(parent);
	list_del(&gn->link);
	gn->node->n_names--; /* NOLINT(clang-analyzer-core.NullDereference): no name without a file */
	free(gn->name);
	free(gn);
	guest_unref(parent);
}

void guest_name_move(struct guest_name *gn, struct guest_node *dir, char *name)
{
	struct guest_node *from = gn->parent;

	del_child(gn);
	gn->parent = guest_ref(dir);
	free(gn->name);
	gn->name = name;
	add_child(gn);
	guest_unref(from);
}

static int add_name(struct guest_node *gn, struct guest_node *dir, const char *text)
{
	struct guest_name *name = calloc(1, sizeof(*name));

	if (name)
		name->name = strdup(text);
	if (!name || !name->name) {
		free(name);
		return -ENOMEM;
	}
	name->node = gn;
	name->parent = guest_ref(dir);
	list_insert(&gn->names, gn->names.next, &name->link);
	add_child(name);
	if (++gn->n_names > REMEMBERED)
		guest_name_free(list_entry(gn->names.prev, struct guest_name, link));
	return 0;
}

struct guest_node *guest_parent(const struct guest_node *gn)
{
	const struct guest_name *name = list_first(&gn->names, struct guest_name, link);

	return name ? name->parent : NULL;
}

/* ---- files by id */

static struct guest_node **file_bucket(const struct guest_mount *guest, const struct fs_id *id)
{
	return &guest->files[hash_of(id, sizeof(*id)) % guest->n_buckets];
}

static void more_files(struct guest_mount *guest)
{
	struct guest_mount more = *guest;
	struct guest_node *gn, **p;
	unsigned i;

	more.n_buckets = guest->n_buckets ? guest->n_buckets * 4 : 16;
	more.files = calloc(more.n_buckets, sizeof(struct guest_node *));
	if (!more.files)
		return;
	for (i = 0; i < guest->n_buckets; i++) {
		while ((gn = guest->files[i])) {
			guest->files[i] = gn->next;
			p = file_bucket(&more, &gn->id);
			gn->next = *p;
			*p = gn;
		}
	}
	free((void *)guest->files);
	guest->files = more.files;
	guest->n_buckets = more.n_buckets;
}

/* From now on it is found by its id, if there is memory for that. */
static void share(struct guest_node *gn)
{
	struct guest_mount *guest = gn->guest;
	struct guest_node **p;

	if (!guest->n_buckets || guest->n_files > guest->n_buckets * 2)
		more_files(guest);
	if (!guest->n_buckets)
		return;
	p = file_bucket(guest, &gn->id);
	gn->next = *p;
	*p = gn;
	gn->shared = true;
	guest->n_files++;
}

static void hide(const struct guest_node *gn)
{
	struct guest_mount *guest = gn->guest;
	struct guest_node **p;

	if (!gn->shared)
		return;
	for (p = file_bucket(guest, &gn->id); *p != gn; p = &(*p)->next)
		;
	*p = gn->next;
	if (--guest->n_files)
		return;
	free((void *)guest->files);
	guest->files = NULL;
	guest->n_buckets = 0;
}

static struct guest_node *file_by_id(const struct guest_mount *guest, const struct fs_id *id)
{
	struct guest_node *gn = guest->n_buckets ? *file_bucket(guest, id) : NULL;

	while (gn && !fs_id_same(&gn->id, id))
		gn = gn->next;
	return gn;
}

/* ---- nodes */

/* Names lead to parents: as deep as a path is long. */
void guest_unref(struct guest_node *gn)
{
	struct guest_name *name;

	if (!gn || --gn->refs)
		return;
	gn->refs = 1; /* nobody finds it any more; not to come here again */
	hide(gn);
	while ((name = list_first(&gn->names, struct guest_name, link)))
		guest_name_free(name);
	if (gn->guest->root == gn)
		gn->guest->root = NULL;
	list_del(&gn->node.link);
	list_del(&gn->fresh);
	guest_ahead_free(gn->ahead);
	guest_opened_forget(gn);
	if (gn->buckets != &gn->first)
		free((void *)gn->buckets);
	object_unref(gn->guest->obj);
	free(gn);
}

/* The kernel forgot it. */
static void guest_forgotten(struct node *node)
{
	struct guest_node *gn = container_of(node, struct guest_node, node);

	gn->known = false;
	guest_unref(gn);
}

/* One reference. */
static struct guest_node *guest_node_new(struct guest_mount *guest)
{
	struct guest_node *gn = calloc(1, sizeof(*gn));

	if (!gn)
		return NULL;
	node_init(guest->obj->fs, &gn->node, &guestfs_ops, guest_forgotten);
	gn->refs = 1;
	gn->guest = guest;
	object_ref(guest->obj);
	list_init(&gn->names);
	list_init(&gn->files);
	list_init(&gn->fresh);
	list_init(&gn->listed);
	list_init(&gn->entries);
	gn->buckets = &gn->first;
	gn->n_buckets = 1;
	return gn;
}

struct node *guest_known(struct guest_node *gn)
{
	if (!gn->known)
		guest_ref(gn);
	gn->known = true;
	return &gn->node;
}

struct node *guestfs_root(struct guest_mount *guest, const struct entry *entry)
{
	struct guest_node *gn = guest->root;
	struct node *node;

	if (gn)
		return guest_known(gn);
	gn = guest_node_new(guest);
	if (!gn)
		return NULL;
	if (!guest->number) {
		guest->number = ++guest->obj->fs->guest_mounts;
		list_init(&guest->fresh);
		list_init(&guest->aheads);
	}
	gn->entry = entry;
	gn->type = S_IFDIR;
	guest->root = gn;
	node = guest_known(gn);
	guest_unref(gn);
	return node;
}

static bool is_one(uint32_t type)
{
	return type == S_IFREG;
}

struct guest_node *guest_found(struct guest_node *dir, const char *text, const struct fs_id *id,
			       uint32_t type)
{
	struct guest_name *name = guest_child(dir, text);
	struct guest_node *gn = name ? name->node : NULL;

	if (name && gn->type == type && fs_id_same(&gn->id, id)) {
		list_del(&name->link);
		list_insert(&gn->names, gn->names.next, &name->link);
		return guest_ref(gn);
	}
	if (name)
		guest_name_free(name);
	gn = is_one(type) ? file_by_id(dir->guest, id) : NULL;
	if (gn) {
		guest_ref(gn);
	} else {
		gn = guest_node_new(dir->guest);
		if (!gn)
			return NULL;
		gn->id = *id;
		gn->type = type;
		if (is_one(type))
			share(gn);
	}
	if (add_name(gn, dir, text)) {
		guest_unref(gn);
		return NULL;
	}
	return gn;
}

/* ---- how the guest is asked for one */

/* Put "/name" before the path that begins at *p, within `start`. */
static int prepend(char **p, const char *start, const char *name)
{
	const size_t n = strlen(name);

	if (n + 1 >= (size_t)(*p - start))
		return -ENAMETOOLONG;
	*p -= n + 1;
	**p = '/';
	memcpy(*p + 1, name, n);
	return 0;
}

int guest_path(const struct guest_node *gn, char ret[PATH_MAX])
{
	char path[PATH_MAX], *p = path + sizeof(path) - 1;
	const struct guest_name *name;
	int rc = 0;

	*p = 0;
	for (; !gn->entry && !rc; gn = name->parent) {
		name = list_first(&gn->names, struct guest_name, link);
		if (!name)
			return -ESTALE;
		rc = prepend(&p, path, name->name);
	}
	snprintf(ret, PATH_MAX, "%s", *p ? p : "/");
	return rc;
}

int guest_put_named(struct buf *args, const struct guest_node *gn)
{
	char path[PATH_MAX];
	int rc;

	if (!gn->entry && list_empty(&gn->names))
		return guest_put_file(args, gn);
	rc = guest_path(gn, path);
	if (!rc)
		fs_file_put(args, 0, path, gn->entry ? NULL : &gn->id);
	return rc;
}

int guest_put_file(struct buf *args, const struct guest_node *gn)
{
	const struct guest_file *file;

	list_for_each (file, &gn->files, link) {
		if (file->epoch == guest_epoch(gn)) {
			fs_file_put(args, file->handle, "", NULL);
			return 0;
		}
	}
	return gn->entry || !list_empty(&gn->names) ? guest_put_named(args, gn) : -ESTALE;
}

int guest_put_name(struct buf *args, const struct guest_node *dir, const char *name)
{
	const int rc = strlen(name) > NAME_MAX ? -ENAMETOOLONG : guest_put_file(args, dir);

	buf_put_str(args, name);
	return rc;
}
