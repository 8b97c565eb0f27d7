/* SPDX-License-Identifier: MIT */
/* guest_errno.h - the errnos a guest's file operations may end with */
#ifndef SBX_FS_GUEST_GUEST_ERRNO_H
#define SBX_FS_GUEST_GUEST_ERRNO_H

#include "vm/agent/proto.h"

/*
 * What the host's kernel is told when the agent, or a helper like one, ends `op` with err (0 or a negative
 * errno): err itself if a file operation may end so, otherwise -EIO. What the channel says of a guest that
 * does not answer (-ETIMEDOUT, -EHOSTDOWN) passes.
 */
int guest_errno_allowed(enum fs_op op, int err);

#endif
