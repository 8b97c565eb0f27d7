/* SPDX-License-Identifier: MIT */
/*
 * config.h - options as text: the lines of a file, and the words of a list for mount(8)
 *
 * A file has one option a line, `NAME = VALUE`. Blanks around both are no part of them, and lines that are empty or
 * begin with # say nothing. Of two lines for one option the last counts, as it is set last. Names and values are not
 * looked at here.
 */
#ifndef SBX_FS_CONFIG_H
#define SBX_FS_CONFIG_H

#include <stddef.h>

#include "util/buf.h"
#include "util/err.h"

#define CONFIG_FILE "/etc/sbxfs.conf"

/* Takes one option; the text lasts as long as what it was read into. An error ends the reading. */
typedef int (*config_fn)(void *arg, const char *name, const char *value, struct err *err);

/*
 * Each option of the file at `path`, in order, read into *text, which is empty before. Errors begin with the path
 * and, if a line is wrong, its number: -EINVAL, what fn returned, or why the file cannot be read.
 */
int config_read(const char *path, struct buf *text, config_fn fn, void *arg, struct err *err);

/* The same for the text of such a file, which ends with a NUL and is cut to pieces; `path` is for errors. */
int config_parse(char *text, const char *path, config_fn fn, void *arg, struct err *err);

/*
 * Each word of a list with commas between them, until fn does not return 0, which is returned then. A comma between
 * double quotes is part of a word, as for mount(8). fn may write into its word, and at word[n].
 */
int config_each_word(char *text, int (*fn)(void *arg, char *word, size_t n), void *arg);

/* A word's value without the quotes around it; in place. */
char *config_unquote(char *value);

#endif
