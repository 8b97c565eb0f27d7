/* SPDX-License-Identifier: MIT */
/* id.h - identifiers of layers and of what snapshots store: 128 random bits in hexadecimal */
#ifndef SBX_SNAP_ID_H
#define SBX_SNAP_ID_H

#include <stdbool.h>

enum { ID_LEN = 32, ID_SIZE = ID_LEN + 1 };

/* A fresh one; unique by its length, so that nothing has to be asked or locked. 0 or a negative errno. */
int id_make(char ret[ID_SIZE]);
/* Whether text is ID_LEN lower-case hexadecimal digits and then `rest`, as in "ID.qcow2". */
bool id_valid(const char *text, const char *rest);

#endif
