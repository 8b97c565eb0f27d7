/* SPDX-License-Identifier: MIT */
/* images.h - `sbx image`: images in a state directory, beside a running daemon or without one */
#ifndef SBX_CLI_IMAGES_H
#define SBX_CLI_IMAGES_H

#include "snap/image/ext4.h"

/* As the commands of sbx.h. */
int cmd_image(int argc, char **argv);

/* The image `base`: a static busybox with its applets, and what they expect to find. */
int image_base(struct ext4 *fs, struct err *err);

#endif
