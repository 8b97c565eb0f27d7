/* SPDX-License-Identifier: MIT */
/*
 * snapshot_save.c - publish a template under a name
 *
 * The worker writes an object under tmp/, syncs it and what it stands on (its layers, their checksums), moves
 * it to objects/, and then makes the name, which is one step. A crash before that step leaves an
 * object that no name leads to, and the next start removes it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/manifest.h"
#include "snap/ramimage.h"
#include "snap/store_priv.h"
#include "snap/sums.h"
#include "util/io.h"

struct save {
	struct store *store;
	struct template *template;
	struct progress *progress;
	char name[STORE_NAME_MAX + 1];
	char id[ID_SIZE];
	struct snapshot_manifest manifest;
	struct pin pin;              /* the name, and the new object */
	char parent_object[ID_SIZE]; /* "" or where the parent's RAM image is */
	struct pin parent_pin;       /* what the parent's RAM image may lead to */
	unsigned nlayers;
	char (*layers)[LAYER_FILE_MAX]; /* that have no checksums yet */
	bool linked;                    /* the worker made the name */
	struct err err;                 /* the worker's */
};

static void save_free(struct save *save)
{
	pin_release(&save->pin, save->store);
	pin_release(&save->parent_pin, save->store);
	template_unref(save->template);
	snapshot_manifest_release(&save->manifest);
	free(save->layers);
	free(save);
}

static int copy_text(const struct buf *from, struct buf *to, struct err *err)
{
	if (!from->len)
		return 0;
	buf_add(to, buf_bytes(from), from->len);
	return to->failed ? err_set(err, -ENOMEM, "out of memory") : 0;
}

static int fill_manifest(struct save *save, const struct snapshot_meta *meta, struct err *err)
{
	struct snapshot_manifest *manifest = &save->manifest;
	const struct template *template = save->template;
	struct published *parent;
	int rc;

	manifest->meta = *meta;
	manifest->meta.env = (struct buf){ 0 };
	manifest->meta.requires = (struct buf){ 0 };
	manifest->meta.net = (struct buf){ 0 };
	manifest->meta.record = (struct buf){ 0 };
	if (meta->requires.len && memchr(buf_bytes(&meta->requires), '\0', meta->requires.len))
		return err_set(err, -EINVAL, "requires contains a NUL byte");
	rc = copy_text(&meta->env, &manifest->meta.env, err);
	if (!rc)
		rc = copy_text(&meta->requires, &manifest->meta.requires, err);
	if (!rc)
		rc = copy_text(&meta->net, &manifest->meta.net, err);
	if (!rc)
		rc = copy_text(&meta->record, &manifest->meta.record, err);
	if (rc)
		return rc;
	memcpy(manifest->meta.engine, template->engine, sizeof(manifest->meta.engine));
	manifest->meta.shape = template->shape;
	manifest->meta.pause_ns = template->pause_ns;
	manifest->meta.disk_logical = layer_virtual_size(template->disk);
	memcpy(manifest->disk, template->disk->file, sizeof(manifest->disk));
	memcpy(manifest->origin, save->id, sizeof(manifest->origin));
	manifest->ram_size = template->ram_size;
	manifest->generation = template->generation;
	manifest->quiesced = template->quiesced != 0;

	parent = meta->parent[0] ? catalogue_find(save->store, meta->parent) : NULL;
	if (!parent || parent->broken.code)
		return 0;
	memcpy(manifest->parent_id, parent->origin, ID_SIZE);
	memcpy(save->parent_object, parent->id, ID_SIZE);
	if (pin_init(&save->parent_pin, save->store, parent->id, parent->nsources, parent->sources))
		return err_set(err, -ENOMEM, "out of memory");
	return 0;
}

/* The layers that go to disk for good with this snapshot. */
static int list_layers(struct save *save, struct err *err)
{
	struct layer *layer;
	int rc = 0;

	for (layer = save->template->disk; layer && !layer->sealed && !rc; layer = layer->base)
		rc = layer_names_add(&save->layers, &save->nlayers, layer, err);
	return rc;
}

