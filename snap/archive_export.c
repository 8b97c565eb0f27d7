/* SPDX-License-Identifier: MIT */
/*
 * archive_export.c - write a snapshot as one stream
 *
 * Everything is checked on its way out, so that damage is found here and not on another host. RAM blocks
 * travel as they are stored, compressed; a snapshot that refers to blocks of others gets a new index, in
 * which it stands alone (or on its base), so the sizes of all files are known before the first byte is
 * written.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "snap/archive_priv.h"
#include "snap/archive_transfer.h"
#include "snap/digest.h"
#include "snap/manifest.h"
#include "snap/member.h"
#include "snap/ramimage.h"
#include "snap/store_priv.h"
#include "snap/sums.h"
#include "util/io.h"
#include "util/zero.h"

struct export
{
	struct store *store;
	struct progress *progress;
	char id[ID_SIZE];
	struct snapshot_manifest manifest;
	struct pin pin;
	struct layer *disk; /* a reference: keeps all below */
	unsigned nlayers;
	char(*layers)[LAYER_FILE_MAX]; /* to be sent, the topmost first */
	char base[ID_SIZE];            /* object it builds on, or "" */
	char base_origin[ID_SIZE];
	char common[LAYER_FILE_MAX]; /* the layer of the base that those to be sent stand on, or "" */
	struct pin base_pin;
	uint64_t done, total; /* bytes of files, for progress */
	struct err err;       /* the worker's */
};

static void export_free(struct export *export)
{
	pin_release(&export->pin, export->store);
	pin_release(&export->base_pin, export->store);
	layer_unref(export->disk);
	snapshot_manifest_release(&export->manifest);
	free(export->layers);
	free(export);
}

static bool in_chain(const struct layer *layer, const struct layer *top)
{
	for (; top; top = top->base)
		if (top == layer)
			return true;
	return false;
}

static int list_layers(struct export *export, const struct layer *base_disk, struct err *err)
{
	struct layer *layer = export->disk;
	int rc = 0;

	for (; layer && !rc && !in_chain(layer, base_disk); layer = layer->base)
		rc = layer_names_add(&export->layers, &export->nlayers, layer, err);
	if (!rc && layer)
		memcpy(export->common, layer->file, LAYER_FILE_MAX);
	return rc;
}

/* NULL with the reason in *ret_rc and err. */
static struct published *find(struct store *store, const char *name, int *ret_rc, struct err *err)
{
	struct published *entry = catalogue_find(store, name);

	if (!entry)
		*ret_rc = err_set(err, -ENOENT, "there is no snapshot \"%.70s\"", name);
	else if (entry->broken.code)
		*ret_rc = err_set(err, entry->broken.code, "%s", entry->broken.text);
	else
		return entry;
	return NULL;
}

int archive_export_begin(struct store *store, const char *name, const char *since, struct progress *progress,
			 struct export **ret, struct err *err)
{
	struct published *entry, *base = NULL;
	struct export *export;
	int rc;

	entry = find(store, name, &rc, err);
	if (!entry)
		return rc;
	if (since) {
		base = find(store, since, &rc, err);
		if (!base)
			return rc;
	}
	export = calloc(1, sizeof(*export));
	if (!export)
		return err_set(err, -ENOMEM, "out of memory");
	export->store = store;
	export->progress = progress;
	memcpy(export->id, entry->id, ID_SIZE);
	export->disk = layer_ref(entry->disk);
	rc = catalogue_manifest(store, entry->id, &export->manifest, err);
	if (!rc && pin_init(&export->pin, store, entry->id, entry->nsources, entry->sources))
		rc = err_set(err, -ENOMEM, "out of memory");
	if (!rc && base) {
		memcpy(export->base, base->id, ID_SIZE);
		memcpy(export->base_origin, base->origin, ID_SIZE);
		if (pin_init(&export->base_pin, store, base->id, base->nsources, base->sources))
			rc = err_set(err, -ENOMEM, "out of memory");
	}
	if (!rc)
		rc = list_layers(export, base ? base->disk : NULL, err);
	if (rc) {
		export_free(export);
		return rc;
	}
	*ret = export;
	return 0;
}

/* ---- on a worker */

/* n more bytes were sent. */
static int advance(struct export *export, uint64_t n)
{
	struct progress *progress = export->progress;

	export->done += n;
	if (!progress)
		return 0;
	if (export->total)
		atomic_store(&progress->permille, (unsigned)(export->done * 1000 / export->total));
	return atomic_load(&progress->cancel) ? err_set(&export->err, -ECANCELED, "cancelled") : 0;
}

