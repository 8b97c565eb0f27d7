/* SPDX-License-Identifier: MIT */
/* id.c - names of objects: 128 random bits, written as 32 lower-case hexadecimal digits */
#include "snap/id.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

static const char digits[] = "0123456789abcdef";

int id_new(char ret[ID_TEXT])
{
	uint8_t bytes[ID_BYTES];

	/* Up to 256 bytes come whole. */
	if (getrandom(bytes, sizeof(bytes), 0) < 0)
		return -errno;
	id_from_bytes(bytes, ret);
	return 0;
}

bool id_valid(const char *text)
{
	return strspn(text, digits) == ID_CHARS && !text[ID_CHARS];
}

void id_to_bytes(const char *text, uint8_t ret[ID_BYTES])
{
	for (size_t i = 0; i < ID_BYTES; i++) {
		const char *high = strchr(digits, text[2 * i]), *low = strchr(digits, text[2 * i + 1]);

		ret[i] = (uint8_t)((high - digits) << 4 | (low - digits));
	}
}

void id_from_bytes(const uint8_t bytes[ID_BYTES], char ret[ID_TEXT])
{
	for (size_t i = 0; i < ID_BYTES; i++) {
		ret[2 * i] = digits[bytes[i] >> 4];
		ret[2 * i + 1] = digits[bytes[i] & 15];
	}
	ret[ID_CHARS] = '\0';
}
