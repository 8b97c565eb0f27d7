/* SPDX-License-Identifier: MIT */
/*
 * trim.h - shrink an object without a name to the RAM blocks that others refer to
 */
#ifndef SBX_SNAP_TRIM_H
#define SBX_SNAP_TRIM_H

#include "snap/id.h"
#include "util/err.h"

/*
 * Remove all of objects/id but the blocks that the RAM images of `users` refer to. Doing so twice, or in
 * part, is harmless. Nothing is removed when the index of a user cannot be read. May run beside readers of
 * those users. [worker]
 */
int trim_object(int objects_fd, const char *id, unsigned nusers, char (*users)[ID_SIZE], struct err *err);

#endif
