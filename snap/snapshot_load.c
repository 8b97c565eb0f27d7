/* SPDX-License-Identifier: MIT */
/*
 * snapshot_load.c - make a template of a snapshot, or just check it
 *
 * Both read the same things in the same order: the layers of the disk against their checksums, the device
 * state, the RAM. Loading leaves out layers that this process has checked before or has written itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/ramimage.h"
#include "snap/store_priv.h"
#include "snap/sums.h"
#include "util/io.h"

struct visit {
	struct store *store;
	struct progress *progress;
	char id[ID_SIZE];
	struct snapshot_manifest manifest;
	struct pin pin;
	struct layer *disk; /* a reference */
	unsigned nlayers;
	char (*layers)[LAYER_FILE_MAX]; /* to be checked */
	bool only_verify;
	int ram_fd, state_fd; /* memfds the worker made */
	struct err err;       /* the worker's */
};
static void visit_free(struct visit *visit)
{
	close_fd(&visit->ram_fd);
	close_fd(&visit->state_fd);
	layer_unref(visit->disk);
	pin_release(&visit->pin, visit->store);
	snapshot_manifest_release(&visit->manifest);
	free(visit->layers);
	free(visit);
}

static int list_layers(struct visit *visit, struct err *err)
{
	int rc = 0;

	for (struct layer *layer = visit->disk; layer && !rc; layer = layer->base)
		if (!layer->checked || visit->only_verify)
			rc = layer_names_add(&visit->layers, &visit->nlayers, layer, err);
	return rc;
}

/* Find out what is to be read; *visit has a store and nothing else. */
static int prepare(struct visit *visit, const char *name, struct err *err)
{
	struct store *store = visit->store;
	struct published *entry = catalogue_find(store, name);
	int rc;

	if (!entry)
		return err_set(err, -ENOENT, "there is no snapshot \"%.70s\"", name);
	if (entry->broken.code)
		return err_set(err, entry->broken.code, "%s", entry->broken.text);
	memcpy(visit->id, entry->id, ID_SIZE);
	rc = catalogue_manifest(store, entry->id, &visit->manifest, err);
	if (rc)
		return rc;
	if (strcmp(visit->manifest.disk, entry->disk->file) != 0)
		return err_set(err, -EIO, "the manifest of %s was changed", name);
	visit->disk = layer_ref(entry->disk);
	rc = list_layers(visit, err);
	if (!rc && pin_init(&visit->pin, store, entry->id, entry->nsources, entry->sources))
		rc = err_set(err, -ENOMEM, "out of memory");
	return rc;
}

static int begin(struct store *store, const char *name, bool only_verify, struct progress *progress,
		 struct visit **ret, struct err *err)
{
	struct visit *visit = calloc(1, sizeof(*visit));
	int rc;

	if (!visit)
		return err_set(err, -ENOMEM, "out of memory");
	visit->store = store;
	visit->progress = progress;
	visit->only_verify = only_verify;
	visit->ram_fd = visit->state_fd = -1;
	rc = prepare(visit, name, err);
	if (rc)
		visit_free(visit);
	else
		*ret = visit;
	return rc;
}

int snapshot_load_begin(struct store *store, const char *name, struct progress *progress, struct visit **ret,
			struct err *err)
{
	return begin(store, name, false, progress, ret, err);
}

int snapshot_verify_begin(struct store *store, const char *name, struct progress *progress,
			  struct visit **ret, struct err *err)
{
	return begin(store, name, true, progress, ret, err);
}

/* ---- on a worker */

