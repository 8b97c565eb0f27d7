/* SPDX-License-Identifier: MIT */
/*
 * first_boot.h - boot a machine that is nobody's, capture it, and end it
 *
 * It has an image's disk, a shape, no network and no limits. When its agent answers it goes through a rehearsal
 * (fs/pool/rehearsal.h): it gets entropy and the time, runs an empty command, and so has in memory what every fork
 * needs first. Then it is captured.
 */
#ifndef SBX_FS_START_FIRST_BOOT_H
#define SBX_FS_START_FIRST_BOOT_H

#include "fs/fs.h"

struct first_boot;

/* err->code == 0: a template, one reference, the callee's. Called once, not from inside; the first_boot is free then. */
typedef void (*first_boot_fn)(void *arg, const struct err *err, struct template *template);

/* image: the layer below the machine's, which has to be frozen. */
int first_boot(struct fs *fs, struct layer *image, const struct shape *shape, first_boot_fn done, void *arg,
	       struct first_boot **ret, struct err *err);
/* Give it up: done is not called. NULL is allowed. */
void first_boot_cancel(struct first_boot *boot);

#endif
