/* SPDX-License-Identifier: MIT */
/*
 * catalogue.c - the published snapshots, and what they need
 *
 * snapshots/NAME is a link to ../objects/ID. The catalogue knows for every name its object, the objects whose
 * RAM blocks that refers to, and its disk layer. An object is needed as long as an entry or a pin says so;
 * one whose name went keeps just the blocks that others refer to.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/manifest.h"
#include "snap/store_priv.h"
#include "snap/trim.h"
#include "util/io.h"
#include "util/log.h"

static const char link_prefix[] = "../objects/";

/* The first whose text at this offset in struct published is that. */
static struct published *with_text(struct store *store, size_t at, const char *text)
{
	struct published *entry;

	list_for_each (entry, &store->entries, link)
		if (!strcmp((const char *)entry + at, text))
			return entry;
	return NULL;
}

struct published *catalogue_find(struct store *store, const char *name)
{
	return with_text(store, offsetof(struct published, name), name);
}

struct published *catalogue_find_origin(struct store *store, const char *origin)
{
	return with_text(store, offsetof(struct published, origin), origin);
}

static bool has_id(const char *id, unsigned n, char (*ids)[ID_SIZE])
{
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(ids[i], id))
			return true;
	return false;
}

static bool pinned(struct store *store, const char *id)
{
	struct pin *pin;

	list_for_each (pin, &store->pins, link)
		if (has_id(id, pin->nids, pin->ids))
			return true;
	return false;
}

bool catalogue_needs(struct store *store, const char *id)
{
	struct published *entry;

	list_for_each (entry, &store->entries, link)
		if (!strcmp(entry->id, id) || has_id(id, entry->nsources, entry->sources))
			return true;
	return pinned(store, id);
}

bool catalogue_complete(const struct store *store)
{
	return !store->broken;
}

/* ---- entries */

static void entry_free(struct published *entry)
{
	if (entry->broken.code)
		entry->store->broken--;
	list_del(&entry->link);
	if (entry->disk) {
		entry->disk->named--;
		layer_unref(entry->disk);
	}
	free(entry->sources);
	free(entry);
}

static struct published *entry_new(struct store *store, const char *name)
{
	struct published *entry = calloc(1, sizeof(*entry));

	if (!entry)
		return NULL;
	entry->store = store;
	memcpy(entry->name, name, strlen(name) + 1); /* name_valid() bounds it */
	list_add(&store->entries, &entry->link);
	return entry;
}

static int copy_ids(unsigned n, char (*ids)[ID_SIZE], char (**ret)[ID_SIZE])
{
	*ret = NULL;
	if (!n)
		return 0;
	*ret = malloc(n * sizeof(**ret));
	if (!*ret)
		return -ENOMEM;
	memcpy(*ret, ids, n * sizeof(**ret));
	return 0;
}

static int entry_fill(struct published *entry, const struct snapshot_manifest *manifest, struct layer *disk)
{
	int rc = copy_ids(manifest->nsources, manifest->sources, &entry->sources);

	if (rc)
		return rc;
	entry->nsources = manifest->nsources;
	memcpy(entry->origin, manifest->origin, ID_SIZE);
	memcpy(entry->parent, manifest->parent_id, ID_SIZE);
	entry->disk = layer_ref(disk);
	disk->named++;
	return 0;
}

int catalogue_add(struct store *store, const char *name, const char *id,
		  const struct snapshot_manifest *manifest, struct layer *disk)
{
	struct published *entry = entry_new(store, name);
	int rc;

	if (!entry)
		return -ENOMEM;
	memcpy(entry->id, id, ID_SIZE);
	rc = entry_fill(entry, manifest, disk);
	if (rc)
		entry_free(entry);
	return rc;
}

static int read_link(struct store *store, const char *name, char ret_id[ID_SIZE], struct err *err)
{
	const size_t prefix = sizeof(link_prefix) - 1;
	char target[128];
	ssize_t n = readlinkat(store->snapshots_fd, name, target, sizeof(target) - 1);

	if (n < 0 && errno != EINVAL)
		return err_sys(err, -errno, "cannot read the link of snapshot %s", name);
	target[n < 0 ? 0 : n] = '\0';
	if (strncmp(target, link_prefix, prefix) != 0 || !id_valid(target + prefix, ""))
		return err_set(err, -EINVAL, "snapshot %s is not a link to an object", name);
	memcpy(ret_id, target + prefix, ID_SIZE);
	return 0;
}

