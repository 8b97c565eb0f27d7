/* SPDX-License-Identifier: MIT */
/*
 * store_priv.h - what the store's own files share
 *
 * All on the loop's thread, but for what is deleted in the background. Directories are held open, so that the
 * store can be moved below a running daemon and few paths need building.
 */
#ifndef SBX_SNAP_STORE_PRIV_H
#define SBX_SNAP_STORE_PRIV_H

#include "snap/background.h"
#include "snap/id.h"
#include "snap/layer.h"
#include "snap/snapshot_manifest.h"
#include "snap/store.h"
#include "snap/store_lock.h"
#include "util/list.h"

struct layer {
	struct list link; /* in store->layers */
	struct store *store;
	struct layer *base;   /* a reference */
	struct layer *former; /* a reference to its base before it was compacted, or NULL (compact.h) */
	unsigned refs;
	unsigned children; /* layers on it */
	unsigned named;    /* published snapshots whose disk it is */
	bool raw;          /* of an image: only gc removes it, since an image may name it */
	bool frozen;
	bool sealed;  /* on disk for good, with its checksums in sums/ */
	bool checked; /* its content was compared with its checksums, or made in this process's life */
	uint64_t size;
	char id[ID_SIZE];
	char file[LAYER_FILE_MAX]; /* name in layers/ */
	char path[];
};

/* A published snapshot. */
struct published {
	struct list link; /* in store->entries */
	struct store *store;
	char name[STORE_NAME_MAX + 1];
	char id[ID_SIZE];     /* of its directory in objects/; "" if not even that could be read */
	char origin[ID_SIZE]; /* as in the manifest */
	char parent[ID_SIZE]; /* origin of the snapshot it was taken after, or "" */
	struct layer *disk;   /* a reference; NULL if broken */
	struct err broken;    /* code != 0: why it cannot be used */
	unsigned nsources;    /* other objects whose RAM blocks it refers to */
	char (*sources)[ID_SIZE];
};

/* Objects that work under way reads or makes: not to be collected. */
struct pin {
	struct list link; /* in store->pins */
	const char *name; /* reserved for a snapshot, or NULL */
	unsigned nids;
	char (*ids)[ID_SIZE];
};

struct store {
	char *dir;
	struct store_lock lock;
	int dir_fd, layers_fd, sums_fd, objects_fd, snapshots_fd, images_fd, tmp_fd;
	struct list layers;
	struct list entries;
	struct list pins;
	unsigned broken;    /* entries that could not be read */
	unsigned importing; /* imports under way: there may be layers that are in no table yet */
	bool compacting;
	struct background *background;
	/* References end, files stay: it is being opened, and not all that need a layer are known, or closed. */
	bool keep_files;
	atomic_bool owners_syncing; /* the background will come to the owners that changed */
	atomic_bool sync_failed;    /* delete nothing more: a crash could bring back a name that needs it */
};

/* store.c */
/* In the background, in this order: sync dir_fd, so that what is gone from it stays gone... */
void store_sync_later(struct store *store, int dir_fd);
/* ...and delete dir_fd/name, a file or a directory; not if a sync asked for before failed. */
void store_discard(struct store *store, int dir_fd, const char *name);

/* layer.c */
/* The layer in layers/`file` and all below it, as found on disk. -EINVAL names what is missing or not
 * ours. */
int layer_open(struct store *store, const char *file, struct layer **ret, struct err *err);
struct layer *layer_find(struct store *store, const char *file);
/* Add its file to *names, an array of *n that free() takes: for a worker, which may not look at layers. -ENOMEM. */
int layer_names_add(char (**names)[LAYER_FILE_MAX], unsigned *n, const struct layer *layer, struct err *err);

/* owner.c */
/* [worker] Write and sync the file dir_fd/name, which must not be there. */
int owner_write(int dir_fd, const char *name, const struct owner *owner, struct err *err);
/* [worker] The same for a record. */
int record_write(int dir_fd, const struct buf *record, struct err *err);

/* snapshot_save.c */
/* [worker] Give tmp/id, which is complete and synced, its place in objects/ and the name. On failure it may
 * be in either place; *ret_linked says whether the name was made, which the caller then has to undo. */
int object_publish(struct store *store, const char *id, const char *name, bool *ret_linked, struct err *err);

/* compact.c */
/* What a crash left between the steps of a compaction: checksums are put in force or dropped. */
void compact_recover(struct store *store);

/* catalogue.c */
/* Read snapshots/ into store->entries. */
int catalogue_load(struct store *store, struct err *err);
void catalogue_release(struct store *store);
struct published *catalogue_find(struct store *store, const char *name);
struct published *catalogue_find_origin(struct store *store, const char *origin);
/* Add a snapshot that was just published; the entry holds a reference to disk. -ENOMEM. */
int catalogue_add(struct store *store, const char *name, const char *id,
		  const struct snapshot_manifest *manifest, struct layer *disk);
/* -EINVAL or -EEXIST with the reason when no snapshot can get that name. */
int catalogue_name_free(struct store *store, const char *name, struct err *err);
/* Whether a published snapshot or a pin needs objects/id. */
bool catalogue_needs(struct store *store, const char *id);
/* Trim, in the background, all objects without a name: a crash may have come before. */
void catalogue_trim(struct store *store);
/* Whether every snapshot could be read, so that what nothing refers to is known to be garbage. */
bool catalogue_complete(const struct store *store);
/* Read the manifest of objects/id. */
int catalogue_manifest(struct store *store, const char *id, struct snapshot_manifest *ret, struct err *err);
/* Keep the object and what it refers to. -ENOMEM. */
int pin_init(struct pin *pin, struct store *store, const char *id, unsigned nsources,
	     char (*sources)[ID_SIZE]);
/* No longer: what nothing needs any more is discarded. Harmless on a zeroed pin. */
void pin_release(struct pin *pin, struct store *store);

#endif
