/* SPDX-License-Identifier: MIT */
/* info.c - lines of the files that report: info, stats and status */
#include "fs/dirs/info.h"

#include <inttypes.h>
#include <time.h>

void info_time(struct buf *text, const char *key, uint64_t ns)
{
	const time_t seconds = (time_t)(ns / 1000000000);
	char date[32];
	struct tm tm;

	gmtime_r(&seconds, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &tm);
	buf_printf(text, "%s %s\n", key, date);
}

void info_number(struct buf *text, const char *key, uint64_t n)
{
	buf_printf(text, "%s %" PRIu64 "\n", key, n);
}

void info_word(struct buf *text, const char *key, const char *word)
{
	buf_printf(text, "%s %s\n", key, *word ? word : "-");
}
