/* SPDX-License-Identifier: MIT */
/* archive_layers.c - the layers that come with an archive, and their places in the store */
#include "snap/archive_layers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/id.h"
#include "snap/image.h"
#include "snap/qcow2/chain.h"
#include "snap/qcow2/create.h"
#include "snap/qcow2/header.h"
#include "snap/store_priv.h"
#include "snap/sums.h"
#include "util/io.h"

/* ---- on the loop */

/* Takes over the reference. */
static int hold(struct arrivals *arrivals, struct layer *layer)
{
	struct layer **more = realloc(arrivals->held, (arrivals->nheld + 1) * sizeof(struct layer *));

	if (!more) {
		layer_unref(layer);
		return -ENOMEM;
	}
	arrivals->held = more;
	more[arrivals->nheld++] = layer;
	return 0;
}

static int hold_image(void *arg, const char *file)
{
	struct arrivals *arrivals = arg;
	struct layer *layer;
	int rc = layer_open(arrivals->store, file, &layer, NULL);

	if (rc)
		return err_shortage(rc) ? rc : 0; /* a damaged image is no reason not to import */
	return hold(arrivals, layer);
}

int arrivals_hold(struct arrivals *arrivals, struct err *err)
{
	struct store *store = arrivals->store;
	int lock = image_lock(store->images_fd), rc = 0;
	struct layer *layer;

	if (lock < 0)
		return err_sys(err, lock, "cannot lock the images");
	list_for_each (layer, &store->layers, link)
		if (!rc && layer->frozen)
			rc = hold(arrivals, layer_ref(layer));
	/* Images that cannot be read hold nothing. */
	if (!rc)
		rc = image_layers(store->images_fd, hold_image, arrivals, NULL);
	close(lock);
	return err_shortage(rc) ? err_sys(err, rc, "cannot hold the layers of the store") : 0;
}

void arrivals_release(struct arrivals *arrivals)
{
	while (arrivals->nheld)
		layer_unref(arrivals->held[--arrivals->nheld]);
	free(arrivals->held);
	free(arrivals->layers);
	arrivals->held = NULL;
	arrivals->layers = NULL;
	arrivals->n = 0;
}

static void discard(struct arrivals *arrivals, const char *file)
{
	store_discard(arrivals->store, arrivals->store->layers_fd, file);
	store_discard(arrivals->store, arrivals->store->sums_fd, file);
}

void arrivals_trim(struct arrivals *arrivals)
{
	for (unsigned i = 0; i < arrivals->n; i++) {
		const struct arrival *layer = &arrivals->layers[i];

		if (layer->state == PLACED && !layer_find(arrivals->store, layer->file))
			discard(arrivals, layer->file);
	}
}

void arrivals_undo(struct arrivals *arrivals)
{
	for (unsigned i = 0; i < arrivals->n; i++) {
		const struct arrival *layer = &arrivals->layers[i];

		if (layer->state == PLACED)
			discard(arrivals, layer->file);
		else if (layer->state == ARRIVED)
			store_discard(arrivals->store, arrivals->store->tmp_fd, layer->file);
	}
}

/* ---- on a worker */

static const struct arrival *find(const struct arrivals *arrivals, const char *name)
{
	for (unsigned i = 0; i < arrivals->n; i++)
		if (!strcmp(arrivals->layers[i].name, name))
			return &arrivals->layers[i];
	return NULL;
}

int arrivals_add(struct arrivals *arrivals, const char *name, const char **ret_file, struct err *err)
{
	struct arrival *more, *layer;
	int rc;

	if (find(arrivals, name) || arrivals->n == QCOW2_CHAIN_MAX)
		return err_set(err, -EINVAL, "the archive has layer %s twice, or more than %d layers", name,
			       QCOW2_CHAIN_MAX);
	more = realloc(arrivals->layers, (arrivals->n + 1) * sizeof(*more));
	if (!more)
		return err_set(err, -ENOMEM, "out of memory");
	arrivals->layers = more;
	layer = &more[arrivals->n];
	*layer = (struct arrival){ .state = ARRIVED };
	rc = id_make(layer->file);
	if (rc)
		return err_sys(err, rc, "cannot name a layer");
	memcpy(layer->name, name, strlen(name) + 1); /* it is ID.raw or ID.qcow2 */
	memcpy(layer->file + ID_LEN, name + ID_LEN, strlen(name + ID_LEN) + 1);
	arrivals->n++;
	*ret_file = layer->file;
	return 0;
}