int snapshot_save_begin(struct store *store, const struct snapshot_meta *meta, struct template *template,
			struct progress *progress, struct save **ret, struct err *err)
{
	struct save *save;
	int rc = catalogue_name_free(store, meta->name, err);

	if (rc)
		return rc;
	if (!template->disk || !layer_frozen(template->disk))
		return err_set(err, -EINVAL, "only a machine with a frozen disk can be saved");
	save = calloc(1, sizeof(*save));
	if (!save)
		return err_set(err, -ENOMEM, "out of memory");
	save->store = store;
	save->template = template_ref(template);
	save->progress = progress;
	memcpy(save->name, meta->name, strlen(meta->name) + 1);
	rc = id_make(save->id);
	if (rc)
		err_sys(err, rc, "cannot name an object");
	if (!rc)
		rc = fill_manifest(save, meta, err);
	if (!rc)
		rc = list_layers(save, err);
	if (!rc && pin_init(&save->pin, store, save->id, 0, NULL))
		rc = err_set(err, -ENOMEM, "out of memory");
	if (rc) {
		save_free(save);
		return rc;
	}
	save->pin.name = save->name;
	*ret = save;
	return 0;
}

/* ---- on a worker */

static int write_image(int dir_fd, const char *name, const struct ramimage_content *content,
		       const struct ramimage *parent, const char *parent_id, struct progress *progress,
		       struct ramimage *ret, struct err *err)
{
	int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int rc;

	if (fd < 0)
		return err_sys(err, -errno, "cannot create the file %s of a snapshot", name);
	rc = ramimage_write(content, parent, parent_id, fd, progress, ret, err);
	if (!rc && fsync(fd)) {
		rc = err_sys(err, -errno, "cannot write the file %s of a snapshot", name);
		ramimage_release(ret);
	}
	close(fd);
	return rc;
}

