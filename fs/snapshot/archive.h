/* SPDX-License-Identifier: MIT */
/*
 * archive.h - the files `archive` and `archive.since/BASE` of a snapshot
 *
 * Reading exports: a worker writes into a pipe whose other end answers the reads, so that an archive of any
 * size needs the pipe's memory and a slow reader holds up nobody. Writing, to the `archive` of an empty
 * snapshot, imports: the writes go into a pipe that a worker reads.
 *
 * The close by who wrote last is the archive's end, and waits until the snapshot is checked and durable, or
 * fails with the reason (FUSE_FLUSH; close(2) returns it). Closes by others that have the descriptor, as a
 * shell's child has it, mean nothing. After a failure the directory is empty as before; `error` says why.
 */
#ifndef SBX_FS_SNAPSHOT_ARCHIVE_H
#define SBX_FS_SNAPSHOT_ARCHIVE_H

#include "fs/snapshot/snapshot.h"

extern const struct stream_ops archive_ops;
extern const struct dir_ops archive_since_dir;

/* The snapshot goes. */
void archive_forget(struct snapshot *snap);

#endif
