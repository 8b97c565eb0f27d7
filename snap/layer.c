/* SPDX-License-Identifier: MIT */
/*
 * layer.c - disk layers: qcow2 files that build on each other
 *
 * The table of layers holds those that something refers to: a published snapshot, a template, a machine, or a
 * layer above. A layer leaves it with its last reference, and then its file is deleted in the background. The
 * exception is a raw layer, the disk of an image: images come and go beside a running daemon, so only gc,
 * which looks at all images under a lock, removes those.
 *
 * Files found on disk are untrusted: a layer is opened only with a name of ours, and only on a backing file
 * with a name of ours and a stated format, so no layer leads out of its directory.
 */
#include "snap/layer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "snap/qcow2/create.h"
#include "snap/qcow2/header.h"
#include "snap/store_priv.h"

static struct layer *layer_new(struct store *store, const char *file, struct layer *base)
{
	size_t size = strlen(store->dir) + sizeof("/layers/") + strlen(file);
	struct layer *layer = calloc(1, sizeof(*layer) + size);

	if (!layer)
		return NULL;
	layer->refs = 1;
	layer->store = store;
	memcpy(layer->id, file, ID_LEN);
	layer->raw = !strcmp(file + ID_LEN, ".raw");
	snprintf(layer->file, sizeof(layer->file), "%s", file);
	snprintf(layer->path, size, "%s/layers/%s", store->dir, file);
	if (base) {
		layer->base = layer_ref(base);
		base->children++;
	}
	list_add(&store->layers, &layer->link);
	return layer;
}

struct layer *layer_find(struct store *store, const char *file)
{
	struct layer *layer;

	list_for_each (layer, &store->layers, link)
		if (!strcmp(layer->file, file))
			return layer;
	return NULL;
}

int layer_names_add(char (**names)[LAYER_FILE_MAX], unsigned *n, const struct layer *layer, struct err *err)
{
	char(*more)[LAYER_FILE_MAX] = realloc(*names, (*n + 1) * sizeof(*more));

	if (!more)
		return err_set(err, -ENOMEM, "out of memory");
	*names = more;
	memcpy(more[(*n)++], layer->file, LAYER_FILE_MAX);
	return 0;
}

/* What the file itself says: its size and the name of its base. */
static int inspect(struct store *store, const char *file, struct qcow2_info *ret, struct err *err)
{
	const bool raw = id_valid(file, ".raw");
	int fd, rc;

	if (!raw && !id_valid(file, ".qcow2"))
		return err_set(err, -EINVAL, "\"%.80s\" is not the name of a layer", file);
	fd = qcow2_open_file(store->layers_fd, file, false, err);
	if (fd < 0)
		return fd;
	rc = qcow2_inspect(fd, raw, ret, err);
	if (rc) {
		err_prefix(err, "layer %s is damaged", file);
		rc = rc == -EINVAL ? -EIO : rc; /* it was ours once */
	}
	close(fd);
	return rc;
}

