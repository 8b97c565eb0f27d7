/* SPDX-License-Identifier: MIT */
/*
 * unit.h - what a unit test needs
 *
 * A unit test is a program: it runs its TEST()s in turn, prints one line for each, and ends with status 1 at
 * the first CHECK() that does not hold.
 */
#ifndef SBX_TESTS_UNIT_H
#define SBX_TESTS_UNIT_H

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

#endif
