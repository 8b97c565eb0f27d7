/* SPDX-License-Identifier: MIT */
/*
 * record.h - small text files of `key value` lines that know when they are damaged
 *
 *   sbxfs-image 1                     kind and version
 *   size 67108864                     keys in any order; what a key means is the kind's affair
 *   checksum 51bd4d1a8a1c1c5e         XXH3-64 of all bytes before this line
 *
 * A value is the rest of its line: bytes from 0x20 up, in which '%' and the bytes below 0x20 and 0x7f are
 * written %XX.
 */
#ifndef SBX_SNAP_RECORD_H
#define SBX_SNAP_RECORD_H

#include <stdbool.h>
#include <stddef.h>

#include "util/buf.h"
#include "util/err.h"

void record_begin(struct buf *buf, const char *kind, unsigned version);
void record_add(struct buf *buf, const char *key, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void record_end(struct buf *buf);

struct record {
	char *at, *end; /* what has not been read yet */
};

/*
 * Start to read n bytes of text, which are written to while they are read. -EIO: damaged (the checksum, or a
 * line that is none); -EINVAL: another kind or version.
 */
int record_open(struct record *record, char *text, size_t n, const char *kind, unsigned version,
		struct err *err);
/* The next pair, terminated and unescaped, valid as long as the text; false at the end. */
bool record_next(struct record *record, const char **key, char **value);

#endif
