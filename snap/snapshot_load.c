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

/* One under way. `load` and `verify` of store.h are this. */
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
struct load {
	struct visit visit;
};
struct verify {
	struct visit visit;
};

static void visit_release(struct visit *visit)
{
	if (visit->ram_fd >= 0)
		close(visit->ram_fd);
	if (visit->state_fd >= 0)
		close(visit->state_fd);
	layer_unref(visit->disk);
	pin_release(&visit->pin, visit->store);
	snapshot_manifest_release(&visit->manifest);
	free(visit->layers);
}

static int list_layers(struct visit *visit, struct err *err)
{
	for (struct layer *layer = visit->disk; layer; layer = layer->base) {
		char(*more)[LAYER_FILE_MAX];

		if (layer->checked && !visit->only_verify)
			continue;
		more = realloc(visit->layers, (visit->nlayers + 1) * sizeof(*more));
		if (!more)
			return err_set(err, -ENOMEM, "out of memory");
		visit->layers = more;
		memcpy(more[visit->nlayers++], layer->file, LAYER_FILE_MAX);
	}
	return 0;
}

static int visit_begin(struct visit *visit, struct store *store, const char *name, struct progress *progress,
		       struct err *err)
{
	struct published *entry = catalogue_find(store, name);
	int rc;

	*visit = (struct visit){ .store = store,
				 .progress = progress,
				 .ram_fd = -1,
				 .state_fd = -1,
				 .only_verify = visit->only_verify };
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

static int visit_run(struct visit *visit)
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

int snapshot_load_begin(struct store *store, const char *name, struct progress *progress, struct load **ret,
			struct err *err)
{
	struct load *load = calloc(1, sizeof(*load));
	int rc;

	if (!load)
		return err_set(err, -ENOMEM, "out of memory");
	rc = visit_begin(&load->visit, store, name, progress, err);
	if (rc) {
		visit_release(&load->visit);
		free(load);
		return rc;
	}
	*ret = load;
	return 0;
}

int snapshot_load_run(struct load *load)
{
	return visit_run(&load->visit);
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

int snapshot_load_end(struct load *load, int result, struct template **ret, struct err *err)
{
	struct template *template = NULL;
	int rc = visit_end(&load->visit, result, err);

	if (!rc) {
		template = visit_template(&load->visit);
		if (template)
			*ret = template;
		else
			rc = err_set(err, -ENOMEM, "out of memory");
	}
	visit_release(&load->visit);
	free(load);
	return rc;
}

int snapshot_verify_begin(struct store *store, const char *name, struct progress *progress,
			  struct verify **ret, struct err *err)
{
	struct verify *verify = calloc(1, sizeof(*verify));
	int rc;

	if (!verify)
		return err_set(err, -ENOMEM, "out of memory");
	verify->visit.only_verify = true;
	rc = visit_begin(&verify->visit, store, name, progress, err);
	if (rc) {
		visit_release(&verify->visit);
		free(verify);
		return rc;
	}
	*ret = verify;
	return 0;
}

int snapshot_verify_run(struct verify *verify)
{
	return visit_run(&verify->visit);
}

int snapshot_verify_end(struct verify *verify, int result, struct err *err)
{
	int rc = visit_end(&verify->visit, result, err);

	visit_release(&verify->visit);
	free(verify);
	return rc;
}
