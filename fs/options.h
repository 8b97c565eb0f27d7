/* SPDX-License-Identifier: MIT */
/*
 * options.h - the options of sbxfs, wherever they come from: the command line, mount options or a file
 *
 * An option's value is text, and that text has to last: what it sets may point to it.
 */
#ifndef SBX_FS_OPTIONS_H
#define SBX_FS_OPTIONS_H

#include "fs/arguments.h"
#include "util/program.h"

enum { OPTION_CONFIG = PROGRAM_LONG }; /* --config: says where others are, and is not for option_set */

extern const struct program_option option_table[]; /* ends with key 0 */

/* The one whose long name are these n bytes, or NULL. */
const struct program_option *option_find(const char *name, size_t n);

/*
 * -EINVAL, with what is wrong with the value: the caller says which option it was. An option that takes no value
 * (option->arg is NULL) may be given yes or no; NULL is yes. Not for -o, which holds others.
 */
int option_set(int key, const char *value, struct arguments *args, struct options *options, struct err *err);

#endif
