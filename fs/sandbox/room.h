/* SPDX-License-Identifier: MIT */
/*
 * room.h - the room that machines take of the store
 *
 * What a guest writes goes to a layer of its sandbox's, and what the store's filesystem has is there for all of
 * them. So the layers are looked at while machines run, the more often the less is left: a machine whose disk has
 * reached its limit is stopped where it is, as one is that finds no room at all (machine.h); so is, when the store
 * has less than its reserve free, the one that takes the most of it. The others go on, into the reserve.
 *
 * A limit counts what the sandbox itself wrote: its present layer, and those that its snapshots froze since it
 * began. A machine can be past it by what it writes in one look's time (ROOM_RATE).
 */
#ifndef SBX_FS_SANDBOX_ROOM_H
#define SBX_FS_SANDBOX_ROOM_H

#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"
#include "util/list.h"

struct fs;
struct sandbox;

/* Nothing writes more in a second, it is taken: bytes. */
#define ROOM_RATE (UINT64_C(1) << 30)

/* A sandbox's part. */
struct room {
	uint64_t below;     /* in layers that it froze */
	uint64_t window_ns; /* when its growth was last begun to be measured; 0: it was not */
	uint64_t seen;      /* bytes of its present layer then */
};

/* The daemon's; -ENOMEM. Closed, before its loop is freed, nothing is looked at any more. */
int room_open(struct fs *fs, struct err *err);
void room_close(struct fs *fs);
/* A machine runs, or a limit changed: look soon. */
void room_watch(struct fs *fs);
/* Its present layer is frozen, and another follows. */
void room_frozen(struct sandbox *sb);
/* It begins with a new layer on what others wrote. */
void room_begin(struct sandbox *sb);
/* Bytes that count against its limit. */
uint64_t room_used(const struct sandbox *sb);
/* ...and the limit: LIMIT_NONE is none. */
uint64_t room_max(const struct sandbox *sb);
/* May a machine that was stopped go on? 0, or -ENOSPC with the reason. */
int room_check(const struct sandbox *sb, struct err *err);
/* May something be saved or imported? Both may take half of the reserve. 0, or -ENOSPC with the reason. */
int room_to_save(const struct fs *fs, struct err *err);
/* May so many bytes be saved that can be had again? They leave twice the reserve. 0, or -ENOSPC with the reason. */
int room_to_keep(const struct fs *fs, uint64_t bytes, struct err *err);
/* The reserve in bytes, which is the options' or else follows from the size of the store's filesystem. */
uint64_t room_reserve(const struct fs *fs);

#endif
