/* SPDX-License-Identifier: MIT */
/* rename.h - give a sandbox another name */
#ifndef SBX_FS_LIFE_RENAME_H
#define SBX_FS_LIFE_RENAME_H

#include "fs/sandbox/sandbox.h"
#include "fs/tree/command.h"

/*
 * Ends the command: with -EINVAL or -EEXIST for the name, -EBUSY while a verb is under way. A guest that runs knows the
 * name by then; one that is silent or paused learns it when it goes on. Who may do this the kernel has decided.
 */
void rename_sandbox(struct sandbox *sb, const char *name, struct command *command);

#endif
