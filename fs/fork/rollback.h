/* SPDX-License-Identifier: MIT */
/* rollback.h - put an earlier state of a sandbox back under the same name */
#ifndef SBX_FS_FORK_ROLLBACK_H
#define SBX_FS_FORK_ROLLBACK_H

#include "fs/tree/ctl.h"
#include "fs/tree/object.h"

/* The verb: rollback N (an unnamed snapshot of its own, or "latest") or rollback NAME (a named one). */
void rollback_verb(struct object *obj, const struct words *words, struct command *command);

#endif
