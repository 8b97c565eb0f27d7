/* SPDX-License-Identifier: MIT */
/*
 * confined.h - a child in which what may be hostile is read: with what it has open, and nothing else
 *
 * It shares memory with us, where it counts and leaves what it has to say. That may be anything: it is bounded, and
 * for the caller to check.
 */
#ifndef SBX_SNAP_IMAGE_CONFINED_H
#define SBX_SNAP_IMAGE_CONFINED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "snap/image_config.h"
#include "util/buf.h"
#include "util/err.h"

enum { CONFINED_MAX = IMAGE_CONFIG_MAX + 1024 };

/* For a bar: total is 0 while nobody knows. */
struct confined_count {
	atomic_uint_fast64_t done, total;
};

struct confined {
	/* In the child, which ends when it returns. It opens what it needs, calls confined_enter, and only then looks
	 * at what may be hostile. What it puts into *said, at most CONFINED_MAX bytes, is handed on after success. */
	int (*work)(void *arg, struct confined_count *count, struct buf *said, struct err *err);
	void *arg;
	/* Here, a few times a second; may be NULL. */
	void (*progress)(void *arg, uint64_t done, uint64_t total);
	void *progress_arg;
	/* A pair of sockets, or -1: the child has their_fd, and what comes at our_fd is answered here (false: not any
	 * more). our_fd stays the caller's, their_fd is closed. */
	int our_fd, their_fd;
	bool (*answer)(void *arg, int fd);
};

/* Blocks. */
int confined_run(struct confined *confined, struct buf *ret, struct err *err);

/* In the child: from now on it opens no file, makes no socket, runs no program, has no privileges and little memory,
 * and ends with its parent. */
int confined_enter(struct err *err);

/* A file without a name in $TMPDIR or /var/tmp, for what has to be read twice: a descriptor. */
int confined_spool(struct err *err);

#endif
