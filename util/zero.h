/* SPDX-License-Identifier: MIT */
/* zero.h - is it all zero? */
#ifndef SBX_UTIL_ZERO_H
#define SBX_UTIL_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Equal to itself one byte on, and the first byte is zero: memcmp is the fastest loop there is. */
static inline bool all_zero(const void *data, size_t n)
{
	const uint8_t *p = data;

	return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

#endif
