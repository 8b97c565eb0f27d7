/* SPDX-License-Identifier: MIT */
/*
 * poor.c - a preloaded library that refuses allocations of one process when it is told to
 *
 * SBX_POOR names a file of four ints: whose (a pid), how many to grant before, how many to refuse then, and how many
 * it has refused. Whoever starts the process may change them at any time.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static struct orders {
	atomic_int pid, grant, refuse, refused;
} * orders;

/* libc's own. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *old, size_t size);

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("SBX_POOR");
	const int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *map;

	if (fd < 0)
		return;
	map = mmap(NULL, sizeof(*orders), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	orders = map == MAP_FAILED ? NULL : map;
}

static bool is_refused(void)
{
	if (!orders || atomic_load(&orders->refuse) <= 0 || atomic_load(&orders->pid) != getpid() ||
	    atomic_fetch_sub(&orders->grant, 1) > 0)
		return false;
	if (atomic_fetch_sub(&orders->refuse, 1) <= 0)
		return false;
	atomic_fetch_add(&orders->refused, 1);
	errno = ENOMEM;
	return true;
}

void *malloc(size_t size)
{
	return is_refused() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	return is_refused() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
	return is_refused() ? NULL : __libc_realloc(old, size);
}
