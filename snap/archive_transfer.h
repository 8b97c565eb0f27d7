/* SPDX-License-Identifier: MIT */
/*
 * archive_transfer.h - a snapshot as one stream of bytes, to another store or another host
 *
 * Export and import are begin and end on the loop's thread, and run [worker] in between, which blocks on one
 * end of a pipe: the caller moves the bytes at the other end, and closes it to say that it gives up (a reader
 * that goes makes export fail with -EPIPE; SIGPIPE must be ignored) or, importing, that this was all.
 *
 * An archive is complete in itself; with `since` it leaves out the layers and the RAM blocks that the
 * snapshot of that name has, and can be imported only where that snapshot is, under any name. What is read is
 * checked as if it came from an enemy. The stream is documented in docs/format.md.
 */
#ifndef SBX_SNAP_ARCHIVE_TRANSFER_H
#define SBX_SNAP_ARCHIVE_TRANSFER_H

#include "snap/store.h"
#include "util/err.h"

struct export;
/* since: NULL or a snapshot's name. -ENOENT, -EIO. */
int archive_export_begin(struct store *store, const char *name, const char *since, struct progress *progress,
			 struct export **ret, struct err *err);
int archive_export_run(struct export *export, int fd); /* [worker] fd stays the caller's */
int archive_export_end(struct export *export, int result, struct err *err);

struct import;
/* Reserves the name: -EEXIST. The snapshot will be `owner`'s, whatever the archive comes from; NULL: this
 * process's, for nobody else. */
int archive_import_begin(struct store *store, const char *name, const struct owner *owner,
			 struct progress *progress, struct import **ret, struct err *err);
/* [worker] fd stays the caller's. Durable on success. */
int archive_import_run(struct import *import, int fd);
/* The snapshot is there, or no trace of it is. */
int archive_import_end(struct import *import, int result, struct err *err);

#endif
