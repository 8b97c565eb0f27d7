/* SPDX-License-Identifier: MIT */
/*
 * rights.h - what a sandbox's guest may ask for itself: the file `guest`
 *
 * Lines or, with commas between them, words `VERB NUMBER`: fork N, so many copies in all; checkpoint N, so many of
 * those; suspend, which has no number; and inherit N: the copies that the guest makes have the same rights, N
 * generations deep. The numbers that were written are what copies begin with; what is left of them is what the file
 * reads. They are the sandbox's and not the machine's: a fork made outside has none, a rollback keeps them.
 */
#ifndef SBX_FS_SANDBOX_RIGHTS_H
#define SBX_FS_SANDBOX_RIGHTS_H

#include "util/buf.h"
#include "util/err.h"
#include "vm/agent/proto.h"

enum { RIGHTS_MAX = 1000000, RIGHTS_DEEP = 64 };

struct rights {
	unsigned fork, checkpoint;           /* what was written */
	unsigned fork_left, checkpoint_left; /* what is left of it */
	unsigned inherit;
	bool suspend;
};

/* The text of the file: 0, -EINVAL or -ERANGE; *ret is then as it was. */
int rights_parse(const char *text, struct rights *ret, struct err *err);
void rights_text(const struct rights *rights, struct buf *text);
/* May it do this, n times? It has then done so. -EPERM with the reason. */
int rights_take(struct rights *rights, enum guest_verb verb, unsigned n, struct err *err);
/* It was not done, n times of those. */
void rights_give_back(struct rights *rights, enum guest_verb verb, unsigned n);
/* Those of a copy that it makes. */
struct rights rights_of_copy(const struct rights *rights);

#endif
