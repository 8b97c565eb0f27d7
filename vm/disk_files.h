/* SPDX-License-Identifier: MIT */
/*
 * disk_files.h - the files of a machine's disk, opened for a process that may open none itself
 *
 * Which files a disk consists of is in their headers, and those are a guest's work: snap/qcow2 checks them.
 * Files below the topmost are others' too. Where the launcher makes jails they are opened on a mount that is
 * read-only, so a process that was given such a descriptor cannot get another one to write, whoever owns it.
 */
#ifndef SBX_VM_DISK_FILES_H
#define SBX_VM_DISK_FILES_H

#include <stdbool.h>

#include "snap/qcow2/chain.h"
#include "snap/qcow2/header.h"
#include "util/err.h"

enum { DISK_FILES_MAX = QCOW2_CHAIN_MAX };

struct disk_file {
	int fd; /* read-only, but for the first one */
	bool raw;
};

struct disk {
	char name[QCOW2_NAME_MAX + 1]; /* of the topmost file */
	struct chain *chain;           /* has the files; NULL: there is only the topmost */
	unsigned n;
	struct disk_file files[DISK_FILES_MAX]; /* the topmost first */
};

enum { DISK_ALONE = 1, /* only the topmost file, to be written */ DISK_READ_ONLY = 2 };

/* All files of the disk at `path`; flags say what not. */
int disk_open(struct disk *disk, const char *path, unsigned flags, struct err *err);
/* Of a disk that was opened, or of which opening failed. */
void disk_close(struct disk *disk);

#endif
