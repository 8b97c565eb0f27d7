/* SPDX-License-Identifier: MIT */
/* id.c - identifiers of layers and of what snapshots store */
#include "snap/id.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>

int id_make(char ret[ID_SIZE])
{
	static const char digits[] = "0123456789abcdef";
	uint8_t bytes[ID_LEN / 2];

	/* Up to 256 bytes come whole, once the pool was seeded (getrandom(2)). */
	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		return -errno;
	for (unsigned i = 0; i < sizeof(bytes); i++) {
		ret[2 * i] = digits[bytes[i] >> 4];
		ret[2 * i + 1] = digits[bytes[i] & 15];
	}
	ret[ID_LEN] = '\0';
	return 0;
}

bool id_valid(const char *text, const char *rest)
{
	return strspn(text, "0123456789abcdef") == ID_LEN && !strcmp(text + ID_LEN, rest);
}
