/* SPDX-License-Identifier: MIT */
/*
 * archive_import.c - make a snapshot of a stream
 *
 * Files are received under tmp/ with names of ours, never with a path from the stream, and nothing gets its
 * place before the whole stream was read and everything in it checked as a load would check it. The object
 * gets a new identifier; layers that the store has already are shared (archive_layers.h).
 *
 * While the worker runs, all snapshots and layers that the archive might build on are held, and gc stands
 * still: the new layers are in no table yet.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "snap/archive_layers.h"
#include "snap/archive_priv.h"
#include "snap/archive_transfer.h"
#include "snap/background.h"
#include "snap/manifest.h"
#include "snap/member.h"
#include "snap/qcow2/header.h"
#include "snap/ramimage.h"
#include "snap/store_priv.h"
#include "util/io.h"

/* A snapshot that may turn out to be the base. */
struct known {
	char origin[ID_SIZE];
	char id[ID_SIZE];
	char disk[LAYER_FILE_MAX];
};

/* What an import leaves free in the store, and after how many bytes it looks again. */
#define SPACE_LEFT (64ull << 20)
enum { SPACE_EVERY = 16 << 20 };

/* The state of CPUs and devices is a few MiB. */
enum { STATE_MAX = 64 << 20 };

struct import {
	struct store *store;
	struct progress *progress;
	char name[STORE_NAME_MAX + 1];
	char id[ID_SIZE];
	struct owner owner;
	struct pin pin; /* the name, the new object, and all there are */
	unsigned nknown;
	struct known *known;
	struct arrivals arrivals; /* the layers; holds all that a snapshot may have */

	/* the worker's */
	char base[ID_SIZE]; /* object, or "" */
	char base_origin[ID_SIZE];
	char base_disk[LAYER_FILE_MAX]; /* or "" */
	char base_ram[DIGEST_TEXT];     /* what the archive says of it, as of the disk in arrivals */
	struct snapshot_manifest manifest;
	bool linked; /* the name was made */
	struct err err;
};

static void import_free(struct import *import)
{
	struct store *store = import->store;

	store->importing--;
	pin_release(&import->pin, store);
	arrivals_release(&import->arrivals);
	snapshot_manifest_release(&import->manifest);
	free(import->known);
	free(import);
}

/* Pin all objects and remember which snapshots there are. */
static int hold_objects(struct import *import, struct err *err)
{
	struct store *store = import->store;
	struct published *entry;
	unsigned n = 0, at = 0;
	char(*ids)[ID_SIZE];
	int rc = -ENOMEM;

	list_for_each (entry, &store->entries, link)
		n += 1 + entry->nsources;
	ids = calloc(n + 1, ID_SIZE);
	import->known = calloc(n + 1, sizeof(*import->known));
	if (!ids || !import->known)
		goto out;
	list_for_each (entry, &store->entries, link) {
		struct known *known = &import->known[import->nknown];

		if (entry->broken.code)
			continue;
		memcpy(known->origin, entry->origin, ID_SIZE);
		memcpy(known->id, entry->id, ID_SIZE);
		memcpy(known->disk, entry->disk->file, LAYER_FILE_MAX);
		import->nknown++;
		memcpy(ids[at++], entry->id, ID_SIZE);
		if (entry->nsources)
			memcpy(ids + at, entry->sources, entry->nsources * sizeof(*ids));
		at += entry->nsources;
	}
	rc = pin_init(&import->pin, store, import->id, at, ids);
	import->pin.name = import->name;
out:
	free(ids);
	return rc ? err_set(err, rc, "out of memory") : 0;
}

int archive_import_begin(struct store *store, const char *name, const struct owner *owner,
			 struct progress *progress, struct import **ret, struct err *err)
{
	const struct owner mine = { geteuid(), getegid(), 0700 };
	struct import *import;
	int rc = catalogue_name_free(store, name, err);

	if (rc)
		return rc;
	import = calloc(1, sizeof(*import));
	if (!import)
		return err_set(err, -ENOMEM, "out of memory");
	import->store = store;
	import->arrivals.store = store;
	import->progress = progress;
	import->owner = owner ? *owner : mine;
	store->importing++;
	memcpy(import->name, name, strlen(name) + 1); /* catalogue_name_free bounds it */
	rc = id_make(import->id);
	if (rc)
		err_sys(err, rc, "cannot name an object");
	if (!rc)
		rc = hold_objects(import, err);
	if (!rc)
		rc = arrivals_hold(&import->arrivals, err);
	if (rc) {
		import_free(import);
		return rc;
	}
	*ret = import;
	return 0;
}