static bool is_held(const struct arrivals *arrivals, const char *file)
{
	for (unsigned i = 0; i < arrivals->nheld; i++)
		if (!strcmp(arrivals->held[i]->file, file))
			return true;
	return false;
}

static bool same_content(int one, int two)
{
	enum { CHUNK = 256 * 1024 };
	uint8_t *chunks = malloc(2 * CHUNK);
	struct stat st[2];
	uint64_t at, n;
	bool same = chunks && !fstat(one, &st[0]) && !fstat(two, &st[1]) && S_ISREG(st[1].st_mode) &&
		    st[0].st_size == st[1].st_size;

	for (at = 0; same && at < (uint64_t)st[0].st_size; at += n) {
		n = (uint64_t)st[0].st_size - at < CHUNK ? (uint64_t)st[0].st_size - at : CHUNK;
		same = !pread_all(one, chunks, n, at) && !pread_all(two, chunks + CHUNK, n, at) &&
		       !memcmp(chunks, chunks + CHUNK, n);
	}
	free(chunks);
	return same;
}

/*
 * Whether the store has the very layer that came in fd. One that is not held is a machine's present disk, or
 * about to be deleted; a raw one stays all the same, since gc alone removes those, and stands still.
 */
static bool is_there(const struct arrivals *arrivals, const char *name, int fd)
{
	int there;
	bool same;

	if (!is_held(arrivals, name) && !id_valid(name, ".raw"))
		return false;
	there = openat(arrivals->store->layers_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	same = there >= 0 && same_content(fd, there);
	if (there >= 0)
		close(there);
	return same;
}

static bool in_chain(const struct chain *chain, const char *file)
{
	for (unsigned i = 0; chain && i < chain_length(chain); i++)
		if (!strcmp(chain_file(chain, i), file))
			return true;
	return false;
}

/* What the archive calls `name`, in this store. NULL: nothing it may use. */
static const char *name_here(const struct arrivals *arrivals, const struct chain *base, const char *name)
{
	const struct arrival *layer = find(arrivals, name);

	if (layer)
		return layer->state == ARRIVED ? NULL : layer->file; /* one cannot stand on a later one */
	return in_chain(base, name) ? name : NULL;
}

/* A layer of the base's is built on: is it what the archive was made with? */
static int check_base(struct arrivals *arrivals, const char *file, struct err *err)
{
	char here[DIGEST_TEXT];
	int rc;

	if (!strcmp(arrivals->base_checked, file))
		return 0;
	if (!arrivals->base_digest[0])
		return err_set(err, -EINVAL,
			       "the archive does not say what is in layer %s, which it builds on", file);
	rc = digest_disk(arrivals->store->layers_fd, file, here, err);
	if (!rc && strcmp(here, arrivals->base_digest) != 0)
		rc = err_set(
			err, -EIO,
			"layer %s of the archive's base is not the one that it was made with: its content is "
			"another",
			file);
	if (!rc)
		snprintf(arrivals->base_checked, sizeof(arrivals->base_checked), "%s", file);
	return rc;
}

/* What came stands on what came before, or on the base, which is looked at then. */
static int check_below(struct arrivals *arrivals, const char *name, const char *here, struct err *err)
{
	return find(arrivals, name) ? 0 : check_base(arrivals, here, err);
}

/* Check what an arrived file says, and have it stand on what its base is called here. */
static int stand(struct arrivals *arrivals, const struct arrival *layer, int fd, uint64_t size,
		 const struct chain *base, bool *ret_changed, struct err *err)
{
	struct qcow2_info info;
	const char *below;
	int rc = qcow2_inspect(fd, id_valid(layer->name, ".raw"), &info, err);

	if (rc) {
		err_prefix(err, "layer %s", layer->name);
		return rc;
	}
	if (info.size != size)
		return err_set(err, -EINVAL, "layer %s does not have the disk's size given in the manifest",
			       layer->name);
	*ret_changed = false;
	if (!info.backing[0])
		return 0;
	below = name_here(arrivals, base, info.backing);
	if (!below)
		return err_set(err, -EINVAL, "layer %s builds on %s, which is not one the archive may use",
			       layer->name, info.backing);
	rc = check_below(arrivals, info.backing, below, err);
	if (rc)
		return rc;
	*ret_changed = strcmp(below, info.backing) != 0;
	return *ret_changed ? qcow2_rename_backing(fd, below, err) : 0;
}

/* Into layers/, under its name in the archive if that is free. */
static int move_in(struct arrivals *arrivals, struct arrival *layer, struct err *err)
{
	const struct store *store = arrivals->store;
	int rc = renameat2(store->tmp_fd, layer->file, store->layers_fd, layer->name, RENAME_NOREPLACE);

	if (!rc)
		memcpy(layer->file, layer->name, LAYER_FILE_MAX);
	else if (errno == EEXIST)
		rc = renameat2(store->tmp_fd, layer->file, store->layers_fd, layer->file, RENAME_NOREPLACE);
	if (rc)
		return err_sys(err, -errno, "cannot put layer %s in its place", layer->name);
	layer->state = PLACED;
	return sums_write(store->layers_fd, layer->file, store->sums_fd, store->tmp_fd, err);
}

static int place(struct arrivals *arrivals, struct arrival *layer, uint64_t size, const struct chain *base,
		 struct err *err)
{
	const struct store *store = arrivals->store;
	int fd = openat(store->tmp_fd, layer->file, O_RDWR | O_NOFOLLOW | O_CLOEXEC), rc;
	bool changed;

	if (fd < 0)
		return err_sys(err, -errno, "cannot open layer %s", layer->name);
	rc = stand(arrivals, layer, fd, size, base, &changed, err);
	if (!rc && !changed && is_there(arrivals, layer->name, fd)) {
		unlinkat(store->tmp_fd, layer->file, 0);
		memcpy(layer->file, layer->name, LAYER_FILE_MAX);
		layer->state = SHARED;
	} else if (!rc) {
		rc = move_in(arrivals, layer, err);
	}
	close(fd);
	return rc;
}

/* The disk is a chain of layers, each fit for the one above it, and all have checksums. */
static int check(struct arrivals *arrivals, const char *disk, struct err *err)
{
	struct store *store = arrivals->store;
	struct chain *chain;
	int rc = chain_open(store->layers_fd, disk, false, &chain, err);

	if (rc)
		return rc;
	for (unsigned i = 0; !rc && i < chain_length(chain); i++) {
		const char *file = chain_file(chain, i);

		if (faccessat(store->sums_fd, file, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
			rc = sums_write(store->layers_fd, file, store->sums_fd, store->tmp_fd, err);
	}
	chain_free(chain);
	if (!rc && (fsync(store->layers_fd) < 0 || fsync(store->sums_fd) < 0))
		rc = err_sys(err, -errno, "cannot sync the layers");
	return rc;
}

int arrivals_place(struct arrivals *arrivals, uint64_t size, const char *base_disk, char disk[LAYER_FILE_MAX],
		   struct err *err)
{
	struct chain *base = NULL;
	const char *here;
	int rc = 0;

	if (base_disk[0])
		rc = chain_open(arrivals->store->layers_fd, base_disk, false, &base, err);
	if (!rc && base && chain_size(base) != size)
		rc = err_set(err, -EINVAL, "the disk of the archive's base has another size");
	for (unsigned i = 0; !rc && i < arrivals->n; i++)
		rc = place(arrivals, &arrivals->layers[i], size, base, err);
	if (!rc) {
		here = name_here(arrivals, base, disk);
		if (here)
			rc = check_below(arrivals, disk, here, err);
		if (here)
			memmove(disk, here, strlen(here) + 1);
		else
			rc = err_set(err, -EINVAL, "disk %s is not one the archive may use", disk);
	}
	if (!rc)
		rc = check(arrivals, disk, err);
	chain_free(base);
	return rc;
}
