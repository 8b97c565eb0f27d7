/* SPDX-License-Identifier: MIT */
/*
 * files.h - fs/ of a snapshot: its files, read-only, without a machine
 *
 * A helper process reads the disk (vm/agent/browser.h). It is started when somebody asks for a file, and ended when
 * nobody has for a while, or when too many others are asked for.
 */
#ifndef SBX_FS_SNAPSHOT_FILES_H
#define SBX_FS_SNAPSHOT_FILES_H

#include "fs/snapshot/snapshot.h"

/* The daemon's helpers; -ENOMEM. Closed when no snapshot is left. */
int browsing_open(struct fs *fs, struct err *err);
void browsing_close(struct fs *fs);
/* Is one of them still about to open layers by their names? */
bool browsing_opens(const struct fs *fs);
struct node *snapfs_mount(struct object *obj, const struct entry *entry);
/* End the helper; NULL is allowed. */
void snapfs_end(struct snapfs *snapfs);

#endif