/* A small file. */
static int send_bytes(struct export *export, struct member_writer *w, const char *name, const void *data,
		      size_t n)
{
	int rc = member_begin(w, name, n, &export->err);

	for (size_t at = 0; !rc && at < n; at += MEMBER_CHUNK)
		rc = member_chunk(w, at, (const uint8_t *)data + at,
				  n - at < MEMBER_CHUNK ? n - at : MEMBER_CHUNK, true, &export->err);
	return rc ? rc : member_end(w, n, &export->err);
}

static int send_manifest(struct export *export, struct member_writer *w)
{
	struct buf text = { 0 };
	int rc;

	/* What it may reach is this host's affair. */
	buf_release(&export->manifest.meta.net);
	snapshot_manifest_encode(&export->manifest, &text);
	rc = text.failed ? err_set(&export->err, -ENOMEM, "out of memory")
			 : send_bytes(export, w, ARCHIVE_MANIFEST, buf_bytes(&text), text.len);
	buf_release(&text);
	return rc;
}

static int send_layer(struct export *export, struct member_writer *w, const char *file)
{
	struct store *store = export->store;
	uint8_t *block = malloc(MEMBER_CHUNK);
	uint64_t at = 0, size = 0;
	struct stat st;
	int fd = -1, rc;

	if (!block)
		return err_set(&export->err, -ENOMEM, "out of memory");
	rc = sums_check(store->layers_fd, file, store->sums_fd, NULL, &export->err);
	if (rc)
		goto out;
	fd = openat(store->layers_fd, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		rc = err_sys(&export->err, -errno, "cannot open layer %s", file);
		goto out;
	}
	size = (uint64_t)st.st_size;
	rc = member_begin(w, file, size, &export->err);
	while (!rc && at < size) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA);
		uint64_t next;
		size_t n;

		if (data < 0 && errno == ENXIO)
			break;
		next = data < 0 ? at : (uint64_t)data / MEMBER_CHUNK * MEMBER_CHUNK;
		n = size - next < MEMBER_CHUNK ? (size_t)(size - next) : MEMBER_CHUNK;
		rc = pread_all(fd, block, n, next);
		if (rc)
			err_sys(&export->err, rc, "cannot read layer %s", file);
		else if (!all_zero(block, n))
			rc = member_chunk(w, next, block, n, true, &export->err);
		if (!rc)
			rc = advance(export, next + n - at);
		at = next + n;
	}
	if (!rc)
		rc = advance(export, size - at);
	if (!rc)
		rc = member_end(w, size, &export->err);
out:
	if (fd >= 0)
		close(fd);
	free(block);
	return rc;
}

/* An image with the files its blocks are in: files[0] its own, files[n] that of source n. */
struct opened {
	char path[ID_SIZE + 16];
	struct ramimage image;
	int files[1 + RAMIMAGE_SOURCES_MAX];
	unsigned nfiles;
};

static void opened_release(struct opened *opened)
{
	while (opened->nfiles)
		close(opened->files[--opened->nfiles]);
	ramimage_release(&opened->image);
}

