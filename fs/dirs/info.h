/* SPDX-License-Identifier: MIT */
/* info.h - lines of the files that report, each `key value`: info, stats and status */
#ifndef SBX_FS_DIRS_INFO_H
#define SBX_FS_DIRS_INFO_H

#include <stdint.h>

#include "util/buf.h"

void info_number(struct buf *text, const char *key, uint64_t n);
/* A value that may be empty is a dash then, so that every line has two words. */
void info_word(struct buf *text, const char *key, const char *word);
/* Nanoseconds since 1970, as a date. */
void info_time(struct buf *text, const char *key, uint64_t ns);

#endif
