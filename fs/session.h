/* SPDX-License-Identifier: MIT */
/* session.h - the FUSE session: mounted, and read by the loop */
#ifndef SBX_FS_SESSION_H
#define SBX_FS_SESSION_H

#include "fs/fs.h"

/* A mount that a daemon that died left behind answers ENOTCONN to everything: take it away. */
int session_detach_stale(const char *mountpoint, struct err *err);
/* Mount at the absolute path `mountpoint` with comma-separated `options` ("" for none). */
int session_mount(struct fs *fs, const char *mountpoint, const char *options, struct session **ret,
		  struct err *err);
/* Unmount, if that has not happened, and take no more requests. */
void session_unmount(struct session *session);
/* The same, and free. NULL is allowed. */
void session_free(struct session *session);

#endif