int catalogue_manifest(struct store *store, const char *id, struct snapshot_manifest *ret, struct err *err)
{
	char path[ID_SIZE + sizeof("/manifest")];
	struct buf text = { 0 };
	int rc;

	snprintf(path, sizeof(path), "%s/manifest", id);
	rc = read_file_at(store->objects_fd, path, MANIFEST_MAX, &text);
	if (rc)
		rc = err_sys(err, err_shortage(rc) ? rc : -EIO, "cannot read the manifest of object %s (%s)",
			     id, strerror(-rc));
	else
		rc = snapshot_manifest_parse((char *)buf_bytes(&text), text.len, path, ret, err);
	buf_release(&text);
	return rc;
}

static int load_entry(struct published *entry, struct err *err)
{
	struct store *store = entry->store;
	struct snapshot_manifest manifest = { 0 };
	struct layer *disk = NULL;
	int rc = read_link(store, entry->name, entry->id, err);

	if (rc)
		return rc;
	rc = catalogue_manifest(store, entry->id, &manifest, err);
	if (rc)
		return rc;
	rc = layer_open(store, manifest.disk, &disk, err);
	if (!rc && entry_fill(entry, &manifest, disk))
		rc = err_set(err, -ENOMEM, "out of memory");
	for (struct layer *layer = disk; layer && !layer->sealed; layer = layer->base)
		layer->sealed = true;
	layer_unref(disk);
	snapshot_manifest_release(&manifest);
	return rc;
}

/* A boot snapshot can be made again: where one is damaged that must not keep garbage. */
static int drop_broken_boot(struct published *entry, struct err *err)
{
	struct store *store = entry->store;

	log_info("the boot snapshot %s cannot be used, and goes: %s", entry->name, entry->broken.text);
	if (unlinkat(store->snapshots_fd, entry->name, 0) && errno != ENOENT)
		return err_sys(err, -errno, "cannot remove the boot snapshot %s", entry->name);
	entry->broken = (struct err){ 0 };
	entry_free(entry);
	return 0;
}

int catalogue_load(struct store *store, struct err *err)
{
	DIR *dir = opendir_at(store->snapshots_fd, ".");
	struct dirent *found;
	struct published *entry;
	int rc = 0;

	if (!dir)
		return err_sys(err, -errno, "cannot list the snapshots");
	while (!rc && (errno = 0, found = readdir(dir))) {
		if (!name_valid(found->d_name) && !boot_name_valid(found->d_name) &&
		    !life_name_valid(found->d_name))
			continue;
		entry = entry_new(store, found->d_name);
		rc = entry ? load_entry(entry, &entry->broken) : err_set(err, -ENOMEM, "out of memory");
		if (!rc)
			continue;
		if (err_shortage(rc)) {
			if (entry && entry->broken.code)
				err_set(err, rc, "snapshot %s: %s", entry->name, entry->broken.text);
			if (entry)
				entry->broken = (struct err){ 0 };
			break;
		}
		if (boot_name_valid(entry->name)) {
			rc = drop_broken_boot(entry, err);
			continue;
		}
		store->broken++;
		log_warn("snapshot %s cannot be used: %s", entry->name, entry->broken.text);
		rc = 0;
	}
	if (!rc && errno)
		rc = err_sys(err, -errno, "cannot list the snapshots");
	closedir(dir);
	return rc;
}

void catalogue_release(struct store *store)
{
	struct published *entry;

	while ((entry = list_first(&store->entries, struct published, link)))
		entry_free(entry);
}

/* ---- objects nobody needs */

/* What the background needs to know to trim. */
struct trim {
	struct store *store;
	char id[ID_SIZE];
	unsigned nusers;
	char users[][ID_SIZE];
};

static void run_trim(void *arg)
{
	struct trim *trim = arg;
	struct err err = { 0 };

	if (!trim->store->sync_failed &&
	    trim_object(trim->store->objects_fd, trim->id, trim->nusers, trim->users, &err))
		log_warn("object %s keeps more than is needed of it: %s", trim->id, err.text);
	free(trim);
}

/* Later users refer to what the present ones do and to nothing else, since they can only learn of blocks from
 * them: so what the present ones need can be decided now and done whenever the background comes to it. */
