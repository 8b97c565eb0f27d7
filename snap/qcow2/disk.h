/* SPDX-License-Identifier: MIT */
/*
 * disk.h - a guest's disk: a chain of files, the topmost written by this machine alone
 *
 * Requests run on the loop's worker threads and end in a callback on the loop's thread, in no particular
 * order, as on any disk with a queue. All functions belong to the loop's thread, or to one that holds the
 * loop's lock.
 *
 * What a finished request has written survives the death of the process at any moment: the files are then
 * consistent, and at most a few clusters are allocated and unused. QCOW2_FLUSH makes it survive the host's.
 */
#ifndef SBX_SNAP_QCOW2_DISK_H
#define SBX_SNAP_QCOW2_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "util/err.h"
#include "util/loop.h"

struct chain;
struct qcow2;

/*
 * A disk of a chain (chain.h), which is the disk's from now on, and may be written if it was opened so. Tables
 * that contradict each other: -EINVAL, and the chain stays the caller's.
 */
int qcow2_open(struct loop *loop, struct chain *chain, struct qcow2 **ret, struct err *err);
/* Waits for what is in flight, and delivers it. NULL is allowed. */
void qcow2_close(struct qcow2 *disk);

uint64_t qcow2_size(const struct qcow2 *disk); /* bytes the guest sees */
bool qcow2_writable(const struct qcow2 *disk);

enum qcow2_op {
	QCOW2_READ,
	QCOW2_WRITE,
	QCOW2_ZERO,    /* make `len` bytes read as zero, and free their space */
	QCOW2_DISCARD, /* the same for the whole clusters within the range, best effort */
	QCOW2_FLUSH,
};

/* result: 0 or a negative errno. */
typedef void (*qcow2_done_fn)(void *arg, int result);

/*
 * Start a request. iov says where the data is, for READ and WRITE (its total length is the request's), and
 * must live until done is called, which never happens from inside this call. A range that is not inside the
 * disk: -EINVAL; a write to a read-only disk: -EROFS; done is then not called.
 */
int qcow2_submit(struct qcow2 *disk, enum qcow2_op op, uint64_t offset, uint64_t len, const struct iovec *iov,
		 unsigned niov, qcow2_done_fn done, void *arg);

/* Wait until no request touches memory or file any more. Their callbacks are still owed. */
void qcow2_wait(struct qcow2 *disk);
/* The same, and call the callbacks: afterwards nothing is in flight but what they submitted. */
void qcow2_drain(struct qcow2 *disk);

/*
 * Go on in fd, a fresh overlay called `file`: what was written so far is never written again. Nothing may be in
 * flight. It must name the present file as its backing file and have its size. On success fd is the disk's; on
 * failure the disk is as before.
 */
int qcow2_switch(struct qcow2 *disk, const char *file, int fd, struct err *err);

/* Bytes written by the guest since the disk was opened; from any thread. */
uint64_t qcow2_written(const struct qcow2 *disk);

#endif
