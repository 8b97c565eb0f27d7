/* SPDX-License-Identifier: MIT */
/*
 * request.h - a FUSE request that is answered later
 *
 * A caller blocked in a system call can be interrupted at any moment, and must then be answered at once
 * (EINTR): otherwise it sits in an uninterruptible sleep. A parked request therefore has a cancel hook, which
 * unhooks it from what it waits for; the reply is made here. Exactly one reply is made, and it frees the
 * request.
 */
#ifndef SBX_FS_REQUEST_H
#define SBX_FS_REQUEST_H

#include <stddef.h>

#include "fs/fuse.h"
#include "util/list.h"

struct request {
	fuse_req_t req;
	struct list link; /* for the owner: a queue of waiters */
	void (*cancel)(struct request *request);
	void *arg;   /* the owner's */
	size_t size; /* of a parked read */
	struct list all;
};

/*
 * Park req. cancel is called when the caller is interrupted or the daemon ends; it must forget the request
 * (its link is unhooked already) and not reply. Returns NULL when that happened before this returns, or when
 * memory is short: req is then answered and the owner has nothing to undo but what it did for it (cancel is
 * not called in that case).
 */
struct request *request_park(fuse_req_t req, void (*cancel)(struct request *request), void *arg);

/* Replies; each frees the request. err is 0 or a positive or negative errno. NULL is allowed: nobody waits
 * any more. */
void request_err(struct request *request, int err);
void request_write(struct request *request, size_t n);
void request_buf(struct request *request, const void *data, size_t n);

/* Answer all that are parked with err: at the end. */
void request_cancel_all(int err);

#endif
