/* SPDX-License-Identifier: MIT */
/*
 * boots.h - boot snapshots: machines that just booted, kept for starts to fork
 *
 * One for each image and shape that was started. It is made when it is asked for first, of a machine that is
 * nobody's: no sandbox's settings, identity, environment or network had a part in it. It is kept in memory as the
 * template of any snapshot is, and in the store under a name of its own (snap/store.h), which says what went into
 * it: the image's layer, kernel, initramfs, shape, engine and version of sbxfs. When one of these changes another is
 * made, and this one goes. There are options.boot_snapshots of them at most, and the one used least recently gives
 * way.
 */
#ifndef SBX_FS_START_BOOTS_H
#define SBX_FS_START_BOOTS_H

#include "fs/sandbox/sandbox.h"

struct snapshot;

struct boot_wait {
	struct list link; /* empty: it does not wait. Who does not want it any more unlinks it */
	/* err->code == 0: a snapshot whose template is in memory. Once, maybe from inside boots_get. */
	void (*done)(struct boot_wait *wait, const struct err *err, struct snapshot *snap);
};

int boots_open(struct fs *fs, struct err *err); /* -ENOMEM */
/* Find those in the store. */
int boots_load(struct fs *fs, struct err *err);
/* The one for a sandbox's image and shape, which is loaded or made if need be. */
void boots_get(struct sandbox *sb, struct boot_wait *wait);
/* No machine could be made of the one of this name: it goes. Where that happens again its starts boot. */
void boots_failed(struct fs *fs, const char *name);
/* Let go of those that no start can ask for any more. */
void boots_sweep(struct fs *fs);
/* Lines of the root's status. */
void boots_status(struct fs *fs, struct buf *text);
/* The end: what is under way is given up. The loop has to run until fs->working is 0 before boots_close. */
void boots_drop(struct fs *fs);
void boots_close(struct fs *fs);

#endif
