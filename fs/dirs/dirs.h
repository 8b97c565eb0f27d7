/* SPDX-License-Identifier: MIT */
/* dirs.h - the directories that stand in the tables of others, each in the file of its name */
#ifndef SBX_FS_DIRS_DIRS_H
#define SBX_FS_DIRS_DIRS_H

#include "fs/tree/tree.h"

extern const struct dir_ops images_dir;       /* /sbx/images */
extern const struct dir_ops exec_dir;         /* /sbx/VM/exec */
extern const struct dir_ops net_dir;          /* /sbx/VM/net */
extern const struct dir_ops tcp_dir;          /* /sbx/VM/tcp */
extern const struct stream_ops run_ops;       /* /sbx/VM/run */
extern const struct dir_ops snapshots_dir;    /* /sbx/snapshots */
extern const struct dir_ops vm_snapshots_dir; /* /sbx/VM/snapshots */
extern const struct dir_ops forks_dir;        /* forks/ of a sandbox or a snapshot */

/* /sbx/metrics: struct entry's show. */
int metrics_show(struct object *obj, struct buf *text, struct err *err);

/* The verb of both: fork W [k=v ...] and fork N PREFIX [k=v ...]. */
void fork_verb(struct object *origin, const struct words *words, struct command *command);

#endif
