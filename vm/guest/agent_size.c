/* SPDX-License-Identifier: MIT */
/*
 * agent_size.c - how many CPUs and how much memory are online
 *
 * A machine has its maxima from the start; what is above the settings is kept offline through sysfs. Memory
 * goes in blocks (128 MiB on a small machine). It is put online as movable, so that it can be taken away
 * again; the engines boot with movablecore= for the same reason.
 * Documentation/admin-guide/mm/memory-hotplug.rst
 */
#include "vm/guest/agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCKS_MAX = 4096 };

static const char cpu_dir[] = "/sys/devices/system/cpu";
static const char memory_dir[] = "/sys/devices/system/memory";

static int read_word(const char *path, char *ret, size_t size)
{
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	ret[0] = '\0';
	if (fd < 0)
		return -errno;
	n = read(fd, ret, size - 1);
	close(fd);
	if (n < 0)
		return -EIO;
	ret[n] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
	return 0;
}

/* ---- CPUs */

/* 1: online; 0: offline; negative: no such CPU. The first may have no switch. */
static int cpu_online(unsigned cpu)
{
	char path[96], word[8];

	snprintf(path, sizeof(path), "%s/cpu%u", cpu_dir, cpu);
	if (access(path, F_OK) < 0)
		return -errno;
	snprintf(path, sizeof(path), "%s/cpu%u/online", cpu_dir, cpu);
	return read_word(path, word, sizeof(word)) || word[0] != '0';
}

static int cpus_apply(uint32_t cpus, struct err *err)
{
	char path[96];
	unsigned cpu;
	int online, rc;

	for (cpu = 0; (online = cpu_online(cpu)) >= 0; cpu++) {
		if (online == (cpu < cpus))
			continue;
		snprintf(path, sizeof(path), "%s/cpu%u/online", cpu_dir, cpu);
		rc = write_file(path, 0, online ? "0" : "1");
		if (rc)
			return err_sys(err, rc, "cannot bring CPU %u %s", cpu, online ? "offline" : "online");
	}
	return cpus > cpu ? err_set(err, -ERANGE, "the guest has %u CPUs at most", cpu) : 0;
}

/* ---- memory */

struct blocks {
	uint64_t size; /* bytes of each */
	unsigned n, numbers[BLOCKS_MAX];
};

static int compare(const void *a, const void *b)
{
	const unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

	return (x > y) - (x < y);
}

static int blocks_get(struct blocks *blocks)
{
	char path[96], word[32];
	struct dirent *entry;
	DIR *dir;
	int rc;

	blocks->n = 0;
	snprintf(path, sizeof(path), "%s/block_size_bytes", memory_dir);
	rc = read_word(path, word, sizeof(word));
	if (rc)
		return rc;
	blocks->size = strtoull(word, NULL, 16);
	dir = opendir(memory_dir);
	if (!dir || !blocks->size) {
		rc = -ENODEV;
		goto out;
	}
	while ((entry = readdir(dir)) && blocks->n < BLOCKS_MAX)
		if (sscanf(entry->d_name, "memory%u", &blocks->numbers[blocks->n]) == 1)
			blocks->n++;
	qsort(blocks->numbers, blocks->n, sizeof(blocks->numbers[0]), compare);
out:
	if (dir)
		closedir(dir);
	return rc;
}

static bool block_online(unsigned number)
{
	char path[96], word[32];

	snprintf(path, sizeof(path), "%s/memory%u/state", memory_dir, number);
	return !read_word(path, word, sizeof(word)) && !strcmp(word, "online");
}

/* May anything in it be moved elsewhere? Of an online block valid_zones names its one zone. */
static bool block_movable(unsigned number)
{
	char path[96], word[64];

	snprintf(path, sizeof(path), "%s/memory%u/valid_zones", memory_dir, number);
	return !read_word(path, word, sizeof(word)) && !strcmp(word, "Movable");
}

static int block_set(unsigned number, const char *state)
{
	char path[96];

	snprintf(path, sizeof(path), "%s/memory%u/state", memory_dir, number);
	return write_file(path, 0, state);
}

static unsigned blocks_online(const struct blocks *blocks)
{
	unsigned i, n = 0;

	for (i = 0; i < blocks->n; i++)
		n += block_online(blocks->numbers[i]);
	return n;
}

static int memory_apply(uint64_t memory, struct err *err)
{
	static struct blocks blocks;
	unsigned i, online, want;
	bool movable;
	int rc;

	rc = blocks_get(&blocks);
	if (rc)
		return err_sys(err, rc, "the guest's kernel cannot change its memory");
	want = memory / blocks.size + (memory % blocks.size > 0) < blocks.n
		       ? (unsigned)(memory / blocks.size + (memory % blocks.size > 0))
		       : blocks.n;
	online = blocks_online(&blocks);
	for (i = 0; i < blocks.n && online < want; i++)
		if (!block_online(blocks.numbers[i]) && !block_set(blocks.numbers[i], "online_movable"))
			online++;
	/*
	 * Movable ones first, from the top. The others are the kernel's own, and it needs room too; but a
	 * kernel booted without movablecore= has no movable ones, and gives up what it does not use.
	 */
	for (movable = true; online > want; movable = false) {
		for (i = blocks.n; i > 0 && online > want; i--)
			if (block_online(blocks.numbers[i - 1]) &&
			    block_movable(blocks.numbers[i - 1]) == movable &&
			    !block_set(blocks.numbers[i - 1], "offline"))
				online--;
		if (!movable)
			break;
	}
	if (online == want)
		return 0;
	return err_set(err, -EBUSY,
		       "the guest has %" PRIu64 " MiB online and could not get to %" PRIu64 " MiB",
		       online * blocks.size >> 20, want * blocks.size >> 20);
}

/* ---- both */

int size_apply(uint32_t cpus, uint64_t memory, struct err *err)
{
	int rc = cpus ? cpus_apply(cpus, err) : 0;

	return rc || !memory ? rc : memory_apply(memory, err);
}

void size_get(uint32_t *ret_cpus, uint64_t *ret_memory)
{
	static struct blocks blocks;
	unsigned cpu;
	int online;

	*ret_cpus = 0;
	for (cpu = 0; (online = cpu_online(cpu)) >= 0; cpu++)
		*ret_cpus += (uint32_t)online;
	*ret_memory = blocks_get(&blocks) ? 0 : blocks_online(&blocks) * blocks.size;
}
