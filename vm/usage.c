/* SPDX-License-Identifier: MIT */
/* usage.c - what a VMM process costs its host, as /proc says */
#include "vm/usage.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static int read_memory(pid_t pid, struct vm_usage *usage)
{
	char path[64], line[256], key[32];
	uint64_t kib;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%31[A-Za-z_]: %" SCNu64, key, &kib) != 2)
			continue;
		if (!strcmp(key, "Rss"))
			usage->resident = kib * 1024;
		else if (!strncmp(key, "Private_", 8) && strcmp(key, "Private_Hugetlb") != 0)
			usage->private += kib * 1024;
		else if (!strncmp(key, "Shared_", 7) && strcmp(key, "Shared_Hugetlb") != 0)
			usage->shared += kib * 1024;
	}
	fclose(f);
	return 0;
}

int process_usage(pid_t pid, struct vm_usage *ret)
{
	struct vm_usage usage = { 0 };
	struct timespec cpu;
	clockid_t clock;
	int rc;

	/* Finer than the ticks of /proc/PID/stat, and errors are returned, not left in errno. */
	rc = clock_getcpuclockid(pid, &clock);
	if (rc)
		return -rc;
	if (clock_gettime(clock, &cpu) < 0)
		return -errno;
	usage.cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
	rc = read_memory(pid, &usage);
	if (rc)
		return rc;
	*ret = usage;
	return 0;
}
