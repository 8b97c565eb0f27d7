/* SPDX-License-Identifier: MIT */
/*
 * cpu_flags.h - CPU features that programs look for once and then rely on
 *
 * A guest that runs on this host's CPU may be in the middle of such code when it is captured. Names are those
 * of "flags" in /proc/cpuinfo.
 */
#ifndef SBX_VM_CPU_FLAGS_H
#define SBX_VM_CPU_FLAGS_H

#include <stdbool.h>

#include "util/buf.h"

/* Append "cpu FLAG" for each that this host has. */
void cpu_flags_put(struct buf *text);
bool cpu_flags_have(const char *flag);

#endif
