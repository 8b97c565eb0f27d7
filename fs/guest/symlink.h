/* SPDX-License-Identifier: MIT */
/* symlink.h - targets of a guest's symbolic links, as the host may see them */
#ifndef SBX_FS_GUEST_SYMLINK_H
#define SBX_FS_GUEST_SYMLINK_H

#include <stddef.h>

/*
 * The target of a link that is in the directory `dir` of the guest (absolute, normal), rewritten so that
 * following it from the host never leaves the guest's tree: -ENAMETOOLONG if it does not fit.
 */
int symlink_rewrite(const char *dir, const char *target, char *ret, size_t size);

#endif
