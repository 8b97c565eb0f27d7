/* SPDX-License-Identifier: MIT */
/* info.h - the files that report: info, stats and status, `key value` lines */
#ifndef SBX_FS_DIRS_INFO_H
#define SBX_FS_DIRS_INFO_H

#include "fs/tree/object.h"

int sandbox_info(struct object *obj, struct buf *text, struct err *err);
int sandbox_stats(struct object *obj, struct buf *text, struct err *err);
int snapshot_info(struct object *obj, struct buf *text, struct err *err);
int image_info(struct object *obj, struct buf *text, struct err *err);
int root_status(struct object *obj, struct buf *text, struct err *err);

#endif
