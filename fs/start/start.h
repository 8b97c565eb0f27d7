/* SPDX-License-Identifier: MIT */
/*
 * start.h - bring up a sandbox that has no machine
 *
 * One that has no disk yet becomes a fork of a machine that just booted from its image in its shape (boots.h): it
 * has not done anything, so its disk is the image's. Where that cannot be it boots, and the log says why. One that
 * has a disk boots from that.
 */
#ifndef SBX_FS_START_START_H
#define SBX_FS_START_START_H

#include "fs/sandbox/sandbox.h"

/* As the task `verb`. done is called once, maybe from inside the call. `cold`: boot in any case. */
void start(struct sandbox *sb, const char *verb, bool cold, done_fn done, void *arg);

#endif
