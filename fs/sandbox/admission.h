/* SPDX-License-Identifier: MIT */
/*
 * admission.h - how many sandboxes, jobs, bytes of machines' memory and descriptors there may be, of one owner and
 * in all
 *
 * What is beyond that is refused before anything is made: -ENOSPC (-ENOMEM for memory) where there are too many in
 * all, -EDQUOT where one owner has too many. Jobs and memory count for the owner of the sandbox.
 *
 * Of the daemon's descriptors a part is nobody's, for what comes and goes. Of the others one owner may have
 * --max-files-per-user; half of them where that is not given, unless the owner is the daemon's own user.
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
/* So many descriptors more, of this owner, that stay: for a machine, or a snapshot in memory. */
int admit_files(const struct fs *fs, const struct owner *owner, unsigned n, struct err *err);

enum {
	MACHINE_FILES = 16, /* its VMM, its network's helper and their channels; rounded up */
	TEMPLATE_FILES = 2,
};

#endif
