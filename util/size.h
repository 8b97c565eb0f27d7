/* SPDX-License-Identifier: MIT */
/* size.h - numbers as people write them */
#ifndef SBX_UTIL_SIZE_H
#define SBX_UTIL_SIZE_H

#include <stdint.h>

/*
 * Parse "512M": a decimal number of bytes with an optional K, M, G or T (powers of 1024, either case) and
 * nothing else. Returns 0, -EINVAL (not a size) or -ERANGE (above UINT64_MAX).
 */
int size_parse(const char *text, uint64_t *ret);

/* Parse a decimal number and nothing else; the same errors. */
int number_parse(const char *text, uint64_t *ret);

#endif
