/* SPDX-License-Identifier: MIT */
/* usage.c - what a VMM process costs its host, as /proc says */
#include "vm/usage.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "util/loop.h"
#include "vm/jail/jail.h"

static int read_memory(pid_t pid, struct process_memory *ret)
{
	struct process_memory memory = { 0 };
	const int fd = launcher_open_proc(pid, LAUNCH_SMAPS);
	char line[256], key[32];
	uint64_t kib;
	FILE *f;

	if (fd < 0)
		return fd;
	f = fdopen(fd, "re");
	if (!f) {
		close(fd);
		return -ENOMEM;
	}
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%31[A-Za-z_]: %" SCNu64, key, &kib) != 2)
			continue;
		if (!strcmp(key, "Rss"))
			memory.resident = kib * 1024;
		else if (!strncmp(key, "Private_", 8) && strcmp(key, "Private_Hugetlb") != 0)
			memory.private += kib * 1024;
		else if (!strncmp(key, "Shared_", 7) && strcmp(key, "Shared_Hugetlb") != 0)
			memory.shared += kib * 1024;
	}
	fclose(f);
	memory.until_ns = now_mono_ns() + MEMORY_KEPT_MS * 1000000ull;
	*ret = memory;
	return 0;
}

int process_usage(pid_t pid, struct process_memory *memory, struct vm_usage *ret)
{
	struct vm_usage usage = { 0 };
	struct timespec cpu;
	clockid_t clock;
	int rc = 0;

	/* Finer than the ticks of /proc/PID/stat, and errors are returned, not left in errno. */
	rc = clock_getcpuclockid(pid, &clock);
	if (rc)
		return -rc;
	if (clock_gettime(clock, &cpu) < 0)
		return -errno;
	usage.cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
	if (now_mono_ns() >= memory->until_ns)
		rc = read_memory(pid, memory);
	if (rc)
		return rc;
	usage.resident = memory->resident;
	usage.private = memory->private;
	usage.shared = memory->shared;
	*ret = usage;
	return 0;
}