static int open_file(struct export *export, struct opened *opened, const char *path)
{
	int fd = openat(export->store->objects_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return err_sys(&export->err, errno == ENOENT ? -EIO : -errno, "cannot open %s (%s)", path,
			       strerror(errno));
	opened->files[opened->nfiles++] = fd;
	return 0;
}

static int open_image(struct export *export, const char *id, const char *file, struct opened *ret)
{
	char path[ID_SIZE + 16];
	int rc;

	*ret = (struct opened){ 0 };
	snprintf(ret->path, sizeof(ret->path), "%s/%s", id, file);
	rc = open_file(export, ret, ret->path);
	if (!rc)
		rc = ramimage_open(ret->files[0], ret->path, &ret->image, &export->err);
	for (unsigned i = 0; !rc && i < ret->image.nsources; i++) {
		snprintf(path, sizeof(path), "%s/ram", ret->image.sources[i]);
		rc = open_file(export, ret, path);
	}
	if (rc)
		opened_release(ret);
	return rc;
}

/* The object a block of an image is stored in. */
static const char *home(const struct ramimage *image, const char *id, const struct ramimage_block *block)
{
	return block->source ? image->sources[block->source - 1] : id;
}

/* Whether block i of the image is the very block that the base has there. */
static bool base_has(const struct export *export, const struct ramimage *image, const struct ramimage *base,
		     size_t i)
{
	const struct ramimage_block *mine = &image->blocks[i], *theirs;

	if (!base || i >= base->nblocks)
		return false;
	theirs = &base->blocks[i];
	return theirs->len && mine->offset == theirs->offset &&
	       !strcmp(home(image, export->id, mine), home(base, export->base, theirs));
}

/* The index that the image has in the archive, with `base` for a source if that is not NULL. */
static int plan_image(struct export *export, const struct ramimage *image, const struct ramimage *base,
		      struct ramimage *ret)
{
	struct ramimage plan = { .size = image->size,
				 .data_end = RAMIMAGE_HEADER,
				 .nblocks = image->nblocks,
				 .nsources = base ? 1 : 0 };

	plan.blocks = malloc((plan.nblocks + 1) * sizeof(*plan.blocks));
	plan.sources = malloc(ID_SIZE);
	if (!plan.blocks || !plan.sources) {
		ramimage_release(&plan);
		return err_set(&export->err, -ENOMEM, "out of memory");
	}
	memcpy(plan.sources[0], export->base_origin, ID_SIZE);
	for (size_t i = 0; i < plan.nblocks; i++) {
		struct ramimage_block *block = &plan.blocks[i];

		*block = image->blocks[i];
		if (!block->len)
			continue;
		if (base_has(export, image, base, i)) {
			block->source = 1;
			block->offset = RAMIMAGE_HEADER;
			continue;
		}
		block->source = 0;
		block->offset = plan.data_end;
		plan.data_end += block->len;
	}
	*ret = plan;
	return 0;
}

/* Of those blocks that the plan leaves to the base. */
static int digest_shared(struct export *export, const struct opened *ram, const struct ramimage *plan,
			 char ret[DIGEST_TEXT])
{
	/* Every file that the image has blocks in is a source here, its own too. */
	const struct ramimage_files files = { .fd = -1, .name = ram->path, .sources = ram->files };
	struct ramimage shared = { .size = plan->size, .nblocks = plan->nblocks };
	int rc;

	shared.blocks = calloc(plan->nblocks + 1, sizeof(*shared.blocks));
	if (!shared.blocks)
		return err_set(&export->err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < plan->nblocks; i++) {
		if (!plan->blocks[i].source)
			continue;
		shared.blocks[i] = ram->image.blocks[i];
		shared.blocks[i].source++;
	}
	rc = ramimage_digest_sources(&shared, &files, ret, &export->err);
	free(shared.blocks);
	return rc;
}

/* What the receiver has to have. */
static int send_base(struct export *export, struct member_writer *w, const struct opened *ram,
		     const struct ramimage *plan)
{
	char disk[DIGEST_TEXT], blocks[DIGEST_TEXT];
	struct buf text = { 0 };
	int rc = 0;

	if (export->common[0])
		rc = digest_disk(export->store->layers_fd, export->common, disk, &export->err);
	if (!rc)
		rc = digest_shared(export, ram, plan, blocks);
	if (rc)
		return rc;
	manifest_begin(&text, ARCHIVE_BASE_KIND, ARCHIVE_BASE_VERSION);
	manifest_add(&text, "origin", export->base_origin);
	if (export->common[0])
		manifest_add(&text, "disk", disk);
	manifest_add(&text, "ram", blocks);
	manifest_end(&text);
	rc = text.failed ? err_set(&export->err, -ENOMEM, "out of memory")
			 : send_bytes(export, w, ARCHIVE_BASE, buf_bytes(&text), text.len);
	buf_release(&text);
	return rc;
}

/* Bytes of one file, cut into chunks. */
struct sink {
	struct export *export;
	struct member_writer *w;
	uint64_t at; /* where the pending bytes go */
	size_t n;
	uint8_t pending[MEMBER_CHUNK];
};

static int sink_flush(struct sink *sink)
{
	int rc = 0;

	if (sink->n)
		rc = member_chunk(sink->w, sink->at, sink->pending, sink->n, false, &sink->export->err);
	if (!rc)
		rc = advance(sink->export, sink->n);
	sink->at += sink->n;
	sink->n = 0;
	return rc;
}

static int sink_add(struct sink *sink, const uint8_t *data, size_t n)
{
	int rc = 0;

	while (!rc && n) {
		size_t part = MEMBER_CHUNK - sink->n;

		if (part > n)
			part = n;
		memcpy(sink->pending + sink->n, data, part);
		sink->n += part;
		data += part;
		n -= part;
		if (sink->n == MEMBER_CHUNK)
			rc = sink_flush(sink);
	}
	return rc;
}

static int send_blocks(struct sink *sink, const struct opened *from, const struct ramimage *plan)
{
	struct err *err = &sink->export->err;
	uint8_t *bytes = malloc(RAMIMAGE_BLOCK);
	int rc = 0;

	if (!bytes)
		return err_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; !rc && i < plan->nblocks; i++) {
		const struct ramimage_block *block = &from->image.blocks[i];

		if (!block->len || plan->blocks[i].source)
			continue;
		rc = pread_all(from->files[block->source], bytes, block->len, block->offset);
		if (rc)
			err_sys(err, rc, "cannot read block %zu of %s", i, from->path);
		else if (XXH3_64bits(bytes, block->len) != block->stored)
			rc = err_set(err, -EIO, "%s is damaged in block %zu", from->path, i);
		else
			rc = sink_add(sink, bytes, block->len);
	}
	free(bytes);
	return rc;
}

