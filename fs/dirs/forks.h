/* SPDX-License-Identifier: MIT */
/* forks.h - forks/ of a sandbox or a snapshot, and the verb that does the same */
#ifndef SBX_FS_DIRS_FORKS_H
#define SBX_FS_DIRS_FORKS_H

#include "fs/tree/ctl.h"
#include "fs/tree/tree.h"

extern const struct dir_ops forks_dir;
extern const struct entry fork_link_entry; /* .../forks/W */

/* The verb: fork W [k=v ...] and fork N PREFIX [k=v ...]. */
void fork_verb(struct object *origin, const struct words *words, struct command *command);

#endif
