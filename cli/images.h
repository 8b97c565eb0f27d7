/* SPDX-License-Identifier: MIT */
/* images.h - `sbx image`: images in a state directory, beside a running daemon or without one */
#ifndef SBX_CLI_IMAGES_H
#define SBX_CLI_IMAGES_H

#include "cli/ext4.h"

/* As the commands of sbx.h. */
int cmd_image(int argc, char **argv);

/* The image `base`: a static busybox with its applets, and what they expect to find. */
int image_base(struct ext4 *fs, struct err *err);

/* What is in a directory, or in a tar archive, compressed or not. The archive is untrusted: it is written
 * into the new filesystem and nowhere else. */
int image_import(struct ext4 *fs, const char *source, struct err *err);

#endif
