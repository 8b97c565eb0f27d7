/* SPDX-License-Identifier: MIT */
/*
 * kernel_args.c - the part of the guest's kernel command line that follows from the machine's shape
 *
 * maxcpus= leaves the other CPUs for later (1.3 s of a TCG boot with four); the agent brings them up through
 * sysfs. Memory above the setting is taken offline by the agent (sbx.memory=), which works for blocks in
 * ZONE_MOVABLE only: movablecore= says how much of the RAM is that. The kernel's own data lives in the rest,
 * at least 256 MiB and a quarter of the maximum (admin-guide/mm/memory-hotplug.rst warns of larger ratios),
 * and never more than the setting. nokaslr, or the kernel may load itself into the part that is to be
 * movable.
 */
#include "vm/kernel_args.h"

#include <inttypes.h>
#include <stdio.h>

#define NORMAL_MIN (UINT64_C(256) << 20)

void kernel_args(const struct machine *machine, char ret[KERNEL_ARGS_SIZE])
{
	uint64_t normal = machine->memory_max / 4;

	if (normal < NORMAL_MIN)
		normal = NORMAL_MIN;
	if (normal > machine->memory)
		normal = machine->memory;
	snprintf(ret, KERNEL_ARGS_SIZE,
		 "maxcpus=%" PRIu32 " sbx.cpus=%" PRIu32 " nokaslr sbx.memory=%" PRIu64
		 " movablecore=%" PRIu64,
		 machine->cpus, machine->cpus, machine->memory, machine->memory_max - normal);
}
