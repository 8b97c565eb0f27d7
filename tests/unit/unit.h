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
#include <sys/wait.h>
#include <unistd.h>

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

/* A shell command in a directory; its status, or -1 if it had none. */
__attribute__((format(printf, 2, 0))) static inline int shell_status(const char *dir, const char *fmt,
								     va_list ap)
{
	char cmd[2048];
	int n = snprintf(cmd, sizeof(cmd), "cd %s && ", dir);

	n += vsnprintf(cmd + n, sizeof(cmd) - (size_t)n, fmt, ap);
	CHECK((size_t)n < sizeof(cmd));
	n = system(cmd); /* NOLINT(cert-env33-c): a test's own words */
	return WIFEXITED(n) ? WEXITSTATUS(n) : -1;
}

/* One that must succeed. */
__attribute__((format(printf, 2, 3))) static inline void sh_in(const char *dir, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	CHECK(shell_status(dir, fmt, ap) == 0);
	va_end(ap);
}

/* The same where the program runs. */
#define shell(...) sh_in(".", __VA_ARGS__)

/* The directory that scratch_dir made, and for whom: children that end leave it alone. */
static const char *scratch_made;
static pid_t scratch_owner;

static inline void scratch_drop(void)
{
	if (getpid() == scratch_owner)
		shell("rm -rf %s", scratch_made);
}

/* Make the program's directory, at a path that ends with XXXXXX; it goes with all in it when the program ends. */
static inline void scratch_dir(char *path)
{
	scratch_owner = getpid();
	scratch_made = mkdtemp(path);
	CHECK(scratch_made && !atexit(scratch_drop));
}

#endif
