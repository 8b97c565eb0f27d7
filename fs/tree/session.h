/* SPDX-License-Identifier: MIT */
/* session.h - the FUSE session: mounted, and read by the loop */
#ifndef SBX_FS_TREE_SESSION_H
#define SBX_FS_TREE_SESSION_H

#include "fs/fs.h"
#include "fs/tree/fuse.h"

/* A mount that a daemon that died left behind answers ENOTCONN to everything: take it away. */
int session_detach_stale(const char *mountpoint, struct err *err);
/*
 * Start the process that will mount and unmount (mounter.h), first of all: it shall have nothing of what comes
 * later. mounter_stop ends it.
 */
int session_prepare(const char *mountpoint, const char *options, struct err *err);
/* Mount at the absolute path `mountpoint` with comma-separated `options` ("" for none). */
int session_mount(struct fs *fs, const char *mountpoint, const char *options, struct session **ret,
		  struct err *err);
/* The attributes that the kernel remembers of a node are old. No lock that a request holds is taken
 * (fuse_reverse_inval_inode): allowed while one is answered. */
void session_forget_attr(struct session *session, fuse_ino_t ino);
/* All names may be another file's: the kernel looks them up once more. Takes no lock either; before Linux 6.16
 * nothing happens. */
void session_forget_names(struct session *session);
/* Unmount, if that has not happened, and take no more requests. */
int session_unmount(struct session *session);
/* The same, and free. NULL is allowed. */
void session_free(struct session *session);

#endif
