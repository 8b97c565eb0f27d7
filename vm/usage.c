/* SPDX-License-Identifier: MIT */
/* usage.c - what a VMM process costs its host, as /proc says */
#include "vm/usage.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vm/jail/jail.h"

int process_memory(pid_t pid)
{
	return launcher_open_proc(pid, LAUNCH_SMAPS);
}

int vm_memory_read(int fd, struct vm_memory *ret)
{
	struct vm_memory memory = { 0 };
	char line[256], key[32];
	uint64_t kib;
	FILE *f = fdopen(fd, "re");
	bool any = false;

	if (!f) {
		close(fd);
		return -ENOMEM;
	}
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%31[A-Za-z_]: %" SCNu64, key, &kib) != 2)
			continue;
		any = true;
		if (!strcmp(key, "Rss"))
			memory.resident = kib * 1024;
		else if (!strncmp(key, "Private_", 8) && strcmp(key, "Private_Hugetlb") != 0)
			memory.private += kib * 1024;
		else if (!strncmp(key, "Shared_", 7) && strcmp(key, "Shared_Hugetlb") != 0)
			memory.shared += kib * 1024;
	}
	fclose(f);
	*ret = memory;
	return any ? 0 : -ESRCH;
}

/* ---- on a thread */

enum { LOOKS_MAX = 64 };

static unsigned looks;

struct memory_look {
	/* NULL: nobody wants to know any more */
	void (*done)(void *arg, const struct vm_memory *of, size_t n);
	void *arg;
	size_t n;
	int *fds; /* behind of[n] */
	struct vm_memory of[];
};

static int run(void *arg)
{
	struct memory_look *look = arg;
	size_t i;

	for (i = 0; i < look->n; i++)
		(void)vm_memory_read(look->fds[i], &look->of[i]);
	return 0;
}

static void finished(void *arg, int result)
{
	struct memory_look *look = arg;

	(void)result;
	looks--;
	if (look->done)
		look->done(look->arg, look->of, look->n);
	free(look);
}

struct memory_look *memory_look(struct loop *loop, const int *fds, size_t n,
				void (*done)(void *arg, const struct vm_memory *of, size_t n), void *arg)
{
	struct memory_look *look = NULL;
	size_t i;

	if (looks < LOOKS_MAX)
		look = calloc(1, sizeof(*look) + n * (sizeof(look->of[0]) + sizeof(*fds)));
	if (look) {
		look->done = done;
		look->arg = arg;
		look->n = n;
		look->fds = (int *)(look->of + n);
		memcpy(look->fds, fds, n * sizeof(*fds));
		/* Not behind work on the store, which may take minutes. */
		if (!loop_thread(loop, run, finished, look)) {
			looks++;
			return look;
		}
		free(look);
	}
	for (i = 0; i < n; i++)
		close(fds[i]);
	return NULL;
}

void memory_forget(struct memory_look *look)
{
	if (look)
		look->done = NULL;
}

/* ---- now */

int process_usage(pid_t pid, struct vm_usage *ret)
{
	struct timespec cpu;
	clockid_t clock;
	int rc;

	/* Finer than the ticks of /proc/PID/stat, and errors are returned, not left in errno. */
	rc = clock_getcpuclockid(pid, &clock);
	if (rc)
		return -rc;
	if (clock_gettime(clock, &cpu) < 0)
		return -errno;
	*ret = (struct vm_usage){ .cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec };
	return 0;
}
