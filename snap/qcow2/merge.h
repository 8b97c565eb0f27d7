/* SPDX-License-Identifier: MIT */
/* merge.h - the layers of a chain above its bottom as one file */
#ifndef SBX_SNAP_QCOW2_MERGE_H
#define SBX_SNAP_QCOW2_MERGE_H

#include "util/err.h"

struct chain;

/*
 * Write into the empty file fd what all layers above the bottom hold, standing on the bottom, and sync it. step
 * is called now and then with how much is done; what it returns other than 0 ends the work and is returned. Any
 * thread.
 */
int qcow2_merge(struct chain *chain, int fd, int (*step)(void *arg, unsigned permille), void *arg,
		struct err *err);

#endif
