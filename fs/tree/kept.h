/* SPDX-License-Identifier: MIT */
/*
 * kept.h - what open files keep and waiting writes hold, and how much of it there may be
 *
 * Any user may open files without end, and write from as many threads as there may be. So what is kept for an open
 * file (a text that is read or written piece by piece, a listing, a part of a guest's file) counts for somebody: who
 * opened it, or whose guest's it is. A user who has more than KEPT_EACH gives up what was used the longest ago; where
 * all have more than KEPT_ALL, whoever has the most does. It is made anew when it is needed, or, where it cannot be,
 * its next use fails.
 *
 * What a write holds that waits cannot be given up: a user may have HELD_EACH, and all may have HELD_ALL. The daemon's
 * own user has no bound but the one for all.
 */
#ifndef SBX_FS_TREE_KEPT_H
#define SBX_FS_TREE_KEPT_H

#include <stddef.h>
#include <sys/types.h>

#include "util/err.h"
#include "util/list.h"

struct fs;
struct keeper;

enum { KEPT_EACH = 8 << 20, KEPT_ALL = 64 << 20, HELD_EACH = 64 << 20, HELD_ALL = 256 << 20 }; /* bytes */

/* Part of what keeps something. Zero-initialised it keeps nothing. */
struct kept {
	struct list link;      /* in the keeper's, the longest unused first; undefined without a keeper */
	struct keeper *keeper; /* NULL: it keeps nothing */
	size_t bytes;
	void (*forget)(struct kept *kept); /* gives all of it up; it is not counted any more */
};

int kept_open(struct fs *fs, struct err *err);
void kept_close(struct fs *fs);

/*
 * It was used now, and has so many bytes, which count for this user. Others may be forgotten for it; itself only where
 * there is no memory to count it. 0 bytes: it keeps nothing.
 */
void kept_use(struct fs *fs, struct kept *kept, uid_t uid, size_t bytes);
/* It keeps nothing. */
void kept_drop(struct fs *fs, struct kept *kept);

/* Count n bytes that a write of this user's holds. -EDQUOT or -ENOMEM with the reason. */
int kept_hold(struct fs *fs, uid_t uid, size_t n, struct err *err);
void kept_release(struct fs *fs, uid_t uid, size_t n);

#endif
