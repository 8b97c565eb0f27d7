/* SPDX-License-Identifier: MIT */
/*
 * failing.h - run a piece of a test once for everything it asks of the system, each time with that refused
 *
 * The body of such a test sets up what it needs, calls what is tested within MAY_FAIL(), and checks what came of it. It is
 * run with the 1st request refused, the 2nd, and so on until a run ends in which nothing is left to refuse.
 * Requests within MAY_FAIL() count, whoever makes them: the project's code, a library it uses, a thread it
 * started. There are three rounds of runs:
 *
 *   one allocation fails;
 *   an allocation and all after it fail, so that whoever cleans up has no memory either;
 *   one system call that makes a descriptor, a mapping or a thread fails.
 *
 * After each run what the body allocated must be free, its descriptors closed and its children reaped; with
 * sanitizers, they watch all of it. failing.c takes the place of malloc(3) and its family in every unit
 * program, and of the system calls by the linker's --wrap (Makefile). The products have no such hook.
 */
#ifndef SBX_TESTS_FAILING_H
#define SBX_TESTS_FAILING_H

#include <stdbool.h>

void failing_arm(bool on);

/* The value of expr, in which requests are refused. It must not be void. */
#define MAY_FAIL(expr)                                                                                       \
	({                                                                                                   \
		failing_arm(true);                                                                           \
		__auto_type may_fail_ = (expr);                                                              \
		failing_arm(false);                                                                          \
		may_fail_;                                                                                   \
	})

/* A request was refused in this run. */
bool failing_did(void);
/* A result that is right in this run: 0, or, if something was refused, a negative errno that says so. */
bool failing_excuses(int rc);

void failing_run(const char *name, void (*body)(void), bool libraries);

/* Run body(), a void function, as above. */
#define FAILING(body) failing_run(#body, body, true)
/* The same, but libraries get what they ask for: of libext2fs and libarchive, which when memory is out crash,
 * and close descriptors they never opened. */
#define FAILING_OURS(body) failing_run(#body, body, false)

#endif
