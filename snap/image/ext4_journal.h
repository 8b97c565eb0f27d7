/* SPDX-License-Identifier: MIT */
/* ext4_journal.h - what a filesystem's journal still has to say */
#ifndef SBX_SNAP_IMAGE_EXT4_JOURNAL_H
#define SBX_SNAP_IMAGE_EXT4_JOURNAL_H

#include <ext2fs/ext2fs.h>

#include "util/err.h"

#define JOURNAL_MAGIC 0xc03b3998u

/*
 * Read the journal of a filesystem that was not unmounted, and put what its complete transactions hold over
 * the disk (disk_set_redo). The filesystem has to be opened again afterwards: 1. 0: there is nothing to do.
 * Otherwise a negative errno.
 */
int journal_apply(ext2_filsys fs, struct err *err);

#endif
