/* SPDX-License-Identifier: MIT */
/*
 * mounter.h - a process that mounts and unmounts the tree, so that the daemon need not be able to
 *
 * Forked first of all, with the mount point and the options. It reads single letters: 'm' mounts and answers with
 * a descriptor of the FUSE device, 'u' unmounts what it mounted, 'q' closes the standard descriptors; nothing else can
 * be asked of it. It ends when the daemon does, and leaves the mount as it is then.
 */
#ifndef SBX_FS_TREE_MOUNTER_H
#define SBX_FS_TREE_MOUNTER_H

#include "util/err.h"

/* The strings are copied by fork(2). */
int mounter_start(const char *mountpoint, const char *options, struct err *err);
/* *ret_fd: the FUSE device of the new mount, the caller's. */
int mounter_mount(int *ret_fd, struct err *err);
/* The daemon goes to the background: what it was started with is not to be written to, or kept open, any more. */
void mounter_be_quiet(void);
/* Hangs up when the mounter has ended, unasked. Not to be read. */
int mounter_fd(void);
/* For a mount that is still there: 0 once it is no more, or a negative errno. -ETIMEDOUT: the mounter stands still. */
int mounter_unmount(void);
/* Ends the process. One that stands still is not waited for: the kernel kills it when the daemon has ended. */
void mounter_stop(void);

#endif