static void trim_later(struct store *store, const char *id)
{
	struct published *entry;
	struct trim *trim;
	unsigned n = 0;

	list_for_each (entry, &store->entries, link)
		n += has_id(id, entry->nsources, entry->sources);
	trim = calloc(1, sizeof(*trim) + n * sizeof(trim->users[0]));
	if (!trim)
		return; /* the next start tries again */
	trim->store = store;
	memcpy(trim->id, id, ID_SIZE);
	list_for_each (entry, &store->entries, link)
		if (has_id(id, entry->nsources, entry->sources))
			memcpy(trim->users[trim->nusers++], entry->id, ID_SIZE);
	background_run(store->background, run_trim, trim);
}

static bool named(struct store *store, const char *id)
{
	struct published *entry;

	list_for_each (entry, &store->entries, link)
		if (!strcmp(entry->id, id))
			return true;
	return false;
}

/* Something that needed the object is gone: let go of what nothing needs now. */
static void settle(struct store *store, const char *id)
{
	if (!catalogue_complete(store) || pinned(store, id) || named(store, id))
		return;
	if (catalogue_needs(store, id))
		trim_later(store, id);
	else
		store_discard(store, store->objects_fd, id);
}

void catalogue_trim(struct store *store)
{
	struct published *entry, *before;

	list_for_each (entry, &store->entries, link) {
		for (unsigned i = 0; i < entry->nsources; i++) {
			bool seen = false;

			list_for_each (before, &store->entries, link) {
				if (before == entry)
					break;
				seen = seen || has_id(entry->sources[i], before->nsources, before->sources);
			}
			if (!seen)
				settle(store, entry->sources[i]);
		}
	}
}

int pin_init(struct pin *pin, struct store *store, const char *id, unsigned nsources,
	     char (*sources)[ID_SIZE])
{
	pin->ids = malloc((nsources + 1) * sizeof(*pin->ids));
	if (!pin->ids)
		return -ENOMEM;
	memcpy(pin->ids[0], id, ID_SIZE);
	if (nsources)
		memcpy(pin->ids + 1, sources, nsources * sizeof(*pin->ids));
	pin->nids = nsources + 1;
	list_add(&store->pins, &pin->link);
	return 0;
}

void pin_release(struct pin *pin, struct store *store)
{
	if (!pin->ids)
		return;
	list_del(&pin->link);
	for (unsigned i = 0; i < pin->nids; i++)
		settle(store, pin->ids[i]);
	free(pin->ids);
	*pin = (struct pin){ 0 };
}

/* ---- what users see */

int snapshot_list(struct store *store, void (*each)(void *arg, const char *name), void *arg)
{
	struct published *entry;

	list_for_each (entry, &store->entries, link)
		if (name_valid(entry->name))
			each(arg, entry->name);
	return 0;
}

void life_snapshot_list(struct store *store, void (*each)(void *arg, const char *name), void *arg)
{
	struct published *entry;

	list_for_each (entry, &store->entries, link)
		if (life_name_valid(entry->name))
			each(arg, entry->name);
}

void boot_snapshot_list(struct store *store, void (*each)(void *arg, const char *name), void *arg)
{
	struct published *entry;

	list_for_each (entry, &store->entries, link)
		if (boot_name_valid(entry->name))
			each(arg, entry->name);
}

static uint64_t file_size(struct store *store, const char *id, const char *name)
{
	char path[ID_SIZE + 16];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", id, name);
	return fstatat(store->objects_fd, path, &st, AT_SYMLINK_NOFOLLOW) ? 0 : (uint64_t)st.st_blocks * 512;
}

/* Whether any snapshot but this one needs the object. */
static bool needed_beside(struct published *entry, const char *id)
{
	struct published *other;

	list_for_each (other, &entry->store->entries, link)
		if (other != entry && (!strcmp(other->id, id) || has_id(id, other->nsources, other->sources)))
			return true;
	return false;
}