/* ---- receiving, on a worker */

static bool cancelled(const struct import *import)
{
	return import->progress && atomic_load(&import->progress->cancel);
}

static bool all_zero(const uint8_t *data, size_t n)
{
	return !data[0] && !memcmp(data, data + 1, n - 1);
}

/* -ENOSPC before what comes leaves nothing to those who use the store. */
static int check_space(struct import *import, int fd)
{
	struct statvfs st;

	if (fstatvfs(fd, &st) < 0)
		return err_sys(&import->err, -errno, "cannot ask for the store's free space");
	if ((uint64_t)st.f_bavail * st.f_frsize < SPACE_LEFT)
		return err_set(&import->err, -ENOSPC, "the archive does not fit: less than %llu MiB are free",
			       SPACE_LEFT >> 20);
	return 0;
}

/* The present file of the stream, of at most max bytes, into a new file dir_fd/name. */
static int receive_file(struct import *import, struct member_reader *r, uint64_t max, int dir_fd,
			const char *name)
{
	struct err *err = &import->err;
	uint64_t offset, written = 0;
	const uint8_t *data;
	int fd, rc;
	size_t n;

	if (r->size > max)
		return err_set(err, -EINVAL,
			       "the archive has a file of %llu bytes, and its manifest allows for %llu",
			       (unsigned long long)r->size, (unsigned long long)max);
	fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)r->size) < 0) {
		rc = err_sys(err, -errno, "cannot create %s", name);
		goto out;
	}
	while ((rc = member_read(r, &offset, &data, &n, err)) > 0) {
		if (cancelled(import))
			rc = err_set(err, -ECANCELED, "cancelled");
		else if (all_zero(data, n))
			continue; /* a hole it stays */
		else if (written % SPACE_EVERY < n && (rc = check_space(import, fd)) < 0)
			break;
		else if ((rc = pwrite_all(fd, data, n, offset)) < 0)
			err_sys(err, rc, "cannot write %s", name);
		if (rc < 0)
			break;
		written += n;
	}
	if (!rc && fsync(fd) < 0)
		rc = err_sys(err, -errno, "cannot write %s", name);
out:
	if (fd >= 0)
		close(fd);
	return rc;
}

/* The present file of the stream, of at most max bytes, into text. */
static int receive_text(struct import *import, struct member_reader *r, size_t max, struct buf *text)
{
	const uint8_t *data;
	uint64_t offset;
	size_t n;
	int rc;

	if (r->size > max)
		return err_set(&import->err, -EINVAL, "a text in the archive is too long");
	while ((rc = member_read(r, &offset, &data, &n, &import->err)) > 0) {
		if (offset != text->len)
			return err_set(&import->err, -EINVAL, "a text in the archive has a hole");
		buf_add(text, data, n);
	}
	if (rc)
		return rc;
	if (text->failed)
		return err_set(&import->err, -ENOMEM, "out of memory");
	return text->len == r->size ? 0 : err_set(&import->err, -EINVAL, "a text in the archive has a hole");
}

static void keep_text(char *ret, size_t size, const char *value)
{
	snprintf(ret, size, "%s", value);
}

static int parse_base(struct import *import, char *text, size_t len)
{
	struct manifest manifest;
	char *key, *value;
	int rc = manifest_open(&manifest, text, len, ARCHIVE_BASE_KIND, ARCHIVE_BASE_VERSION,
			       "what the archive says of its base", &import->err);

	while (!rc && manifest_next(&manifest, &key, &value)) {
		if (!strcmp(key, "origin"))
			keep_text(import->base_origin, sizeof(import->base_origin), value);
		else if (!strcmp(key, "disk"))
			keep_text(import->arrivals.base_digest, sizeof(import->arrivals.base_digest), value);
		else if (!strcmp(key, "ram"))
			keep_text(import->base_ram, sizeof(import->base_ram), value);
		else
			rc = err_set(&import->err, -EINVAL,
				     "unknown key \"%.32s\" in what the archive says of its base", key);
	}
	return rc;
}