/* The parent's index; without one, because it is damaged for example, the snapshot just stands on its own. */
static bool open_parent(struct save *save, struct ramimage *ret)
{
	const char *id = save->parent_object;
	char path[ID_SIZE + sizeof("/ram")];
	int fd;
	bool ok;

	if (!id[0])
		return false;
	snprintf(path, sizeof(path), "%s/ram", id);
	fd = openat(save->store->objects_fd, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return false;
	ok = !ramimage_open(fd, path, ret, NULL);
	close(fd);
	/* Only what the manifest lists is pinned. */
	for (unsigned i = 0; ok && i < ret->nsources; i++) {
		unsigned j = 0;

		while (j < save->parent_pin.nids && strcmp(save->parent_pin.ids[j], ret->sources[i]) != 0)
			j++;
		ok = j < save->parent_pin.nids;
	}
	return ok;
}

/* The map of a template that has a base; *ret is the caller's to free. */
static int read_map(const struct template *template, uint8_t **ret, struct err *err)
{
	const size_t n = (size_t)template_map_size(template->ram_size);
	int rc;

	*ret = malloc(n);
	if (!*ret)
		return err_set(err, -ENOMEM, "out of memory");
	rc = pread_all(template->map_fd, *ret, n, 0);
	return rc ? err_sys(err, rc, "cannot read the map of the captured RAM") : 0;
}

static int write_ram(struct save *save, int dir_fd)
{
	const struct template *template = save->template;
	struct ramimage_content content = { .memfd = template->ram_fd,
					    .over_fd = -1,
					    .size = template->ram_size };
	struct ramimage parent = { 0 }, image = { 0 };
	const bool has_parent = open_parent(save, &parent);
	uint8_t *map = NULL;
	int rc = 0;

	if (template->base) {
		rc = read_map(template, &map, &save->err);
		content.memfd = template->base->ram_fd;
		content.over_fd = template->ram_fd;
		content.map = map;
	}
	if (!rc)
		rc = write_image(dir_fd, "ram", &content, has_parent ? &parent : NULL, save->parent_object,
				 save->progress, &image, &save->err);
	free(map);
	if (!rc) {
		save->manifest.nsources = image.nsources;
		save->manifest.sources = image.sources;
		image.sources = NULL;
	}
	ramimage_release(&image);
	ramimage_release(&parent);
	return rc;
}

static int write_state(struct save *save, int dir_fd)
{
	struct ramimage_content content = { .memfd = save->template->state_fd, .over_fd = -1 };
	struct ramimage image;
	struct stat st;
	int rc;

	if (fstat(content.memfd, &st))
		return err_sys(&save->err, -errno, "cannot read the machine's state");
	content.size = (uint64_t)st.st_size;
	rc = write_image(dir_fd, "state", &content, NULL, NULL, NULL, &image, &save->err);
	if (!rc)
		ramimage_release(&image);
	return rc;
}

static int write_manifest(struct save *save, int dir_fd)
{
	struct buf text = { 0 };
	int rc;

	snapshot_manifest_encode(&save->manifest, &text);
	if (text.failed)
		rc = err_set(&save->err, -ENOMEM, "out of memory");
	else if (text.len > MANIFEST_MAX)
		rc = err_set(&save->err, -E2BIG, "the environment is too large to be saved");
	else if ((rc = write_file_at(dir_fd, "manifest", buf_bytes(&text), text.len)))
		err_sys(&save->err, rc, "cannot write the manifest");
	buf_release(&text);
	return rc;
}

static int sync_layers(struct save *save)
{
	struct store *store = save->store;
	int rc = 0;

	for (unsigned i = 0; !rc && i < save->nlayers; i++)
		rc = sums_write(store->layers_fd, save->layers[i], store->sums_fd, store->tmp_fd, &save->err);
	if (!rc && (fsync(store->layers_fd) || fsync(store->sums_fd)))
		rc = err_sys(&save->err, -errno, "cannot sync the layers");
	return rc;
}

static int write_object(struct save *save)
{
	struct store *store = save->store;
	int dir_fd, rc;

	dir_fd = open_dir_at(store->tmp_fd, save->id);
	if (dir_fd < 0)
		return err_sys(&save->err, dir_fd, "cannot create a directory for the snapshot");
	rc = write_ram(save, dir_fd);
	if (!rc)
		rc = write_state(save, dir_fd);
	if (!rc)
		rc = write_manifest(save, dir_fd);
	if (!rc)
		rc = owner_write(dir_fd, "owner", &save->manifest.meta.owner, &save->err);
	if (!rc && save->manifest.meta.record.len)
		rc = record_write(dir_fd, &save->manifest.meta.record, &save->err);
	if (!rc && fsync(dir_fd))
		rc = err_sys(&save->err, -errno, "cannot sync the snapshot");
	close(dir_fd);
	return rc;
}

int object_publish(struct store *store, const char *id, const char *name, bool *ret_linked, struct err *err)
{
	char target[sizeof("../objects/") + ID_SIZE];

	if (renameat(store->tmp_fd, id, store->objects_fd, id) || fsync(store->objects_fd))
		return err_sys(err, -errno, "cannot put the snapshot in its place");
	snprintf(target, sizeof(target), "../objects/%s", id);
	if (symlinkat(target, store->snapshots_fd, name))
		return err_sys(err, -errno, "cannot name the snapshot %s", name);
	*ret_linked = true;
	if (fsync(store->snapshots_fd))
		return err_sys(err, -errno, "cannot sync the name of snapshot %s", name);
	return 0;
}

int snapshot_save_run(struct save *save)
{
	int rc = sync_layers(save);

	if (!rc)
		rc = write_object(save);
	if (!rc)
		rc = object_publish(save->store, save->id, save->name, &save->linked, &save->err);
	if (rc)
		remove_tree_at(save->store->tmp_fd, save->id);
	return rc;
}

/* ---- and back on the loop */

int snapshot_save_end(struct save *save, int result, struct err *err)
{
	struct store *store = save->store;
	int rc = result;

	if (rc)
		err_set(err, rc, "%s", save->err.text);
	for (struct layer *layer = save->template->disk; !rc && layer && !layer->sealed; layer = layer->base)
		layer->sealed = true;
	if (!rc && catalogue_add(store, save->name, save->id, &save->manifest, save->template->disk))
		rc = err_set(err, -ENOMEM, "out of memory");
	if (rc && save->linked) {
		unlinkat(store->snapshots_fd, save->name, 0);
		store_sync_later(store, store->snapshots_fd);
	}
	save_free(save);
	return rc;
}
