/* SPDX-License-Identifier: MIT */
/* symlink.h - targets of a guest's symbolic links, as the host may see them */
#ifndef SBX_FS_GUEST_SYMLINK_H
#define SBX_FS_GUEST_SYMLINK_H

#include <stddef.h>

/*
 * The target of a link that is in the directory `dir` of the guest (absolute, normal), rewritten so that
 * following it from the host never leaves the guest's tree, whatever is renamed meanwhile: -ENAMETOOLONG if
 * it does not fit. root is the host's path of the guest's root.
 */
int symlink_rewrite(const char *root, const char *dir, const char *target, char *ret, size_t size);

/*
 * The other way: what a target that the host's programs write means in the guest. One that leads through the
 * mount into some machine's or snapshot's files is the guest's own absolute path; others are as they are.
 */
const char *symlink_written(const char *mountpoint, const char *target);

#endif
