/* SPDX-License-Identifier: MIT */
/* fuse.h - libfuse's low-level interface, in the version we are written for (Debian 12 has 3.14) */
#ifndef SBX_FS_TREE_FUSE_H
#define SBX_FS_TREE_FUSE_H

#define FUSE_USE_VERSION 312
#include <fuse3/fuse_lowlevel.h>

#endif
