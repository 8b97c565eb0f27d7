/* SPDX-License-Identifier: MIT */
/*
 * test_touched.c - which pages of a template's memory a process has of its own, or at all, and what asking costs
 *
 * What it costs is counted in system calls, since a clock shows a regression on an idle host only.
 */
#include "vm/vmm/touched.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snap/template.h"
#include "tests/unit/unit.h"
#include "util/io.h"

/* Pages around one that is read come with it. */
enum { AROUND = 16, SMALL = 256 << 20 };

#define LARGE (UINT64_C(32) << 30)

/* Some are written, in runs and alone, and some are read. */
static const struct {
	unsigned first, n;
	bool written;
} touched[] = { { 0, 3, true },      { 100, 1, true },    { 163, 2, true },
		{ 200, 1, false },   { 511, 2, true },    { 1000, 130, true },
		{ 5000, 1, false },  { 5005, 1, true },   { 9000, 700, true },
		{ 40000, 1, false }, { 50000, 64, true }, { SMALL / RAM_PAGE - 1, 1, true } };

enum { RANGES = sizeof(touched) / sizeof(touched[0]) };

static uint8_t *map_template(uint64_t size)
{
	const int fd = memfd_new("x", size);
	uint8_t *ram;

	CHECK(fd >= 0);
	for (size_t i = 0; i < RANGES; i++)
		CHECK(!pwrite_all(fd, "x", 1, (uint64_t)touched[i].first * RAM_PAGE));
	ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
	CHECK(ram != MAP_FAILED && !close(fd) && !madvise(ram, size, MADV_NOHUGEPAGE));
	for (size_t i = 0; i < RANGES; i++)
		for (unsigned n = 0; n < touched[i].n; n++) {
			volatile uint8_t *p = ram + (uint64_t)(touched[i].first + n) * RAM_PAGE;

			if (touched[i].written)
				*p = 'y';
			else
				CHECK(*p == 'x');
		}
	return ram;
}

/* Is it one of these, or near one? */
static bool is_touched(unsigned page, bool written, unsigned around)
{
	for (size_t i = 0; i < RANGES; i++)
		if (page + around >= touched[i].first && page < touched[i].first + touched[i].n + around &&
		    (touched[i].written || !written))
			return true;
	return false;
}

static bool has_scan(void)
{
	uint8_t map = 0;
	const int rc = touched_add(TOUCHED_SCAN, (uint8_t *)0x10000, RAM_PAGE, true, &map);

	CHECK(!rc || rc == -ENOTTY);
	return !rc;
}

static void both_ways_find_what_was_touched(void)
{
	uint8_t *ram = map_template(SMALL), *map = calloc(1, template_map_size(SMALL));

	CHECK(map);
	for (enum touched_how how = has_scan() ? TOUCHED_SCAN : TOUCHED_READ; how <= TOUCHED_READ; how++) {
		memset(map, 0, template_map_size(SMALL));
		map[1000] = 1; /* what was there stays */
		CHECK(!touched_add(how, ram, SMALL, true, map));
		for (unsigned page = 0; page < SMALL / RAM_PAGE; page++)
			CHECK(template_map_has(map, (uint64_t)page * RAM_PAGE) ==
			      (page == 8000 || is_touched(page, true, 0)));
		memset(map, 0, template_map_size(SMALL));
		CHECK(!touched_add(how, ram, SMALL, false, map));
		for (unsigned page = 0; page < SMALL / RAM_PAGE; page++)
			CHECK(template_map_has(map, (uint64_t)page * RAM_PAGE)
				      ? is_touched(page, false, AROUND)
				      : !is_touched(page, false, 0));
	}
	free(map);
	CHECK(!munmap(ram, SMALL));
}

/* System calls of a process that looks at so much memory, of which always the same was touched. */
static unsigned calls_for(uint64_t size)
{
	uint8_t *ram = map_template(size), *map = calloc(1, template_map_size(size));
	unsigned stops = 0;
	int status;
	pid_t pid;

	CHECK(map);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) || raise(SIGSTOP))
			_exit(2);
		_exit(touched_add(TOUCHED_SCAN, ram, size, true, map) != 0);
	}
	while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
		stops++;
		CHECK(!ptrace(PTRACE_SYSCALL, pid, NULL, NULL));
	}
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
	free(map);
	CHECK(!munmap(ram, size));
	return stops / 2;
}

static void what_it_costs_follows_what_was_touched(void)
{
	const unsigned small = calls_for(SMALL), large = calls_for(LARGE);

	/* open, ioctl, close, and the process' own stop and end. */
	CHECK(small >= 3 && small <= 6 && large == small);
}

int main(void)
{
	TEST(both_ways_find_what_was_touched);
	if (has_scan())
		TEST(what_it_costs_follows_what_was_touched);
	else
		puts("skipped: this kernel has no PAGEMAP_SCAN");
	return 0;
}
