/* SPDX-License-Identifier: MIT */
/*
 * pollset.h - a value that can be polled for change
 *
 * poll(2) behaves as on kernfs files: a reader that has not seen the newest version gets POLLPRI and POLLERR
 * beside POLLIN. Streams use the same set with readiness of their own. FUSE wakes pollers through handles,
 * each good for one wake-up.
 */
#ifndef SBX_FS_POLLSET_H
#define SBX_FS_POLLSET_H

#include "util/list.h"

struct fuse_pollhandle;

struct pollset {
	unsigned version;
	struct list waiters;
};

void pollset_init(struct pollset *set);
/* The value changed, or a stream is ready: wake all, count the version up. */
void pollset_wake(struct pollset *set);
/* Keep a handle until the next wake-up. Takes it over, also when memory is short (then it is dropped). */
void pollset_add(struct pollset *set, struct fuse_pollhandle *ph);
/* Wake all for the last time and let go of the handles. */
void pollset_release(struct pollset *set);

#endif
