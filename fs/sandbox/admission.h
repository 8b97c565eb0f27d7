/* SPDX-License-Identifier: MIT */
/*
 * admission.h - how many sandboxes, jobs and bytes of machines' memory there may be, of one owner and in all
 *
 * What is beyond that is refused before anything is made: -ENOSPC (-ENOMEM for memory) where there are too many in
 * all, -EDQUOT where one owner has too many. Jobs and memory count for the owner of the sandbox.
 */
#ifndef SBX_FS_SANDBOX_ADMISSION_H
#define SBX_FS_SANDBOX_ADMISSION_H

#include "fs/sandbox/sandbox.h"

/* One more sandbox of this owner. */
int admit_sandbox(const struct fs *fs, const struct owner *owner, struct err *err);
/* One more job in the sandbox; -ENOSPC also where that has too many. */
int admit_job(const struct sandbox *sb, struct err *err);
/* A machine for the sandbox, or the one it has, with so much memory in place of what that has now. */
int admit_memory(const struct sandbox *sb, uint64_t memory, struct err *err);

#endif
