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

struct node *snapfs_mount(struct object *obj, const struct entry *entry);
/* End the helper; NULL is allowed. */
void snapfs_end(struct snapfs *snapfs);

#endif
