/* SPDX-License-Identifier: MIT */
/* fuse.h - libfuse's low-level API at the version we are written for (3.14) */
#ifndef SBX_FS_FUSE_H
#define SBX_FS_FUSE_H

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

#endif
