/* SPDX-License-Identifier: MIT */
/*
 * kernel_args.c - the part of the guest's kernel command line that follows from the machine's shape
 *
 * maxcpus= leaves the other CPUs for later (1.3 s of a TCG boot with four); the agent brings them up through
 * sysfs. Memory above the setting is taken offline by the agent (sbx.memory=), which works for blocks in
 * ZONE_MOVABLE only: movablecore= says how much of the RAM is that. nokaslr, or the kernel may load itself
 * into the part that is to be movable.
 *
 * Two parts of the RAM stay with the kernel. Its own data lives below the movable zone, in at least 256 MiB
 * and an eighth of the maximum where `memory` leaves room for it (admin-guide/mm/memory-hotplug.rst warns of
 * larger ratios). What it allocates before there are zones, most of it the page structures of all RAM (64
 * bytes a page), is at the top. So the memory cannot go below both together: the agent refuses that
 * (sbx.floor=).
 */
#include "vm/kernel_args.h"

#include <inttypes.h>
#include <stdio.h>

#define BLOCK (UINT64_C(128) << 20) /* the unit in which a kernel takes memory offline */
#define NORMAL_MIN (UINT64_C(256) << 20)
#define EARLY (UINT64_C(16) << 20) /* hash tables and such, before there are zones */

static uint64_t align_up(uint64_t n)
{
	return (n + BLOCK - 1) / BLOCK * BLOCK;
}

static uint64_t top_size(const struct shape *shape)
{
	return align_up(shape->memory_max / 64 + EARLY);
}

/* Bytes from the bottom that are not movable. */
static uint64_t normal_size(const struct shape *shape)
{
	const uint64_t top = top_size(shape);
	uint64_t normal = shape->memory_max / 8;

	if (shape->memory_max <= NORMAL_MIN && shape->memory == shape->memory_max)
		return shape->memory_max;
	if (normal < NORMAL_MIN)
		normal = NORMAL_MIN;
	if (shape->memory < top + BLOCK)
		normal = BLOCK;
	else if (normal > shape->memory - top)
		normal = shape->memory - top;
	return normal < shape->memory_max ? normal : shape->memory_max;
}

uint64_t memory_floor(const struct shape *shape)
{
	const uint64_t floor = align_up(normal_size(shape)) + top_size(shape);

	return floor < shape->memory_max ? floor : shape->memory_max;
}

void kernel_args(const struct shape *shape, char ret[KERNEL_ARGS_SIZE])
{
	snprintf(ret, KERNEL_ARGS_SIZE,
		 "maxcpus=%" PRIu32 " sbx.cpus=%" PRIu32 " nokaslr sbx.memory=%" PRIu64 " sbx.floor=%" PRIu64
		 " movablecore=%" PRIu64 "%s%s",
		 shape->cpus, shape->cpus, shape->memory, memory_floor(shape),
		 shape->memory_max - normal_size(shape), *shape->init ? " sbx.init=" : "", shape->init);
}
