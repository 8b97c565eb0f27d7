/* SPDX-License-Identifier: MIT */
/*
 * compact.h - keep chains of layers short
 *
 * Every capture adds a layer to the disk, and every read of the guest may have to ask all of them. Compaction
 * replaces the file of a frozen layer by one that holds what it and all layers above the bottom one hold, and
 * stands on the bottom one directly. A layer is what a guest reads through it, so it keeps its identity, and
 * snapshots that name it need no change. Machines that have the old files open go on reading them.
 */
#ifndef SBX_SNAP_COMPACT_H
#define SBX_SNAP_COMPACT_H

#include "snap/store.h"
#include "util/err.h"

/* A chain deeper than this is worth compacting: each layer costs a lookup on a read and a descriptor. */
enum { COMPACT_DEPTH = 16 };

/*
 * Look for a layer with max_depth or more layers below it; the lowest such, so that all on top of it gain.
 * *ret is NULL when there is none, or when one is being compacted. begin and end on the loop's thread.
 */
struct compact;
int compact_begin(struct store *store, unsigned max_depth, struct progress *progress, struct compact **ret,
		  struct err *err);
int compact_run(struct compact *compact); /* [worker] */
int compact_end(struct compact *compact, int result, struct err *err);

/*
 * Let go of layers that compaction made unnecessary. Until then they stay on disk, for a machine that is
 * being started may have read the name of one and not have opened it yet: call this when none is being
 * started or captured. Does nothing while snapshots are being saved, loaded, checked, exported or imported.
 */
void compact_settle(struct store *store);

#endif
