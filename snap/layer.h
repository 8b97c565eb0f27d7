/* SPDX-License-Identifier: MIT */
/*
 * layer.h - disk layers: qcow2 files that build on each other
 *
 * All layers of a store live in its layers/ directory as ID.qcow2, and name their backing file by its bare
 * file name, so a store can be moved. A layer is written by one machine until it is frozen; from then on it
 * is immutable and any number of layers may build on it. Layers are counted in memory; a layer whose last
 * reference goes is deleted unless a published snapshot or image names it, directly or through another layer.
 * Called on the loop's thread only.
 */
#ifndef SBX_SNAP_LAYER_H
#define SBX_SNAP_LAYER_H

#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"

struct store;
struct layer;

/* Make a fresh, empty, writable layer on `base`, which must be frozen. One reference to it in *ret; it holds
 * one to base. */
int layer_overlay(struct store *store, struct layer *base, struct layer **ret, struct err *err);

/*
 * The same on a layer that a machine writes, for that machine to go on in: nothing else may use it before `layer` is
 * frozen. Where the machine does not move to it, it is let go of, and `layer` is as it was.
 */
int layer_next(struct store *store, struct layer *layer, struct layer **ret, struct err *err);

/*
 * From now on immutable, since the machine that wrote it has closed or inactivated it, which the caller sees to:
 * others may build on it, and the store may merge it with those below. Does not sync (see snapshot_save).
 */
void layer_freeze(struct layer *layer);

struct layer *layer_ref(struct layer *layer);
void layer_unref(struct layer *layer); /* NULL is allowed */

const char *layer_path(const struct layer *layer);
struct layer *layer_base(const struct layer *layer); /* NULL at the bottom */
bool layer_frozen(const struct layer *layer);
uint64_t layer_virtual_size(const struct layer *layer); /* bytes of the disk the guest sees */
uint64_t layer_stored(const struct layer *layer);       /* bytes allocated on the host, this layer alone */
unsigned layer_depth(const struct layer *layer);        /* layers below it */

#endif
