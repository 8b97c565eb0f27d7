/* SPDX-License-Identifier: MIT */
/*
 * unit.h - what a unit test needs
 *
 * A unit test is a program: it runs its TEST()s in turn, prints one line for each, and ends with status 1 at
 * the first CHECK() that does not hold.
 */
#ifndef SBX_TESTS_UNIT_H
#define SBX_TESTS_UNIT_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(cond)                                                                                          \
	do {                                                                                                 \
		if (!(cond)) {                                                                               \
			fprintf(stderr, "%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, #cond);   \
			exit(1);                                                                             \
		}                                                                                            \
	} while (0)

/* Run test(), a void function, and say so. */
#define TEST(test)                                                                                           \
	do {                                                                                                 \
		(test)();                                                                                    \
		printf("ok %s\n", #test);                                                                    \
		fflush(stdout);                                                                              \
	} while (0)

/* A shell command in a directory; it must succeed. */
__attribute__((format(printf, 2, 3))) static inline void sh_in(const char *dir, const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;
	int n;

	n = snprintf(cmd, sizeof(cmd), "cd %s && ", dir);
	va_start(ap, fmt);
	vsnprintf(cmd + n, sizeof(cmd) - (size_t)n, fmt, ap);
	va_end(ap);
	CHECK(system(cmd) == 0);
}

#endif
