/* SPDX-License-Identifier: MIT */
/* arguments.h - the command lines of sbxfs, its own and mount(8)'s, and where what they name is */
#ifndef SBX_FS_ARGUMENTS_H
#define SBX_FS_ARGUMENTS_H

#include <limits.h>

#include "fs/fs.h"
#include "util/buf.h"
#include "vm/jail/jail.h"

/* Called by this name, sbxfs is what mount(8) starts for a filesystem of type fuse.sbxfs. */
#define MOUNT_HELPER "mount.fuse.sbxfs"

struct arguments {
	const char *state, *engine, *guest, *libexec;
	const char *operand;      /* the mount point as it was given */
	struct buf mount_options; /* for libfuse, with commas between them, and a NUL at the end */
	struct buf config;        /* the text of a file of options: what is above may point into it */
	bool foreground, untrusted, has_group;
	mode_t mode; /* of the root */
	gid_t group; /* of the root; !has_group: our own */
	struct jail_config jail;
	char mountpoint[PATH_MAX], state_dir[PATH_MAX], layers_dir[PATH_MAX + 8];
	char kernel[PATH_MAX + 16], initrd[PATH_MAX + 16], modules[PATH_MAX + 16], libexec_dir[PATH_MAX + 32];
};

/*
 * Options into *args and *options, which have the defaults: those of a file, then those of the command line, which count
 * more. 0: go on; otherwise the program ends with *status, and what was to be said has been said. argv has to last.
 */
int arguments_parse(int argc, char **argv, struct arguments *args, struct options *options, int *status);
/* The paths in *args, absolute: of the mount point, from which a stale mount is detached, of the state and the guest. */
int arguments_find(struct arguments *args, struct err *err);
static inline const char *arguments_mount_options(const struct arguments *args)
{
	return (const char *)buf_bytes(&args->mount_options);
}

#endif
