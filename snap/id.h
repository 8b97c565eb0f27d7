/* SPDX-License-Identifier: MIT */
/* id.h - names of objects: 128 random bits, written as 32 lower-case hexadecimal digits */
#ifndef SBX_SNAP_ID_H
#define SBX_SNAP_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ID_BYTES = 16, ID_CHARS = 2 * ID_BYTES, ID_TEXT = ID_CHARS + 1 };

/* A new one; 0 or a negative errno. */
int id_new(char ret[ID_TEXT]);
bool id_valid(const char *text);
/* text must be valid. */
void id_to_bytes(const char *text, uint8_t ret[ID_BYTES]);
void id_from_bytes(const uint8_t bytes[ID_BYTES], char ret[ID_TEXT]);

#endif
