/* SPDX-License-Identifier: MIT */
/* die.h - the end of a benchmark, or of a driver for trying by hand, that cannot go on */
#ifndef SBX_TESTS_DIE_H
#define SBX_TESTS_DIE_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

__attribute__((format(printf, 1, 2), noreturn)) static inline void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

#endif
