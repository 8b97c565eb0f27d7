/* SPDX-License-Identifier: MIT */
/* arguments.h - the command line of sbxfs, and where what it names is */
#ifndef SBX_FS_ARGUMENTS_H
#define SBX_FS_ARGUMENTS_H

#include <limits.h>

#include "fs/fs.h"
#include "vm/jail/jail.h"

struct arguments {
	const char *state, *engine, *mount_options, *guest, *libexec;
	bool foreground, untrusted;
	mode_t mode; /* of the root */
	struct jail_config jail;
	char mountpoint[PATH_MAX], state_dir[PATH_MAX], layers_dir[PATH_MAX + 8];
	char kernel[PATH_MAX + 16], initrd[PATH_MAX + 16], libexec_dir[PATH_MAX + 32];
};

/* Options into *args and *options, which have the defaults. 0: go on; otherwise the program ends with *status. The
 * mount point is at optind then. */
int arguments_parse(int argc, char **argv, struct arguments *args, struct options *options, int *status);
/* The paths in *args, absolute: of the mount point, from which a stale mount is detached, of the state and the guest. */
int arguments_find(struct arguments *args, const char *mountpoint, struct err *err);

#endif