static int receive_base(struct import *import, struct member_reader *r)
{
	struct buf text = { 0 };
	int rc;

	/* It had the origin alone, and what else has that origin here is nobody's word but a guess. */
	if (r->version < 2)
		return err_set(&import->err, -EINVAL,
			       "an archive of version 1 that builds on another snapshot does not say what is "
			       "in that: "
			       "export it anew");
	rc = receive_text(import, r, ARCHIVE_BASE_MAX, &text);
	if (!rc)
		rc = parse_base(import, (char *)buf_bytes(&text), text.len);
	buf_release(&text);
	if (rc)
		return rc;
	if (!id_valid(import->base_origin, ""))
		return err_set(&import->err, -EINVAL, "the name of the archive's base is not an identifier");
	for (unsigned i = 0; i < import->nknown; i++)
		if (!strcmp(import->known[i].origin, import->base_origin)) {
			memcpy(import->base, import->known[i].id, ID_SIZE);
			memcpy(import->base_disk, import->known[i].disk, LAYER_FILE_MAX);
		}
	if (!import->base[0])
		return err_set(&import->err, -EINVAL,
			       "the archive builds on snapshot %s, which this store does not have",
			       import->base_origin);
	return 0;
}

static int receive_manifest(struct import *import, struct member_reader *r)
{
	struct buf text = { 0 };
	int rc = receive_text(import, r, MANIFEST_MAX, &text);

	if (!rc)
		rc = snapshot_manifest_parse((char *)buf_bytes(&text), text.len, "the archive's manifest",
					     &import->manifest, &import->err);
	if (!rc)
		rc = snapshot_manifest_limits(&import->manifest, &import->err);
	buf_release(&text);
	/* What a machine may reach is decided where it runs, and not by who made the archive. */
	buf_release(&import->manifest.meta.net);
	return rc;
}

/* A RAM image is at its largest with nothing compressed. */
static uint64_t image_max(uint64_t content)
{
	struct ramimage image = { .nblocks = content / RAMIMAGE_BLOCK + 1, .nsources = 1 };

	return RAMIMAGE_HEADER + content + ramimage_tail_len(&image);
}

/* A layer that holds the whole disk, with what describes it, and room that was lost to crashes. */
static uint64_t layer_max(const struct import *import, const char *name)
{
	const uint64_t size = import->manifest.meta.disk_logical;

	return id_valid(name, ".raw") ? size : size + size / 16 + (64 << 20);
}

static int receive_layer(struct import *import, struct member_reader *r, const char *name)
{
	const char *file;
	int rc = arrivals_add(&import->arrivals, name, &file, &import->err);

	return rc ? rc : receive_file(import, r, layer_max(import, name), import->store->tmp_fd, file);
}

/* What has come so far; the files of an archive have a fixed order. */
enum stage { AT_START, HAVE_BASE, HAVE_MANIFEST, HAVE_STATE, HAVE_RAM };

static int receive_member(struct import *import, struct member_reader *r, int dir_fd, const char *name,
			  enum stage *stage)
{
	if (!strcmp(name, ARCHIVE_BASE) && *stage == AT_START) {
		*stage = HAVE_BASE;
		return receive_base(import, r);
	}
	if (!strcmp(name, ARCHIVE_MANIFEST) && *stage < HAVE_MANIFEST) {
		*stage = HAVE_MANIFEST;
		return receive_manifest(import, r);
	}
	if ((id_valid(name, ".qcow2") || id_valid(name, ".raw")) && *stage == HAVE_MANIFEST)
		return receive_layer(import, r, name);
	if (!strcmp(name, ARCHIVE_STATE) && *stage == HAVE_MANIFEST) {
		*stage = HAVE_STATE;
		return receive_file(import, r, image_max(STATE_MAX), dir_fd, "state");
	}
	if (!strcmp(name, ARCHIVE_RAM) && *stage == HAVE_STATE) {
		*stage = HAVE_RAM;
		return receive_file(import, r, image_max(import->manifest.ram_size), dir_fd, "ram");
	}
	return err_set(&import->err, -EINVAL, "the archive has an unexpected file \"%.63s\"", name);
}

static int receive(struct import *import, int dir_fd, int fd)
{
	enum stage stage = AT_START;
	char name[MEMBER_NAME_MAX + 1];
	struct member_reader r;
	uint64_t size;
	int rc = member_reader_begin(&r, fd, &import->err);

	if (rc)
		return rc;
	while ((rc = member_next(&r, name, &size, &import->err)) > 0) {
		rc = receive_member(import, &r, dir_fd, name, &stage);
		if (rc)
			break;
	}
	member_reader_release(&r);
	if (!rc && stage != HAVE_RAM)
		rc = err_set(&import->err, -EINVAL, "a file is missing from the archive");
	return rc;
}

