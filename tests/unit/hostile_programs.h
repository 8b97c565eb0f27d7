/* SPDX-License-Identifier: MIT */
/* hostile_programs.h - a VMM that was taken over (tests/hostile/vmm.c) in the place of ours, sbx-net and QEMU */
#ifndef SBX_TESTS_HOSTILE_PROGRAMS_H
#define SBX_TESTS_HOSTILE_PROGRAMS_H

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "vm/jail/jail.h"

/* In a directory that others may look into: as sbx-vmm and sbx-net, and first in PATH as QEMU. */
static inline void hostile_programs(const char *dir)
{
	char self[PATH_MAX - 64], path[PATH_MAX];
	const ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	CHECK(n > 0);
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	CHECK(!chmod(dir, 0777));
	snprintf(path, sizeof(path), "%s:%s", dir, getenv("PATH"));
	CHECK(!setenv("PATH", path, 1));
	sh_in(dir, "cp %s/../hostile/vmm sbx-vmm && cp sbx-vmm sbx-net && cp sbx-vmm " QEMU_PROGRAM, self);
}

#endif
