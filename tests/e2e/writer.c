/* SPDX-License-Identifier: MIT */
/*
 * writer.c - writer MIB: a program that notices when one page of its memory is not from the same moment as all others
 *
 * It goes on writing pages, now in order and now by chance, and each time first looks whether the page is as it left it:
 * a table, in memory too, has how often it has written each. SIGUSR1: it looks at all of them, and says in /run/verdict
 * what it found ("good" or "bad") and how many pages it has written so far.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, STEP = 37 /* words */ };

static volatile sig_atomic_t asked;
static uint64_t *memory, pages, written;
static uint32_t *times;

static void on_signal(int number)
{
	asked = number;
}

static uint64_t word(uint64_t page, unsigned i)
{
	return page << 32 | (uint64_t)times[page] << 10 | i;
}

static int look(uint64_t page)
{
	unsigned i;

	for (i = 0; i < WORDS; i += STEP)
		if (memory[page * WORDS + i] != word(page, i))
			return 1;
	return 0;
}

static void put(uint64_t page)
{
	unsigned i;

	times[page]++;
	for (i = 0; i < WORDS; i += STEP)
		memory[page * WORDS + i] = word(page, i);
	written++;
}

static void say(int bad)
{
	FILE *f = fopen("/run/verdict.new", "w");

	if (!f)
		exit(1);
	fprintf(f, "%s %" PRIu64 "\n", bad ? "bad" : "good", written);
	fclose(f);
	if (rename("/run/verdict.new", "/run/verdict"))
		exit(1);
}

int main(int argc, char **argv)
{
	const uint64_t n = (uint64_t)(argc > 1 ? atoi(argv[1]) : 1) << 8;
	uint64_t page, chance = 88172645463325252u;
	int bad = 0;

	pages = n;
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	times = calloc(pages, sizeof(*times));
	if (memory == MAP_FAILED || !times || !n)
		return 1;
	for (page = 0; page < pages; page++)
		put(page);
	signal(SIGUSR1, on_signal);
	say(0);
	for (;;) {
		chance ^= chance << 13;
		chance ^= chance >> 7;
		chance ^= chance << 17;
		page = (written & 64 ? written : chance) % n;
		bad |= look(page);
		put(page);
		if (!asked)
			continue;
		asked = 0;
		for (page = 0; page < pages; page++)
			bad |= look(page);
		say(bad);
	}
}
