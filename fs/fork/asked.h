/* SPDX-License-Identifier: MIT */
/*
 * asked.h - what a sandbox's guest asks for itself: forks and checkpoints of its machine
 *
 * One thing at a time, as its file `guest` allows (rights.h), and as if its owner had asked: it counts for the owner, and
 * makes names only where the owner may, and only such as begin with the sandbox's own. While a verb is under way on the
 * sandbox, or it does not run, the question waits.
 */
#ifndef SBX_FS_FORK_ASKED_H
#define SBX_FS_FORK_ASKED_H

#include "fs/sandbox/sandbox.h"

/* From here on the guests of this daemon are heard: sets the two functions of struct fs. */
int asked_open(struct fs *fs, struct err *err);

#endif