/* ---- checking, on a worker */

/* Number of an object among the sources of an image, counted from 1; added if it is new, 0 when that
 * fails. */
static uint32_t source_number(struct ramimage *image, const char *id)
{
	for (unsigned i = 0; i < image->nsources; i++)
		if (!strcmp(image->sources[i], id))
			return i + 1;
	if (image->nsources == RAMIMAGE_SOURCES_MAX)
		return 0;
	memcpy(image->sources[image->nsources++], id, ID_SIZE);
	return image->nsources;
}

/* Make blocks that are the base's refer to where the base has them in this store. */
static int resolve_blocks(struct import *import, struct ramimage *image, const struct ramimage *base)
{
	char(*sources)[ID_SIZE] = calloc(RAMIMAGE_SOURCES_MAX, ID_SIZE);

	if (!sources)
		return err_set(&import->err, -ENOMEM, "out of memory");
	free(image->sources);
	image->sources = sources;
	image->nsources = 0;
	for (size_t i = 0; i < image->nblocks; i++) {
		struct ramimage_block *block = &image->blocks[i];
		const struct ramimage_block *theirs = i < base->nblocks ? &base->blocks[i] : NULL;

		if (!block->source)
			continue;
		if (!theirs || theirs->len != block->len || theirs->content != block->content ||
		    theirs->stored != block->stored)
			return err_set(&import->err, -EIO,
				       "block %zu differs from the snapshot that this archive builds on", i);
		block->offset = theirs->offset;
		block->source = source_number(image, theirs->source ? base->sources[theirs->source - 1]
								    : import->base);
		if (!block->source)
			return err_set(&import->err, -EINVAL, "the archive's base is in too many parts");
	}
	return 0;
}

static int write_index(struct import *import, int fd, const struct ramimage *image)
{
	uint8_t header[RAMIMAGE_HEADER], *tail = ramimage_encode_tail(image, header);
	size_t n = ramimage_tail_len(image);
	int rc = tail ? pwrite_all(fd, tail, n, image->data_end) : -ENOMEM;

	if (!rc)
		rc = pwrite_all(fd, header, sizeof(header), 0);
	if (!rc && (ftruncate(fd, (off_t)(image->data_end + n)) < 0 || fsync(fd) < 0))
		rc = -errno;
	free(tail);
	return rc ? err_sys(&import->err, rc, "cannot write the RAM image") : 0;
}

