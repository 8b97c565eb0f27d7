/* SPDX-License-Identifier: MIT */
/* images.h - `sbx image`: images in a state directory, beside a running daemon or without one */
#ifndef SBX_CLI_IMAGES_H
#define SBX_CLI_IMAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "snap/image/ext4.h"
#include "util/buf.h"

/* As the commands of sbx.h. */
int cmd_image(int argc, char **argv);

/* The image `base`: a static busybox with its applets, and what they expect to find. */
int image_base(struct ext4 *fs, struct err *err);

struct image_options {
	const char *state;
	uint64_t size; /* bytes of a new image's disk; 0: as many as it takes */
	bool insecure; /* pull: over plain HTTP, or from who shows no certificate that is known */
	bool debian;   /* build: of Debian's packages */
	const char *suite;
	int argc; /* what is not an option */
	char **argv;
};

/* Fill a new disk; config is what its image says of commands. */
typedef int (*image_fill)(const struct image_options *options, const char *disk, const char *source,
			  struct buf *config, struct err *err);
/* An image of what `fill` makes; `how` becomes a line of a file. */
int image_make(const struct image_options *options, const char *name, const char *how, image_fill fill,
	       const char *source, struct err *err);
/* An image of what is imported; an exit status, after a message. */
int image_from(const struct image_options *options, const char *name, const char *source, const char *how);

/* image_sources.c: what other programs bring; exit statuses. */
int image_pull(const struct image_options *options, const char *name, const char *reference);
/* packages ends with NULL. */
int image_debian(const struct image_options *options, const char *name, char *const *packages);

/* image_export.c: `export WHAT KIND:FILE`; an exit status. */
int image_export_to(const struct image_options *options, const char *what, const char *target);

#endif