static int send_image(struct export *export, struct member_writer *w, const char *name,
		      const struct opened *from, const struct ramimage *plan)
{
	uint64_t size = plan->data_end + ramimage_tail_len(plan);
	struct sink *sink = calloc(1, sizeof(*sink));
	uint8_t header[RAMIMAGE_HEADER], *tail = ramimage_encode_tail(plan, header);
	int rc;

	if (!sink || !tail) {
		rc = err_set(&export->err, -ENOMEM, "out of memory");
		goto out;
	}
	sink->export = export;
	sink->w = w;
	rc = member_begin(w, name, size, &export->err);
	if (!rc)
		rc = sink_add(sink, header, sizeof(header));
	if (!rc)
		rc = send_blocks(sink, from, plan);
	if (!rc)
		rc = sink_add(sink, tail, ramimage_tail_len(plan));
	if (!rc)
		rc = sink_flush(sink);
	if (!rc)
		rc = member_end(w, size, &export->err);
out:
	free(tail);
	free(sink);
	return rc;
}

static int measure_layers(struct export *export)
{
	struct stat st;

	for (unsigned i = 0; i < export->nlayers; i++) {
		if (fstatat(export->store->layers_fd, export->layers[i], &st, AT_SYMLINK_NOFOLLOW) < 0)
			return err_sys(&export->err, -errno, "cannot find layer %s", export->layers[i]);
		export->total += (uint64_t)st.st_size;
	}
	return 0;
}

int archive_export_run(struct export *export, int fd)
{
	struct opened ram = { 0 }, state = { 0 }, base = { 0 };
	struct ramimage ram_plan = { 0 }, state_plan = { 0 };
	struct member_writer w = { 0 };
	int rc = open_image(export, export->id, "ram", &ram);

	if (!rc)
		rc = open_image(export, export->id, "state", &state);
	if (!rc && export->base[0])
		rc = open_image(export, export->base, "ram", &base);
	if (!rc)
		rc = plan_image(export, &ram.image, export->base[0] ? &base.image : NULL, &ram_plan);
	if (!rc)
		rc = plan_image(export, &state.image, NULL, &state_plan);
	if (!rc)
		rc = measure_layers(export);
	if (rc)
		goto out;
	export->total += ram_plan.data_end + ramimage_tail_len(&ram_plan) + state_plan.data_end;

	rc = member_writer_begin(&w, fd, &export->err);
	if (!rc && export->base[0])
		rc = send_base(export, &w, &ram, &ram_plan);
	if (!rc)
		rc = send_manifest(export, &w);
	for (unsigned i = export->nlayers; !rc && i > 0; i--)
		rc = send_layer(export, &w, export->layers[i - 1]);
	if (!rc)
		rc = send_image(export, &w, ARCHIVE_STATE, &state, &state_plan);
	if (!rc)
		rc = send_image(export, &w, ARCHIVE_RAM, &ram, &ram_plan);
	if (!rc)
		rc = member_writer_end(&w, &export->err);
	member_writer_release(&w);
out:
	ramimage_release(&ram_plan);
	ramimage_release(&state_plan);
	opened_release(&ram);
	opened_release(&state);
	opened_release(&base);
	return rc;
}

int archive_export_end(struct export *export, int result, struct err *err)
{
	int rc = result ? err_set(err, result, "%s", export->err.text) : 0;

	export_free(export);
	return rc;
}
