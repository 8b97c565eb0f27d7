/* SPDX-License-Identifier: MIT */
/*
 * requirements.h - what a host must have to fork a snapshot, written down when it is taken
 *
 * A list of "key value" lines in the manifest: the engine's (vm/engine.h), and "agent N", the version of the
 * protocol that the agent in its memory speaks.
 */
#ifndef SBX_FS_SANDBOX_REQUIREMENTS_H
#define SBX_FS_SANDBOX_REQUIREMENTS_H

#include "fs/sandbox/sandbox.h"

/* For a capture of sb: what it inherited, or else what this host has. */
void requires_put(const struct sandbox *sb, struct buf *text);
/* What this host has. */
void requires_put_host(const struct fs *fs, struct buf *text);
/* -EINVAL, with everything named that is missing here. */
int requires_check(const struct fs *fs, const struct snapshot_meta *meta, const char *name, struct err *err);

#endif
