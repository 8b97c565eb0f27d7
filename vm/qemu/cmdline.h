/* SPDX-License-Identifier: MIT */
/* cmdline.h - the command line that makes QEMU the machine we want, at boot and for each of its forks */
#ifndef SBX_VM_QEMU_CMDLINE_H
#define SBX_VM_QEMU_CMDLINE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "snap/template.h"
#include "vm/disk_files.h"

enum { QEMU_ARGS_MAX = 620 };

/* All descriptors are inherited at these numbers, and those of the disk from disk_fd on. */
struct qemu_config {
	const struct shape *shape;
	uint64_t ram_size;
	bool kvm;           /* else TCG */
	bool fork;          /* map the RAM privately and wait for the state; else boot */
	const char *kernel; /* of a boot */
	const char *initrd;
	const struct disk *disk;
	int disk_fd, disk_reading_fd; /* the second is the topmost file's, read-only */
	int qmp_fd, agent_fd, console_fd, net_fd, ram_fd;
};

/* Without the program's name. */
struct qemu_args {
	char *argv[QEMU_ARGS_MAX + 1]; /* NULL-terminated */
	unsigned n;
	bool failed;
};

/* 0 or -ENOMEM; release either way. */
int qemu_args_build(struct qemu_args *args, const struct qemu_config *config);
void qemu_args_release(struct qemu_args *args);

/*
 * The block node of overlay number n, for -blockdev and blockdev-add; NULL when out of memory. Its files are
 * QEMU's fdsets from first_set on, in the order of the disk. One that is to be put on top of the present disk
 * (`detached`) has no backing file of its own.
 */
cJSON *qemu_disk_node(unsigned n, const struct disk *disk, unsigned first_set, bool detached);

/* The fdsets of the disk that a machine starts with; free numbers follow. */
enum { QEMU_FIRST_SET = 2 };

/* Of the disk device. */
#define QEMU_DISK_ID "disk"

enum { QEMU_NODE_NAME_MAX = 24 };
void qemu_disk_node_name(char name[QEMU_NODE_NAME_MAX], unsigned n);

#endif
