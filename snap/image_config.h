/* SPDX-License-Identifier: MIT */
/*
 * image_config.h - what an image says of the commands that are to run in it
 *
 * Lines "KEY VALUE". `env` (K=V), `entrypoint` and `cmd` (a word of the command each) may repeat; `workdir`
 * and `user` come once. In a value a newline is written as \n and a backslash as \\. The text is at most
 * IMAGE_CONFIG_MAX bytes. It is kept in the image's record, and on its disk, where the agent of every machine
 * that began with it finds it: as the extended attribute IMAGE_CONFIG_XATTR of the root directory.
 */
#ifndef SBX_SNAP_IMAGE_CONFIG_H
#define SBX_SNAP_IMAGE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "util/buf.h"
#include "util/err.h"

enum { IMAGE_CONFIG_MAX = 32 << 10 };

#define IMAGE_CONFIG_XATTR "trusted.sbx.config"

bool image_config_key(const char *key);
/* Add a line; the value is any text. */
void image_config_add(struct buf *text, const char *key, const char *value);
/* 0, -EINVAL for what is no config, -E2BIG or -ENOMEM. */
int image_config_check(const struct buf *text, struct err *err);
/*
 * The next line of text that was checked, from *pos on; false: no more. *ret_key has its key, and value (of
 * `size` bytes, at least IMAGE_CONFIG_MAX) its value as it was given.
 */
bool image_config_next(const struct buf *text, size_t *pos, char ret_key[16], char *value, size_t size);

#endif
