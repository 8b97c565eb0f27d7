/* SPDX-License-Identifier: MIT */
/*
 * compaction.h - chains of disk layers are kept short, in the background
 *
 * Every capture adds a layer below a sandbox's disk (snap/compact.h has how and why they are merged). Nobody
 * waits for it, and open sandboxes do not notice.
 */
#ifndef SBX_FS_SNAPSHOT_COMPACTION_H
#define SBX_FS_SNAPSHOT_COMPACTION_H

#include "fs/fs.h"

/* The daemon's, and what its layer_frozen calls; -ENOMEM. Closed when fs->working is 0. */
int compaction_open(struct fs *fs, struct err *err);
void compaction_close(struct fs *fs);
/* There may be a chain to shorten: a layer was frozen, or came with an archive. */
void compaction_want(struct fs *fs);
/* Give up; the loop has to run until fs->working is 0. */
void compaction_cancel(struct fs *fs);
/* Let go of the layers that were merged, at the daemon's end: nothing opens any more. Before the store is closed. */
void compaction_settle(struct fs *fs);

#endif
