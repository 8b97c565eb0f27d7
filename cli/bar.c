/* SPDX-License-Identifier: MIT */
/* bar.c - a progress bar on stderr */
#include "cli/bar.h"

#include <stdio.h>

enum { BAR = 40 };

void bar_draw(const char *label, unsigned percent)
{
	static const char full[] = "########################################";

	fprintf(stderr, "\r%-10s [%-*.*s] %3u%%", label, BAR, (int)(percent * BAR / 100), full, percent);
}

void bar_clear(void)
{
	fprintf(stderr, "\r\033[K");
}
