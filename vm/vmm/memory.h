/* SPDX-License-Identifier: MIT */
/*
 * memory.h - the guest's RAM
 *
 * RAM is one range of host addresses that is reserved for the life of the process: in it, bytes of RAM follow
 * each other, while in the guest RAM leaves a hole below 4 GiB for devices. What is mapped there can change
 * until the machine runs: nothing, fresh zero pages (a boot), or a template, privately (a fork). KVM is told
 * of the range once, since it follows the process's page tables.
 *
 * Guest addresses are untrusted wherever they come from: the only way from one to a pointer is guest_ptr().
 * The guest's CPUs change the bytes at any time, so what is checked must be a copy.
 */
#ifndef SBX_VM_VMM_MEMORY_H
#define SBX_VM_VMM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "snap/template.h"
#include "util/err.h"

#define GUEST_LOW_MAX 0xc0000000u    /* RAM below 4 GiB ends here at the latest */
#define GUEST_HIGH_BASE 0x100000000u /* and goes on here */

struct guest_memory {
	uint8_t *host;     /* of RAM byte 0; NULL: nothing reserved */
	uint64_t size;     /* bytes; a multiple of the page size */
	int template_fd;   /* what is mapped, or -1 for zero pages; ours */
	int overlay_fd;    /* what is mapped over that, or -1; ours */
	uint8_t *overlaid; /* the map of pages that it covers (snap/template.h); NULL: none */
};

/* What a fork's RAM is: a template's, and for the pages that a map has a bit for what is in another file. */
struct guest_template {
	int ram_fd;
	int overlay_fd, map_fd; /* -1: none */
};

/* Reserve address space for `size` bytes; touching it is a fault until something is mapped. */
int guest_memory_reserve(struct guest_memory *memory, uint64_t size, struct err *err);
/* Fill the range with zero pages. */
int guest_memory_map_zero(struct guest_memory *memory, struct err *err);
/*
 * Fill it with the template's bytes, copied on write. Takes over ram_fd and overlay_fd, each once it is memory's field,
 * which may be so although this fails. -EINVAL when a file has not exactly the size that it must have, or could still
 * be changed by somebody.
 */
int guest_memory_map_template(struct guest_memory *memory, const struct guest_template *template,
			      struct err *err);
void guest_memory_release(struct guest_memory *memory);

/* How much of the RAM is below the hole; the rest is from GUEST_HIGH_BASE. */
static inline uint64_t guest_low_size(const struct guest_memory *memory)
{
	return memory->size < GUEST_LOW_MAX ? memory->size : GUEST_LOW_MAX;
}

/* The bytes [gpa, gpa + len) of the guest, or NULL where not all of them are RAM. len 0 is allowed. */
static inline void *guest_ptr(const struct guest_memory *memory, uint64_t gpa, uint64_t len)
{
	const uint64_t low = guest_low_size(memory);

	if (gpa <= low && len <= low - gpa)
		return memory->host + gpa;
	if (gpa < GUEST_HIGH_BASE)
		return NULL;
	gpa = gpa - GUEST_HIGH_BASE;
	if (gpa > memory->size - low || len > memory->size - low - gpa)
		return NULL;
	return memory->host + low + gpa;
}

#endif