static int open_object(struct visit *visit, const char *id, const char *file, char *ret_path, size_t size)
{
	int fd;

	snprintf(ret_path, size, "%s/%s", id, file);
	fd = openat(visit->store->objects_fd, ret_path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return err_sys(&visit->err, errno == ENOENT ? -EIO : -errno, "cannot open %s (%s)", ret_path,
			       strerror(errno));
	return fd;
}

static bool pinned(const struct visit *visit, const char *id)
{
	for (unsigned i = 0; i < visit->pin.nids; i++)
		if (!strcmp(visit->pin.ids[i], id))
			return true;
	return false;
}

static int visit_image(struct visit *visit, const char *file, uint64_t size, struct progress *progress,
		       int *ret_memfd)
{
	char path[ID_SIZE + 16], other[ID_SIZE + 16];
	struct ramimage_files files = { .fd = -1, .name = path };
	struct ramimage image = { 0 };
	int sources[RAMIMAGE_SOURCES_MAX];
	unsigned opened = 0;
	int rc;

	files.fd = open_object(visit, visit->id, file, path, sizeof(path));
	if (files.fd < 0)
		return files.fd;
	files.sources = sources;
	rc = ramimage_open(files.fd, path, &image, &visit->err);
	if (!rc && size && image.size != size)
		rc = err_set(&visit->err, -EIO, "%s does not have the size given in the manifest", path);
	while (!rc && opened < image.nsources) {
		/* What is not pinned might go any moment, and a manifest lists all. */
		if (!pinned(visit, image.sources[opened]))
			rc = err_set(&visit->err, -EINVAL,
				     "%s refers to object %s, which the manifest does not list", path,
				     image.sources[opened]);
		else if ((rc = open_object(visit, image.sources[opened], "ram", other, sizeof(other))) >= 0) {
			sources[opened++] = rc;
			rc = 0;
		}
	}
	if (!rc)
		rc = visit->only_verify ? ramimage_verify(&image, &files, progress, &visit->err)
					: ramimage_read(&image, &files, progress, ret_memfd, &visit->err);
	while (opened)
		close(sources[--opened]);
	ramimage_release(&image);
	close(files.fd);
	return rc;
}

int snapshot_visit_run(struct visit *visit)
{
	struct store *store = visit->store;
	int rc = 0;

	for (unsigned i = 0; !rc && i < visit->nlayers; i++)
		rc = sums_check(store->layers_fd, visit->layers[i], store->sums_fd, NULL, &visit->err);
	if (!rc)
		rc = visit_image(visit, "state", 0, NULL, &visit->state_fd);
	if (!rc)
		rc = visit_image(visit, "ram", visit->manifest.ram_size, visit->progress, &visit->ram_fd);
	return rc;
}

/* ---- and back on the loop */

static int visit_end(struct visit *visit, int result, struct err *err)
{
	struct layer *layer;

	if (result)
		return err_set(err, result, "%s", visit->err.text);
	for (layer = visit->disk; layer; layer = layer->base)
		layer->checked = true;
	return 0;
}

/* The template takes over what the visit made. NULL when out of memory. */
static struct template *visit_template(struct visit *visit)
{
	const struct snapshot_manifest *manifest = &visit->manifest;
	struct template *template = template_new();

	if (!template)
		return NULL;
	memcpy(template->engine, manifest->meta.engine, sizeof(template->engine));
	template->shape = manifest->meta.shape;
	template->ram_fd = visit->ram_fd;
	template->ram_size = manifest->ram_size;
	template->state_fd = visit->state_fd;
	template->disk = visit->disk;
	template->generation = manifest->generation;
	template->quiesced = (int)manifest->quiesced;
	template->pause_ns = manifest->meta.pause_ns;
	visit->ram_fd = visit->state_fd = -1;
	visit->disk = NULL;
	return template;
}

int snapshot_load_end(struct visit *visit, int result, struct template **ret, struct err *err)
{
	struct template *template = NULL;
	int rc = visit_end(visit, result, err);

	if (!rc) {
		template = visit_template(visit);
		if (template)
			*ret = template;
		else
			rc = err_set(err, -ENOMEM, "out of memory");
	}
	visit_free(visit);
	return rc;
}

int snapshot_verify_end(struct visit *visit, int result, struct err *err)
{
	int rc = visit_end(visit, result, err);

	visit_free(visit);
	return rc;
}