static int open_ram(struct import *import, const char *id, int *ret)
{
	char path[ID_SIZE + 16];

	snprintf(path, sizeof(path), "%s/ram", id);
	*ret = openat(import->store->objects_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	return *ret < 0 ? err_sys(&import->err, -errno, "cannot open %s", path) : 0;
}

static int build_on_base(struct import *import, int fd, struct ramimage *image)
{
	struct ramimage base = { 0 };
	int base_fd = -1, rc;

	if (image->nsources != 1 || strcmp(image->sources[0], import->base_origin) != 0)
		return err_set(&import->err, -EINVAL,
			       "the archive's RAM refers to something other than its base");
	rc = open_ram(import, import->base, &base_fd);
	if (rc)
		return rc;
	rc = ramimage_open(base_fd, "the RAM of the archive's base", &base, &import->err);
	if (!rc)
		rc = resolve_blocks(import, image, &base);
	if (!rc)
		rc = write_index(import, fd, image);
	ramimage_release(&base);
	close(base_fd);
	return rc;
}

/* The blocks that are the base's are those that the archive was made with. */
static int check_base_ram(struct import *import, const struct ramimage *image,
			  const struct ramimage_files *files)
{
	char here[DIGEST_TEXT];
	int rc = ramimage_digest_sources(image, files, here, &import->err);

	if (rc || !strcmp(here, import->base_ram))
		return rc;
	return err_set(&import->err, -EIO,
		       "snapshot %s is not the one that this archive builds on: its memory is another",
		       import->base_origin);
}

/* Check a received image, and put it onto the base if it has one. */
static int check_image(struct import *import, int dir_fd, const char *file, uint64_t size)
{
	int fd = openat(dir_fd, file, O_RDWR | O_NOFOLLOW | O_CLOEXEC), rc;
	int sources[RAMIMAGE_SOURCES_MAX];
	struct ramimage_files files = { .fd = fd, .name = file, .sources = sources };
	struct ramimage image = { 0 };
	unsigned opened = 0;

	if (fd < 0)
		return err_sys(&import->err, -errno, "cannot open %s", file);
	rc = ramimage_open(fd, file, &image, &import->err);
	if (!rc && size && image.size != size)
		rc = err_set(&import->err, -EINVAL, "%s does not have the size given in the manifest", file);
	if (!rc && image.size > STATE_MAX && !size)
		rc = err_set(&import->err, -EINVAL, "%s is larger than any machine's", file);
	if (!rc && image.nsources && (!size || !import->base[0]))
		rc = err_set(&import->err, -EINVAL, "%s refers to other snapshots", file);
	if (!rc && image.nsources)
		rc = build_on_base(import, fd, &image);
	while (!rc && opened < image.nsources) {
		rc = open_ram(import, image.sources[opened], &sources[opened]);
		opened += rc ? 0 : 1;
	}
	if (!rc)
		rc = ramimage_verify(&image, &files, import->progress, &import->err);
	if (!rc && opened)
		rc = check_base_ram(import, &image, &files);
	if (!rc && size) {
		import->manifest.nsources = image.nsources;
		free(import->manifest.sources);
		import->manifest.sources = image.sources;
		image.sources = NULL;
	}
	while (opened)
		close(sources[--opened]);
	ramimage_release(&image);
	close(fd);
	return rc;
}

static int write_manifest(struct import *import, int dir_fd)
{
	struct buf text = { 0 };
	int rc;

	snapshot_manifest_encode(&import->manifest, &text);
	rc = text.failed ? -ENOMEM : write_file_at(dir_fd, "manifest", buf_bytes(&text), text.len);
	buf_release(&text);
	return rc ? err_sys(&import->err, rc, "cannot write the manifest") : 0;
}

int archive_import_run(struct import *import, int fd)
{
	struct store *store = import->store;
	int dir_fd, rc;

	/* What an earlier import of the archive left, or a snapshot that is gone, has the names this one
	 * brings. */
	background_flush(store->background);
	dir_fd = open_dir_at(store->tmp_fd, import->id);
	if (dir_fd < 0)
		return err_sys(&import->err, dir_fd, "cannot create a directory for the snapshot");
	rc = receive(import, dir_fd, fd);
	if (!rc)
		rc = check_image(import, dir_fd, "state", 0);
	if (!rc)
		rc = check_image(import, dir_fd, "ram", import->manifest.ram_size);
	if (!rc)
		rc = arrivals_place(&import->arrivals, import->manifest.meta.disk_logical, import->base_disk,
				    import->manifest.disk, &import->err);
	if (!rc)
		rc = write_manifest(import, dir_fd);
	if (!rc)
		rc = owner_write(dir_fd, "owner", &import->owner, &import->err);
	if (!rc && fsync(dir_fd) < 0)
		rc = err_sys(&import->err, -errno, "cannot sync the snapshot");
	close(dir_fd);
	if (!rc)
		rc = object_publish(store, import->id, import->name, &import->linked, &import->err);
	if (rc)
		remove_tree_at(store->tmp_fd, import->id);
	return rc;
}

/* ---- and back on the loop */

static int enter(struct import *import, struct err *err)
{
	struct layer *disk;
	int rc = layer_open(import->store, import->manifest.disk, &disk, err);

	if (rc)
		return rc;
	for (struct layer *layer = disk; layer; layer = layer->base)
		layer->sealed = true;
	/* An archive may hold layers that its disk does not stand on. */
	arrivals_trim(&import->arrivals);
	rc = catalogue_add(import->store, import->name, import->id, &import->manifest, disk);
	layer_unref(disk);
	return rc ? err_set(err, rc, "out of memory") : 0;
}

static void undo(struct import *import)
{
	struct store *store = import->store;

	if (import->linked) {
		unlinkat(store->snapshots_fd, import->name, 0);
		store_sync_later(store, store->snapshots_fd);
	}
	arrivals_undo(&import->arrivals);
}

int archive_import_end(struct import *import, int result, struct err *err)
{
	int rc = result ? err_set(err, result, "%s", import->err.text) : enter(import, err);

	if (rc)
		undo(import);
	import_free(import);
	return rc;
}
