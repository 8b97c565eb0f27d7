/* SPDX-License-Identifier: MIT */
/*
 * manifest.h - small readable files of "key value" lines that know their kind, their version and damage
 *
 *	sbxfs-snapshot 1
 *	created 1767225600000000000
 *	env WORKER_ID=42
 *	checksum 8c4f0d2b6c1d9e55
 *
 * The first line is the kind and the version. Keys may repeat. The last line is the XXH3 of all before it.
 */
#ifndef SBX_SNAP_MANIFEST_H
#define SBX_SNAP_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/buf.h"
#include "util/err.h"

enum { MANIFEST_MAX = 1 << 20 };

/* Writing: begin, any number of lines, end; then out->failed says whether memory ran out. */
void manifest_begin(struct buf *out, const char *kind, unsigned version);
/* value is cut at its first newline. */
void manifest_add(struct buf *out, const char *key, const char *value);
void manifest_add_number(struct buf *out, const char *key, uint64_t value);
/* One line "key LINE" for each line of text. */
void manifest_add_lines(struct buf *out, const char *key, const struct buf *text);
void manifest_end(struct buf *out);

/*
 * Reading: open checks the checksum (-EIO), kind and version (-EINVAL, with the version found, if it is above `version`); next yields
 * one line after the other, in place. `name` is the file's, for err. Changes the text.
 */
struct manifest {
	char *next, *end;
};
int manifest_open(struct manifest *manifest, char *text, size_t len, const char *kind, unsigned version,
		  const char *name, struct err *err);
bool manifest_next(struct manifest *manifest, char **ret_key, char **ret_value);

#endif
