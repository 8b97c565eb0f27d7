/* SPDX-License-Identifier: MIT */
/* boot_key.h - what the memory of a machine that just booted follows from */
#ifndef SBX_FS_START_BOOT_KEY_H
#define SBX_FS_START_BOOT_KEY_H

#include "fs/fs.h"

/* Digests of files, made anew when the file is another by its inode, size or times. */
struct boot_file {
	uint64_t seen[7];
	uint64_t digest[2];
};

struct boot_files {
	struct boot_file kernel, initrd;
};

/* Once, and again where one of them is another by now: some milliseconds. */
int boot_files_read(const struct fs *fs, struct boot_files *files, struct err *err);
/* The name (snap/store.h) of the boot snapshot of this image's layer in this shape. */
int boot_key(const struct fs *fs, struct boot_files *files, const struct layer *image,
	     const struct shape *shape, char ret[BOOT_NAME_SIZE], struct err *err);

#endif
