/* SPDX-License-Identifier: MIT */
/*
 * free_pages.c - where free pages are not worth reporting
 *
 * The kernel tells the balloon device which memory is free, in blocks of 2^page_reporting_order pages. With
 * `sbx.report=boot` the host can use that of a machine that booted, and of a fork it cannot
 * (docs/design.md): an order that no block has ends it.
 */
#include "vm/agent/guest/agent.h"

#define ORDER_NONE "11" /* MAX_ORDER: blocks are smaller */

void report_end(void)
{
	(void)write_file("/sys/module/page_reporting/parameters/page_reporting_order", 0, ORDER_NONE);
}
