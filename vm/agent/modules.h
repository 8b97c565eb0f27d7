/* SPDX-License-Identifier: MIT */
/*
 * modules.h - the file of the kernel's modules that guests read (mkmodules has its form)
 *
 * It is opened once, for all machines, and read in pieces from wherever a guest says; what is in it is for guests to
 * understand. Any thread may read.
 */
#ifndef SBX_VM_AGENT_MODULES_H
#define SBX_VM_AGENT_MODULES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/err.h"

struct modules;

/* 0; -ENOENT: there is none at this path; -EINVAL: that is something else. */
int modules_open(const char *path, struct modules **ret, struct err *err);
/* NULL is allowed. */
void modules_close(struct modules *modules);
/* So that who reads one piece after the other knows that they are of one file. */
uint64_t modules_which(const struct modules *modules);
/*
 * Up to n bytes from there on, fewer at its end; or a negative errno. It is a file of the size of a kernel, which stays
 * in the host's page cache while somebody reads it: the first to read may wait for the disk.
 */
ssize_t modules_read(const struct modules *modules, uint64_t offset, void *p, size_t n);

#endif
