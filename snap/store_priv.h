/* SPDX-License-Identifier: MIT */
/*
 * store_priv.h - the store's insides, shared by the files of snap/ and by nobody else
 *
 * What lasts are objects, named by 128 random bits and immutable: layers and RAM objects. Names (snapshots,
 * images) only refer to them. In memory everything is counted: the catalogue's entry of a snapshot holds a
 * reference to its layer and its RAM objects, and so does every live machine, save and load. An object whose
 * last reference goes is unlinked. On disk nothing is counted: what is needed follows from the manifests
 * alone, so a crash can leave too much, never too little, and store_open sweeps it.
 *
 * Deleting a snapshot whose RAM blocks others refer to leaves its RAM object without a user: it then stays
 * for the referrers' sake, and the blocks that none of them needs are punched out of it (ram_object.c).
 */
#ifndef SBX_SNAP_STORE_PRIV_H
#define SBX_SNAP_STORE_PRIV_H

#include <stdbool.h>
#include <stdint.h>

#include "snap/background.h"
#include "snap/id.h"
#include "snap/layer.h"
#include "snap/manifest.h"
#include "snap/store.h"
#include "util/list.h"

/* The directories, as the daemon and `sbx image` open them. */
struct store_dirs {
	int root, layers, ram, images, snapshots, tmp;
};
int store_dirs_open(const char *dir, struct store_dirs *ret, struct err *err);
void store_dirs_close(struct store_dirs *dirs);
/* Held while images and their layers change, or are judged unneeded; a descriptor to close, or -errno. */
int store_lock_images(const struct store_dirs *dirs);

struct store {
	char *dir; /* absolute */
	struct store_dirs dirs;
	int lock_fd;
	struct list layers;    /* struct layer */
	struct list ram;       /* struct ram_object */
	struct list snapshots; /* struct snapshot: the catalogue, and removed ones still in use */
	struct background *background;
};

struct layer {
	struct list link;
	struct store *store;
	unsigned refs;
	struct layer *base;
	char id[ID_TEXT];
	char file[LAYER_FILE_MAX]; /* below layers/ */
	char *path;
	bool raw;
	bool frozen;
	bool image;    /* an image may name it: that is looked up before it is deleted */
	bool verified; /* its bytes were checked against its sums since the store was opened */
	uint64_t size;
	unsigned depth;
	uint64_t sum; /* checksum of its sums file, 0 while there is none */
};

/*
 * A frozen layer of the store with one reference; found among the living or opened anew. entry lists
 * the chain from the top, count of them.
 */
int layer_open_chain(struct store *store, const struct layer_entry *entry, unsigned count, uint64_t size,
		     struct layer **ret, struct err *err);
/* Remove layers/ID.* in the background. */
void layer_remove_files(struct store *store, const char *file, const char *id);

/* A RAM object, on disk ram/ID. */
struct ram_object {
	struct list link;
	struct store *store;
	char id[ID_TEXT];
	unsigned users;   /* snapshots whose RAM it is */
	unsigned sourced; /* snapshots that refer to blocks of it */
};
/* Find or make the in-memory side. NULL when out of memory. */
struct ram_object *ram_object_get(struct store *store, const char *id);
/* After a count went down: unlinks what is not needed, punches what is needed in part. */
void ram_object_settle(struct ram_object *object);
uint64_t ram_object_stored(const struct ram_object *object);

/* A snapshot as the catalogue has it; also the pin that a load, or a save on top of it, holds. */
struct snapshot {
	struct list link;
	struct store *store;
	unsigned refs;
	bool listed;    /* has a name */
	bool published; /* false while it is being saved: the name is reserved */
	char name[STORE_NAME_MAX + 1];
	struct err bad; /* why it cannot be used; code 0 if it can */
	struct manifest manifest;
	struct layer *disk;
	struct ram_object *ram;
	struct ram_object *source[RAM_SOURCES_MAX];
	unsigned nsource;
};
struct snapshot *snapshot_find(struct store *store, const char *name);
struct snapshot *snapshot_find_id(struct store *store, const char *id);
struct snapshot *snapshot_ref(struct snapshot *snapshot);
void snapshot_unref(struct snapshot *snapshot);
/* Read what snapshots/ holds into the catalogue. */
int catalogue_load(struct store *store, struct err *err);
/* Take references to all that the manifest names. */
int snapshot_bind(struct snapshot *snapshot, struct err *err);

#endif
