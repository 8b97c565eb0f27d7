/* SPDX-License-Identifier: MIT */
/*
 * archive_priv.h - what both ends of an archive agree on
 *
 * The files of an archive (member.h), in this order:
 *
 *   base       only in one made with `since`: the snapshot it builds on, a manifest (manifest.h) with its `origin`,
 *              and digests (digest.h) of what the receiver has to have of it: `disk`, as it is read through the
 *              layer that those in the archive stand on, if there is one; `ram`, of the blocks that are referred to
 *   manifest   of the snapshot; its ram-source lines are not looked at
 *   ID.raw, ID.qcow2   the layers of the disk, or those that base does not have, the lowest first
 *   state      a RAM image that refers to no other
 *   ram        a RAM image. In one made with `since` blocks may refer to source 1: they are the base's blocks
 *              in the same place, and their offset means nothing
 */
#ifndef SBX_SNAP_ARCHIVE_PRIV_H
#define SBX_SNAP_ARCHIVE_PRIV_H

#define ARCHIVE_BASE "base"
#define ARCHIVE_BASE_KIND "sbxfs-base"
enum { ARCHIVE_BASE_VERSION = 1, ARCHIVE_BASE_MAX = 4096 };
#define ARCHIVE_MANIFEST "manifest"
#define ARCHIVE_STATE "state"
#define ARCHIVE_RAM "ram"

#endif
