/* SPDX-License-Identifier: MIT */
/*
 * template.h - a captured machine, from which forks are made
 *
 * A template is what a capture yields and what a fork starts from: the RAM in a sealed memfd, which forks map
 * privately; the CPU and device state, whose format is the engine's own business; the immutable disk layer;
 * and the shape of the machine. It never changes. Templates are counted: a snapshot holds one reference, and
 * so does every machine that still maps the RAM or waits to. Single-threaded but for the descriptors, which
 * worker threads may read.
 */
#ifndef SBX_SNAP_TEMPLATE_H
#define SBX_SNAP_TEMPLATE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "util/err.h"

struct layer; /* snap/layer.h */

enum { ENGINE_NAME_MAX = 16, RAM_PAGE = 4096, TEMPLATE_STATE_MAX = 64 << 20 /* bytes */ };

/* No machine has more. */
#define SHAPE_MEMORY_LIMIT (64ull << 30)
enum { SHAPE_CPUS_LIMIT = 64, SHAPE_INIT_MAX = 64 };

/* What a guest can see of its hardware. The maxima and the kernel are fixed when it boots. */
struct shape {
	uint64_t memory;     /* bytes in use now */
	uint64_t memory_max; /* bytes; a multiple of 128 MiB's divisor RAM_PAGE; the size of the RAM memfd */
	uint32_t cpus;       /* online now */
	uint32_t cpus_max;
	/* What is to be process 1: a path without blanks; "": our agent, or what an earlier boot of the disk was told.
	 * Nothing but a boot looks at it, and it is not stored. */
	char init[SHAPE_INIT_MAX];
};

struct template
{
	unsigned refs;
	char engine[ENGINE_NAME_MAX]; /* that captured it, the only one that can fork it */
	struct shape shape;
	/* sealed memfd, memory_max bytes (or the engine's RAM size), holes where the RAM is zero */
	int ram_fd;
	/*
	 * A capture of a fork may have only what is not as in the template that it was forked from, or in that one's
	 * own base: then map_fd is a sealed memfd with a bit for each page, lowest first, and pages without one are
	 * base's. A base has no base. NULL and -1: all RAM is in ram_fd.
	 */
	struct template *base; /* a reference */
	int map_fd;
	uint64_t ram_size;
	int state_fd;        /* sealed memfd: the engine's device state */
	struct layer *disk;  /* immutable; a reference is held */
	uint32_t generation; /* of the agent channel at capture */
	int quiesced;        /* the agent channel was empty at capture (see vm/agent/proto.h) */
	uint64_t pause_ns;   /* how long the source stood still */
	/* How many pages of its RAM were copied before that, and while it stood, where the engine copies; not stored. */
	uint64_t pages_ahead, pages_stopped;
};

/* One reference; descriptors -1. NULL when out of memory. */
struct template *template_new(void);
struct template_files {
	int ram, state, map; /* map: -1 without a base */
};
/*
 * Give it what a process has captured: template->ram_size bytes of RAM, a state, and a map if template->base is set,
 * all sealed memory. They are the template's on success; -EPROTO when they are something else.
 */
int template_adopt(struct template *template, const struct template_files *files, struct err *err);
/* Bytes of a map for so many bytes of RAM; does it have the page at an offset; now it does. */
static inline uint64_t template_map_size(uint64_t ram_size)
{
	return (ram_size / RAM_PAGE + 7) / 8;
}
static inline bool template_map_has(const uint8_t *map, uint64_t offset)
{
	return map[offset / RAM_PAGE / 8] >> offset / RAM_PAGE % 8 & 1;
}
static inline void template_map_add(uint8_t *map, uint64_t offset)
{
	map[offset / RAM_PAGE / 8] |= (uint8_t)(1u << offset / RAM_PAGE % 8);
}
/* The first page at or after an offset that a map has, or has not; ram_size where there is none. */
static inline uint64_t template_map_next(const uint8_t *map, uint64_t ram_size, uint64_t offset, bool has)
{
	const uint64_t at_once = 64 * RAM_PAGE, pass = has ? 0 : ~UINT64_C(0);
	uint64_t word;

	while (offset < ram_size && template_map_has(map, offset) != has) {
		word = ~pass;
		if (offset % at_once == 0 && ram_size - offset >= at_once)
			memcpy(&word, map + offset / RAM_PAGE / 8, sizeof(word));
		offset += word == pass ? at_once : RAM_PAGE;
	}
	return offset < ram_size ? offset : ram_size;
}
struct template *template_ref(struct template *template);
/* Drops a reference; the last one closes the descriptors and lets go of the disk. NULL is allowed. */
void template_unref(struct template *template);

#endif
