/* SPDX-License-Identifier: MIT */
/*
 * tail.h - a file that grows, for `tail -f`: a console, a log
 *
 * The last `keep` bytes at least are kept; what came before is a hole and reads as zeros, as in a file whose head
 * was punched out, so that offsets stay true.
 */
#ifndef SBX_FS_TREE_TAIL_H
#define SBX_FS_TREE_TAIL_H

#include "fs/tree/tree.h"
#include "util/buf.h"

struct tail {
	struct buf text;   /* what is kept */
	size_t keep;       /* bytes */
	uint64_t dropped;  /* bytes before it */
	struct list files; /* struct file: who polls */
};

static inline void tail_init(struct tail *tail, size_t keep)
{
	*tail = (struct tail){ .keep = keep };
	list_init(&tail->files);
}

void tail_release(struct tail *tail);
/* After something was added to tail->text: drop what is too old, and wake who polls. */
void tail_grown(struct tail *tail);

/* The file: its entry says where the tail is. */
extern const struct stream_ops tail_ops;

#endif
