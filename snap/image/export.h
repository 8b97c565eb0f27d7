/* SPDX-License-Identifier: MIT */
/*
 * export.h - a disk becomes a container image again: an archive that container engines read
 *
 * The image has one layer. Its config says of commands what the disk's does (snap/image_config.h). The disk may be a
 * guest's: it is read in a child like the import's (confined.h).
 */
#ifndef SBX_SNAP_IMAGE_EXPORT_H
#define SBX_SNAP_IMAGE_EXPORT_H

#include <stdint.h>

#include "snap/qcow2/chain.h"
#include "util/err.h"

enum export_kind {
	EXPORT_OCI,    /* an OCI layout in a tar; its layer is compressed with gzip */
	EXPORT_DOCKER, /* what `docker save` writes and `docker load` reads */
};

struct image_export {
	struct chain *chain; /* the disk; stays the caller's */
	enum export_kind kind;
	const char *name; /* the image is called NAME:latest, as far as container engines take such a name */
	int fd;           /* where the archive goes, from where it is on; may be a pipe */
	/* Called a few times a second; total is 0 if nobody knows. */
	void (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

/* Blocks. What was written of an archive whose export failed is of no use. */
int image_export(struct image_export *export, struct err *err);

#endif
