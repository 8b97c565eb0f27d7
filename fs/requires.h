/* SPDX-License-Identifier: MIT */
/*
 * requires.h - what a host must have to fork a snapshot, written down when it is taken
 *
 * A list of "key value" lines in the manifest: the engine's (vm/engine.h), and "agent N", the version of the
 * protocol that the agent in its memory speaks.
 */
#ifndef SBX_FS_REQUIRES_H
#define SBX_FS_REQUIRES_H

#include "fs/sandbox.h"

/* For a capture of sb: what it inherited, or else what this host has. */
void requires_put(const struct sandbox *sb, struct buf *text);
/* -EINVAL, with everything named that is missing here. */
int requires_check(const struct fs *fs, const struct snapshot_meta *meta, const char *name, struct err *err);

#endif
