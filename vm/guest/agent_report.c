/* SPDX-License-Identifier: MIT */
/*
 * agent_report.c - where free pages are not worth reporting
 *
 * The kernel tells the balloon device which memory is free, in blocks of 2^page_reporting_order pages. With
 * `sbx.report=boot` the host can use that of a machine that booted, and of a fork it cannot
 * (docs/design.md): an order that no block has ends it.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vm/guest/agent.h"

#define ORDER_NONE "11" /* MAX_ORDER: blocks are smaller */

void report_forked(void)
{
	char line[2048];
	ssize_t n;
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	n = read(fd, line, sizeof(line) - 1);
	close(fd);
	line[n > 0 ? n : 0] = '\0';
	if (strstr(line, "sbx.report=boot"))
		(void)write_file("/sys/module/page_reporting/parameters/page_reporting_order", 0, ORDER_NONE);
}
