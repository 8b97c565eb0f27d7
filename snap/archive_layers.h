/* SPDX-License-Identifier: MIT */
/*
 * archive_layers.h - the layers that come with an archive, and their places in the store
 *
 * An archive names its layers itself, and whoever made it may have named them after those of others. So a name
 * is only a word of the archive: what came is compared, byte for byte, with the layer that the store has under
 * that name, and shared if it is the same. Else it gets a place of its own, under a new name if its own is
 * taken, and what builds on it is told. What did not come can only be a layer of the disk of the archive's base, and
 * that has to read as it did where the archive was made: its digest is in the archive.
 */
#ifndef SBX_SNAP_ARCHIVE_LAYERS_H
#define SBX_SNAP_ARCHIVE_LAYERS_H

#include <stdbool.h>
#include <stdint.h>

#include "snap/digest.h"
#include "snap/snapshot_manifest.h"
#include "snap/store.h"
#include "util/err.h"

struct arrival {
	char name[LAYER_FILE_MAX]; /* in the archive */
	char file[LAYER_FILE_MAX]; /* here: under tmp/, and then in layers/ */
	enum { ARRIVED, PLACED, SHARED } state;
};

/* Zero but for the store to begin with. */
struct arrivals {
	struct store *store;
	unsigned nheld;
	struct layer **held; /* references to all that a snapshot may have */
	/* Of the base's disk, as it is read through the layer that is built on; "": none may be. */
	char base_digest[DIGEST_TEXT];
	char base_checked[LAYER_FILE_MAX]; /* a layer that has it */
	unsigned n;
	struct arrival
		*layers; /* in their order in the archive: each stands on an earlier one, or the base's */
};

/* Hold all frozen layers and those of images. */
int arrivals_hold(struct arrivals *arrivals, struct err *err);
/* Let go of them, and free. */
void arrivals_release(struct arrivals *arrivals);

/* [worker] A layer comes: *ret_file is the name of the file, new and under tmp/, to receive it in. */
int arrivals_add(struct arrivals *arrivals, const char *name, const char **ret_file, struct err *err);
/*
 * [worker] Give all a place, of which each has to be of a disk of `size` bytes, and put the name that `disk` has
 * here in its place. base_disk is the topmost layer of the archive's base, or "". The disk is then a sound
 * chain with checksums, and synced.
 */
int arrivals_place(struct arrivals *arrivals, uint64_t size, const char *base_disk, char disk[LAYER_FILE_MAX],
		   struct err *err);

/* Discard those that no layer in the table of layers is... */
void arrivals_trim(struct arrivals *arrivals);
/* ...or all, wherever they are. */
void arrivals_undo(struct arrivals *arrivals);

#endif
