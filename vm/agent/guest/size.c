/* SPDX-License-Identifier: MIT */
/*
 * size.c - how many CPUs and how much memory are online
 *
 * A machine has its maxima from the start; what is above the settings is kept offline through sysfs. Memory
 * goes in blocks (128 MiB on a small machine). It is put online as movable, so that it can be taken away
 * again; the engines boot with movablecore= for the same reason.
 * Documentation/admin-guide/mm/memory-hotplug.rst
 */
#include "vm/agent/guest/agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCKS_MAX = 4096 };

/* Moving what is in a block elsewhere can take for ever. The host is told "no" after this many seconds. */
enum { SIZE_SECONDS = 20 };

static volatile sig_atomic_t expired;

static void on_alarm(int signal)
{
	(void)signal;
	expired = 1;
}

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

/* One pass over the blocks; returns how many are online. */
static unsigned pass(const struct blocks *blocks, unsigned want)
{
	unsigned i, number, online = blocks_online(blocks);

	for (i = 0; i < blocks->n && online < want && !expired; i++) {
		number = blocks->numbers[i];
		online += !block_online(number) && !block_set(number, "online_movable");
	}
	for (i = blocks->n; i > 0 && online > want && !expired; i--) {
		number = blocks->numbers[i - 1];
		if (block_online(number) && block_movable(number) && !block_set(number, "offline"))
			online--;
	}
	return online;
}

/*
 * Bring blocks online or offline until `want` are online; returns how many are. A page that somebody holds
 * for a moment keeps its block online, and nothing tells when it is let go: such blocks are tried again.
 */
static unsigned reach(const struct blocks *blocks, unsigned want)
{
	const struct timespec moment = { .tv_nsec = 20000000 };
	unsigned tries, online = pass(blocks, want);

	for (tries = 0; tries < 10 && online != want && !expired; tries++) {
		nanosleep(&moment, NULL);
		online = pass(blocks, want);
	}
	return online;
}

/* What the kernel cannot do without, in bytes; vm/kernel_args.c. 0: not known. */
static uint64_t floor_get(void)
{
	char line[2048];
	const char *word;

	if (read_word("/proc/cmdline", line, sizeof(line)))
		return 0;
	word = strstr(line, "sbx.floor=");
	return word ? strtoull(word + strlen("sbx.floor="), NULL, 10) : 0;
}

/* What programs could still be given, in bytes; proc(5). */
static uint64_t memory_available(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	uint64_t kib = UINT64_MAX >> 10;
	char line[128];

	while (file && fgets(line, sizeof(line), file) && sscanf(line, "MemAvailable: %" SCNu64, &kib) != 1)
		;
	if (file)
		fclose(file);
	return kib << 10;
}

/* Why `want` blocks online cannot be, as far as that is known without trying; 0 if nothing is in the way. */
static int check_shrink(const struct blocks *blocks, unsigned online, unsigned want, struct err *err)
{
	const uint64_t floor = floor_get();
	const uint64_t available = memory_available();

	if (want * blocks->size < floor)
		return err_set(err, -ERANGE,
			       "memory cannot go below %" PRIu64
			       " MiB, which the guest's kernel keeps for itself (%" PRIu64
			       " MiB were asked for)",
			       floor >> 20, want * blocks->size >> 20);
	if (available < (online - want) * blocks->size)
		return err_set(err, -EBUSY,
			       "the guest can spare %" PRIu64 " MiB of its %" PRIu64
			       " MiB, too little to get to %" PRIu64 " MiB",
			       available >> 20, online * blocks->size >> 20, want * blocks->size >> 20);
	return 0;
}

/* `whole`: all of it or nothing; otherwise as far as it goes. */
static int memory_apply(uint64_t memory, bool whole, struct err *err)
{
	static struct blocks blocks;
	unsigned before, online, want;
	int rc;

	rc = blocks_get(&blocks);
	if (rc)
		return err_sys(err, rc, "the guest's kernel cannot change its memory");
	want = (unsigned)(memory / blocks.size + (memory % blocks.size > 0) < blocks.n
				  ? memory / blocks.size + (memory % blocks.size > 0)
				  : blocks.n);
	before = blocks_online(&blocks);
	rc = whole && want < before ? check_shrink(&blocks, before, want, err) : 0;
	if (rc)
		return rc;
	online = reach(&blocks, want);
	if (online == want)
		return 0;
	expired = 0;
	if (whole)
		reach(&blocks, before);
	return err_set(err, -EBUSY,
		       "the guest has %" PRIu64 " MiB online and could not get beyond %" PRIu64
		       " MiB to %" PRIu64 " MiB",
		       before * blocks.size >> 20, online * blocks.size >> 20, want * blocks.size >> 20);
}

/* ---- both */

int size_apply(uint32_t cpus, uint64_t memory, struct err *err)
{
	const int rc = cpus ? cpus_apply(cpus, err) : 0;

	return rc || !memory ? rc : memory_apply(memory, false, err);
}

int size_change(uint32_t cpus, uint64_t memory, struct err *err)
{
	const struct sigaction expire = { .sa_handler = on_alarm }; /* interrupts a write to sysfs */
	struct err ignored;
	uint32_t before;
	uint64_t now;
	int rc;

	sigaction(SIGALRM, &expire, NULL);
	alarm(SIZE_SECONDS);
	size_get(&before, &now);
	rc = cpus ? cpus_apply(cpus, err) : 0;
	if (!rc && memory)
		rc = memory_apply(memory, true, err);
	if (rc && cpus)
		(void)cpus_apply(before, &ignored);
	return rc;
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
