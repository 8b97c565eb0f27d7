/* SPDX-License-Identifier: MIT */
/*
 * mutate.h - answers that are nearly right
 *
 * Every answer comes in the end, under its own type and id, so that nobody waits for a time limit. What is in it,
 * and what comes before, between and after it, is chance.
 */
#ifndef SBX_TESTS_HOSTILE_MUTATE_H
#define SBX_TESTS_HOSTILE_MUTATE_H

#include <stdint.h>

#include "util/buf.h"
#include "vm/agent/proto.h"

/* 0: no chance any more. The same seed does the same with the same answers in the same order. */
void mutate_start(uint64_t seed);
/* Appends the frames that take the place of this one to `out`. */
void mutate(struct buf *out, uint16_t type, uint16_t generation, uint32_t id, const uint8_t *payload,
	    size_t len);
/* What was held back, the last first. */
void mutate_release(struct buf *out);

#endif
