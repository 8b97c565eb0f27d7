/* SPDX-License-Identifier: MIT */
/* log.c - one line per event on stderr */
#include "util/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum log_level log_threshold = LOG_INFO;

static double seconds(void)
{
	static struct timespec first;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (!first.tv_sec)
		first = now;
	return (double)(now.tv_sec - first.tv_sec) + (double)(now.tv_nsec - first.tv_nsec) * 1e-9;
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	/* syslog priorities, as sd-daemon(3) wants them */
	static const int priority[] = { 3, 4, 6, 7 };
	char line[1024];
	int n = 0;
	va_list ap;

	if (level > log_threshold)
		return;
	if (getenv("JOURNAL_STREAM"))
		n = snprintf(line, sizeof(line), "<%d>", priority[level]);
	n += snprintf(line + n, sizeof(line) - (size_t)n, "%s: ", program_invocation_short_name);
	if (log_verbose())
		n += snprintf(line + n, sizeof(line) - (size_t)n, "%10.6f ", seconds());
	va_start(ap, fmt);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	/* One write, so that lines of several processes on one terminal do not mix. */
	(void)!write(STDERR_FILENO, line, (size_t)n);
}