static void measure(struct published *entry, struct snapshot_meta *meta)
{
	uint64_t ram = file_size(entry->store, entry->id, "ram");
	uint64_t rest =
		file_size(entry->store, entry->id, "state") + file_size(entry->store, entry->id, "manifest");
	bool alone = true;

	meta->ram_stored = ram + rest;
	meta->own = rest + (needed_beside(entry, entry->id) ? 0 : ram);
	for (unsigned i = 0; i < entry->nsources; i++)
		if (!needed_beside(entry, entry->sources[i]))
			meta->own += file_size(entry->store, entry->sources[i], "ram");
	for (struct layer *layer = entry->disk; layer; layer = layer->base) {
		uint64_t stored = layer_stored(layer);

		/* Alone: nothing but the one above, and at the top this snapshot, keeps it. */
		alone = alone && !layer->raw && layer->children + layer->named <= 1;
		meta->disk_stored += stored;
		if (alone)
			meta->own += stored;
	}
}

static struct published *find(struct store *store, const char *name, struct err *err)
{
	struct published *entry = catalogue_find(store, name);

	if (!entry)
		err_set(err, -ENOENT, "there is no snapshot \"%.70s\"", name);
	return entry;
}

int snapshot_get(struct store *store, const char *name, struct snapshot_meta *ret, struct err *err)
{
	struct published *entry = find(store, name, err), *parent;
	struct snapshot_manifest manifest = { 0 };
	int rc;

	if (!entry)
		return -ENOENT;
	if (entry->broken.code)
		return err_set(err, entry->broken.code, "%s", entry->broken.text);
	rc = catalogue_manifest(store, entry->id, &manifest, err);
	if (rc)
		return rc;
	*ret = manifest.meta;
	free(manifest.sources);
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	parent = entry->parent[0] ? catalogue_find_origin(store, entry->parent) : NULL;
	snprintf(ret->parent, sizeof(ret->parent), "%s", parent ? parent->name : "");
	ret->ram_logical = manifest.ram_size;
	measure(entry, ret);
	return 0;
}

void snapshot_children(struct store *store, const char *name, void (*each)(void *arg, const char *name),
		       void *arg)
{
	struct published *parent = catalogue_find(store, name), *entry;

	if (!parent || !parent->origin[0])
		return;
	list_for_each (entry, &store->entries, link)
		if (!strcmp(entry->parent, parent->origin))
			each(arg, entry->name);
}

int snapshot_disk(struct store *store, const char *name, struct layer **ret, struct err *err)
{
	const struct published *entry = find(store, name, err);

	if (!entry)
		return -ENOENT;
	if (entry->broken.code)
		return err_set(err, entry->broken.code, "%s", entry->broken.text);
	*ret = layer_ref(entry->disk);
	return 0;
}

int snapshot_remove(struct store *store, const char *name, struct err *err)
{
	struct published *entry = find(store, name, err);
	struct pin pin = { 0 };

	if (!entry)
		return -ENOENT;
	if (entry->id[0] && pin_init(&pin, store, entry->id, entry->nsources, entry->sources))
		return err_set(err, -ENOMEM, "out of memory");
	if (unlinkat(store->snapshots_fd, name, 0) && errno != ENOENT) {
		int rc = err_sys(err, -errno, "cannot remove snapshot %s", name);

		pin_release(&pin, store);
		return rc;
	}
	store_sync_later(store, store->snapshots_fd);
	entry_free(entry);
	pin_release(&pin, store);
	return 0;
}

static bool name_reserved(struct store *store, const char *name)
{
	struct pin *pin;

	list_for_each (pin, &store->pins, link)
		if (pin->name && !strcmp(pin->name, name))
			return true;
	return false;
}

int catalogue_name_free(struct store *store, const char *name, struct err *err)
{
	if (!boot_name_valid(name) && !life_name_valid(name) && name_check(name, err))
		return -EINVAL;
	if (catalogue_find(store, name))
		return err_set(err, -EEXIST, "there is already a snapshot %s", name);
	if (name_reserved(store, name))
		return err_set(err, -EEXIST, "a snapshot %s is already being made", name);
	return 0;
}

int snapshot_rename(struct store *store, const char *from, const char *to, struct err *err)
{
	struct published *entry = find(store, from, err);
	int rc;

	if (!entry)
		return -ENOENT;
	rc = catalogue_name_free(store, to, err);
	if (rc)
		return rc;
	if (renameat2(store->snapshots_fd, from, store->snapshots_fd, to, RENAME_NOREPLACE))
		return err_sys(err, -errno, "cannot rename snapshot %s", from);
	store_sync_later(store, store->snapshots_fd);
	snprintf(entry->name, sizeof(entry->name), "%s", to);
	return 0;
}
