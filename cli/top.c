/* SPDX-License-Identifier: MIT */
/* top.c - sbx top: what the machines use, again and again */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/sbx.h"
#include "cli/tree_files.h"

const struct program top_program = {
	.name = "sbx top",
	.forms = "[-d SECONDS] [-n N]",
	.about = "Show CPU and memory of the sandboxes' machines, those that are busiest first.\n"
		 "CPU is that of the time since the look before, in hundredths of one CPU; PRIVATE is the\n"
		 "memory that a machine shares with no other. Where stdout is no terminal, looks come one\n"
		 "below the other.\n",
	.options =
		(const struct program_option[]){
			{ 'd', NULL, "SECONDS", "between two looks (default: 2)" },
			{ 'n', NULL, "N", "end after so many looks" },
			{ 0 },
		},
};

struct row {
	const struct thing *thing;
	double cpu;
};

static int by_cpu(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	if (x->cpu != y->cpu)
		return x->cpu < y->cpu ? 1 : -1;
	return strcmp(x->thing->id, y->thing->id);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* before: NULL at the first look. */
static int show(const struct things *things, const struct things *before, double seconds)
{
	struct row *rows = calloc(things->n + 1, sizeof(*rows));
	const struct thing *thing, *was;
	char memory[16], resident[16], own[16];
	size_t i;

	if (!rows)
		return SBX_FAILED;
	for (i = 0; i < things->n; i++) {
		thing = &things->thing[i];
		was = before ? thing_find(before, thing->id) : NULL;
		rows[i].thing = thing;
		/* Less than before is another machine's. */
		if (was && thing->cpu_us >= was->cpu_us && seconds > 0)
			rows[i].cpu = (double)(thing->cpu_us - was->cpu_us) / (seconds * 1e4);
	}
	qsort(rows, things->n, sizeof(*rows), by_cpu);
	if (isatty(STDOUT_FILENO))
		printf("\033[H\033[2J");
	printf("%-20s %-9s %6s %10s %8s %8s %8s\n", "NAME", "STATE", "CPU%", "TIME", "MEMORY", "RESIDENT",
	       "PRIVATE");
	for (i = 0; i < things->n; i++) {
		thing = rows[i].thing;
		size_text(thing->memory, memory);
		size_text(thing->resident, resident);
		size_text(thing->private, own);
		printf("%-20s %-9s %6.1f %9.1fs %8s %8s %8s\n", thing->id, thing->status, rows[i].cpu,
		       (double)thing->cpu_us * 1e-6, memory, resident, own);
	}
	free(rows);
	return fflush(stdout) ? SBX_FAILED : 0;
}

static int look(double interval, unsigned long times)
{
	struct things things, before = { 0 };
	double at = 0, then;
	unsigned long i;
	int rc = 0;

	for (i = 0; !rc && (!times || i < times); i++) {
		if (i)
			(void)poll(NULL, 0, (int)(interval * 1000));
		then = at;
		if (things_read(&things, THINGS_STATS)) {
			rc = SBX_FAILED;
			break;
		}
		at = now();
		rc = show(&things, i ? &before : NULL, at - then);
		things_release(&before);
		before = things;
	}
	things_release(&before);
	return rc;
}

int cmd_top(int argc, char **argv)
{
	unsigned long times = 0;
	double interval = 2;
	char *end = NULL;
	int opt, status;

	while ((opt = program_next(&top_program, argc, argv, &status)) != PROGRAM_OPERANDS) {
		switch (opt) {
		case 'd':
			interval = strtod(optarg, &end);
			if (*end || !(interval >= 0.1 && interval <= 3600))
				return program_refuse(&top_program, "\"%s\" is not between 0.1 and 3600",
						      optarg);
			break;
		case 'n':
			times = strtoul(optarg, &end, 10);
			if (*end || !times || *optarg == '-')
				return program_refuse(&top_program, "\"%s\" is not a number of looks",
						      optarg);
			break;
		default:
			return status;
		}
	}
	if (optind < argc)
		return program_refuse_form(&top_program, 0);
	return look(interval, times);
}
