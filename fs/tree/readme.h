/* SPDX-License-Identifier: MIT */
/* readme.h - the file README, generated from the tables the tree is served from */
#ifndef SBX_FS_TREE_README_H
#define SBX_FS_TREE_README_H

#include "util/buf.h"

void readme(struct buf *text);

#endif