int layer_open(struct store *store, const char *file, struct layer **ret, struct err *err)
{
	struct {
		char file[LAYER_FILE_MAX];
		uint64_t size;
	} *found = NULL;
	struct layer *layer = NULL, *known;
	char next[QCOW2_NAME_MAX + 1];
	unsigned n = 0;
	int rc = 0;

	/* Down to the first layer that is in the table, or to the bottom... */
	snprintf(next, sizeof(next), "%s", file);
	for (;;) {
		struct qcow2_info info = { 0 };
		void *more;

		known = layer_find(store, next);
		if (n + (known ? layer_depth(known) + 1 : 1) > QCOW2_CHAIN_MAX) {
			rc = err_set(err, -EINVAL, "layer %s has more than %d layers below it", file,
				     QCOW2_CHAIN_MAX - 1);
			goto out;
		}
		if (known)
			break;
		rc = inspect(store, next, &info, err);
		if (!rc && n && info.size != found[0].size)
			rc = err_set(err, -EINVAL, "layer %s does not have the size of the disk above it",
				     next);
		if (rc)
			goto out;
		more = realloc(found, (n + 1) * sizeof(*found));
		if (!more) {
			rc = err_set(err, -ENOMEM, "out of memory");
			goto out;
		}
		found = more;
		memcpy(found[n].file, next, strlen(next) + 1); /* inspect() knows the name as ours */
		found[n++].size = info.size;
		if (!info.backing[0])
			break;
		snprintf(next, sizeof(next), "%s", info.backing);
	}
	if (known && n && known->size != found[0].size) {
		rc = err_set(err, -EINVAL, "layer %s does not have the size of the disk above it", next);
		goto out;
	}
	/* ...and up again. */
	if (known)
		layer = layer_ref(known);
	while (n--) {
		struct layer *top = layer_new(store, found[n].file, layer);

		layer_unref(layer);
		layer = top;
		if (!layer) {
			rc = err_set(err, -ENOMEM, "out of memory");
			goto out;
		}
		layer->size = found[n].size;
		layer->frozen = true;
	}
	*ret = layer;
out:
	free(found);
	return rc;
}

int layer_overlay(struct store *store, struct layer *base, struct layer **ret, struct err *err)
{
	if (!base->frozen)
		return err_set(err, -EBUSY, "layer %s is still being written", base->id);
	return layer_next(store, base, ret, err);
}

int layer_next(struct store *store, struct layer *base, struct layer **ret, struct err *err)
{
	char file[LAYER_FILE_MAX];
	struct layer *layer;
	int fd, rc;

	if (layer_depth(base) + 2 > QCOW2_CHAIN_MAX)
		return err_set(err, -EBUSY,
			       "layer %s has %u layers below it, and takes none before they are merged",
			       base->id, layer_depth(base));
	rc = id_make(file);
	if (rc)
		return err_sys(err, rc, "cannot name a layer");
	snprintf(file + ID_LEN, sizeof(file) - ID_LEN, ".qcow2");
	fd = openat(store->layers_fd, file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(err, -errno, "cannot create layer %s", file);
	rc = qcow2_create_overlay(fd, base->size, base->file, err);
	close(fd);
	if (rc)
		goto fail;
	layer = layer_new(store, file, base);
	if (!layer) {
		rc = err_set(err, -ENOMEM, "out of memory");
		goto fail;
	}
	layer->size = base->size;
	layer->checked = true;
	*ret = layer;
	return 0;
fail:
	unlinkat(store->layers_fd, file, 0);
	return rc;
}

void layer_freeze(struct layer *layer)
{
	layer->frozen = true;
}

struct layer *layer_ref(struct layer *layer)
{
	layer->refs++;
	return layer;
}

void layer_unref(struct layer *layer)
{
	while (layer && !--layer->refs) {
		struct layer *base = layer->base;
		struct store *store = layer->store;

		/* As long as a snapshot cannot be read, it may need any layer that a snapshot could. */
		if (!layer->raw && !store->keep_files && (!layer->frozen || catalogue_complete(store))) {
			store_discard(store, store->layers_fd, layer->file);
			if (layer->sealed)
				store_discard(store, store->sums_fd, layer->file);
		}
		layer_unref(layer->former);
		list_del(&layer->link);
		free(layer);
		if (base)
			base->children--;
		layer = base;
	}
}

const char *layer_path(const struct layer *layer)
{
	return layer->path;
}

struct layer *layer_base(const struct layer *layer)
{
	return layer->base;
}

bool layer_frozen(const struct layer *layer)
{
	return layer->frozen;
}

uint64_t layer_virtual_size(const struct layer *layer)
{
	return layer->size;
}

uint64_t layer_stored(const struct layer *layer)
{
	struct stat st;

	if (fstatat(layer->store->layers_fd, layer->file, &st, 0))
		return 0;
	return (uint64_t)st.st_blocks * 512;
}

unsigned layer_depth(const struct layer *layer)
{
	unsigned depth = 0;

	for (layer = layer->base; layer; layer = layer->base)
		depth++;
	return depth;
}
