/* SPDX-License-Identifier: MIT */
/* mount.h - where the mounted filesystem is, and why it refused something */
#ifndef SBX_CLI_MOUNT_H
#define SBX_CLI_MOUNT_H

#include <limits.h>

/*
 * The path of `name`, which is in directory `dir` ("" or "snapshots/") of $SBX_MOUNT or the one mounted
 * sbxfs, unless it is a path itself. -1 after a message.
 */
int find_in_mount(const char *dir, const char *name, char ret[PATH_MAX]);
/* Print the sentence that the daemon left in `error` of the directory, or else `what` and errno. -1. */
int mount_complain(const char *program, const char *dir, const char *what);

#endif
