/* SPDX-License-Identifier: MIT */
/*
 * ram.h - copy the RAM of a machine into a template's memfd
 *
 * A machine's RAM is a memfd that its process maps whole: shared by a machine that booted, privately by a
 * fork, whose own pages are then the ones it has written. The copy has three parts:
 *
 *   ram_copy_ahead  what a fork has written, while it runs and writes on: what it writes again after it was
 *                   copied is known (track.h), and copied again. May be left out.
 *   ram_copy_live   what may change once the machine goes on: all of a shared mapping, and a fork's own
 *                   pages, but for those that were copied ahead and not written since. The machine must be stopped.
 *   ram_copy_rest   what a fork has not written: it comes from the template below, which never changes, so
 *                   the machine may run again meanwhile.
 *
 * All are [worker] functions, of loop_thread(): the process may be hostile, and looking at its memory waits for
 * what it does with that. Zero pages become holes.
 */
#ifndef SBX_VM_QEMU_RAM_H
#define SBX_VM_QEMU_RAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/err.h"

/* A memfd that can be sealed; negative errno on failure. */
int ram_memfd(const char *name, uint64_t size, struct err *err);

struct ram_copy;

/*
 * Prepare to copy the mapping of memfd `ram_fd`, `size` bytes, in process `pid`. ram_fd stays the caller's,
 * and open until the copy is freed.
 */
int ram_copy_new(pid_t pid, int ram_fd, uint64_t size, bool shared, struct ram_copy **ret, struct err *err);
void ram_copy_free(struct ram_copy *copy); /* NULL is allowed */

/*
 * [worker] Of a private mapping, with what track_take gave, which stays the caller's. It ends when little is written
 * beside it, and in any case. After a negative errno nothing counts as copied, and the other parts do it all.
 */
int ram_copy_ahead(struct ram_copy *copy, int uffd, struct err *err);

/* [worker] -EIO if the process does not map it. */
int ram_copy_live(struct ram_copy *copy, struct err *err);
int ram_copy_rest(struct ram_copy *copy); /* [worker] */

/* Pages that were read from the process: ahead, those that were written again once more, and while it stood. */
struct ram_counts {
	uint64_t ahead, stopped;
};
struct ram_counts ram_copy_counts(const struct ram_copy *copy);

/* Seal the finished copy and hand it over; negative errno on failure. */
int ram_copy_take(struct ram_copy *copy, struct err *err);

#endif
