/* SPDX-License-Identifier: MIT */
/*
 * dump.h - a snapshot as readable text: its manifest, the indexes of its images, checksums, what it refers to
 *
 * For people who look into a store (docs/format.md has an example); nothing reads it back. Everything dumped is
 * untrusted: what has no place in a line of text is escaped, and what is damaged is said where it stands.
 * Reads the store beside a daemon or without one, and changes nothing. Any thread.
 */
#ifndef SBX_SNAP_DUMP_H
#define SBX_SNAP_DUMP_H

#include <stdio.h>

#include "util/err.h"

/* The snapshot of an object's directory, STATE/objects/ID. Goes on after damage; returns the first found. */
int snapshot_dump(const char *object_dir, FILE *out, struct err *err);
/* The same by the snapshot's name. -ENOENT: there is none. */
int snapshot_dump_named(const char *state_dir, const char *name, FILE *out, struct err *err);

#endif
