/* SPDX-License-Identifier: MIT */
/* session.h - the FUSE session in the event loop: kernel requests become calls of node ops */
#ifndef SBX_FS_SESSION_H
#define SBX_FS_SESSION_H

#include "fs/fuse.h"
#include "fs/node.h"
#include "util/err.h"
#include "util/loop.h"

struct session;

/* What the tree needs to know of the mount. */
struct session_config {
	const char *mountpoint;
	const char *options; /* more -o options, or NULL */
	struct node *root;
	struct owner *owner; /* of whatever has no owner of its own */
	void (*unmounted)(void *arg);
	int (*statfs)(void *arg, struct statvfs *ret);
	int (*rename)(void *arg, struct node *from, const char *name, struct node *to, const char *newname,
		      fuse_req_t req); /* 0, -errno, or 1: it replies */
	void *arg;
};

/* Mount and begin to answer. */
int session_new(struct loop *loop, const struct session_config *config, struct session **ret,
		struct err *err);
/* Lazily unmount, drop what is in flight, free. NULL is allowed. */
void session_free(struct session *session);

/* For parked mkdirs: reply that `node` is the new directory, not to be remembered by the kernel for `timeout`
 * seconds more. Drops the node when nobody waits any more (req NULL or the reply is refused). */
void session_reply_entry(fuse_req_t req, struct node *node, double timeout);

struct node *session_node(fuse_ino_t ino);
/* The loop's only root, for those who must turn FUSE's root number into a node. */
#endif
