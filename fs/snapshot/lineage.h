/* SPDX-License-Identifier: MIT */
/* lineage.h - what a snapshot was taken after, and what was taken after it: `parent` and children/ */
#ifndef SBX_FS_SNAPSHOT_LINEAGE_H
#define SBX_FS_SNAPSHOT_LINEAGE_H

#include "fs/snapshot/snapshot.h"

/* A link to the named snapshot that the memory of this one goes back to. */
extern const struct entry parent_entry;
/* Whether it has one, and that still has a name: without one there is no link. */
bool has_parent(struct snapshot *snap);

/* Links to the named snapshots whose parent it is. */
extern const struct dir_ops children_dir;

#endif
