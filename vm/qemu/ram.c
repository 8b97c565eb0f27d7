/* SPDX-License-Identifier: MIT */
/*
 * ram.c - copy the RAM of a stopped machine into a template's memfd
 *
 * The kernel knows which pages of a private mapping are the process's own: in /proc/PID/pagemap they are
 * present or swapped, and not "file-page or shared-anon" (Documentation/admin-guide/mm/pagemap.rst). Those
 * are read through /proc/PID/mem. All others come from the memfd, of which only the allocated extents are
 * read: a hole is zero. So nothing is ever faulted in, neither in the process nor in the memfd, and an
 * untouched gigabyte costs a look at its page tables.
 *
 * The mapping is found by the memfd's inode in /proc/PID/maps. Whatever a compromised process has done to its
 * address space, offsets are checked against the size of the RAM and the rest harms only its own copy. It can hold
 * the lock of the memfd, which others' machines may share, so no call here takes that (memfd_data, pread).
 */
#include "vm/qemu/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "snap/template.h"
#include "util/io.h"
#include "util/zero.h"
#include "vm/jail/jail.h"

enum {
	CHUNK = 256 << 10,    /* bytes copied at once: stays in the second level cache */
	MAPPINGS_MAX = 64,    /* pieces of one RAM in the process; QEMU makes one */
	PAGEMAP_BATCH = 8192, /* entries read at once: 32 MiB of RAM */
};

#define PM_PRESENT (1ull << 63)
#define PM_SWAPPED (1ull << 62)
#define PM_FILE (1ull << 61)

struct mapping {
	uint64_t start, size; /* in the process */
	uint64_t offset;      /* in the RAM */
};

struct ram_copy {
	int ram_fd; /* the caller's */
	int maps_fd, mem_fd, pagemap_fd, out_fd;
	uint64_t size;
	bool shared;
	struct mapping mappings[MAPPINGS_MAX];
	unsigned nmappings;
	uint64_t *own; /* a bit for each page already taken from the process */
	uint8_t *chunk;
	uint64_t *entries;
};

int ram_memfd(const char *name, uint64_t size, struct err *err)
{
	const int fd = memfd_new(name, size);

	return fd >= 0 ? fd : err_sys(err, fd, "cannot create memory for %s", name);
}

static int open_proc(pid_t pid, enum launch_proc file, struct err *err)
{
	const int fd = launcher_open_proc(pid, file);

	return fd >= 0 ? fd : err_sys(err, fd, "cannot look at the memory of process %d", (int)pid);
}

static int find_mappings(struct ram_copy *copy, struct err *err)
{
	unsigned long long start, end, offset, inode;
	unsigned dev_major, dev_minor;
	char *line = NULL;
	struct mapping *m;
	size_t size = 0;
	struct stat st;
	FILE *f;
	int rc = 0;

	if (fstat(copy->ram_fd, &st) < 0)
		return err_sys(err, -errno, "cannot examine the RAM");
	f = fdopen(copy->maps_fd, "re");
	if (!f)
		return err_sys(err, -ENOMEM, "cannot examine the RAM");
	copy->maps_fd = -1;
	while (!rc && getline(&line, &size, f) > 0) {
		if (sscanf(line, "%llx-%llx %*s %llx %x:%x %llu", &start, &end, &offset, &dev_major,
			   &dev_minor, &inode) != 6)
			continue;
		if (inode != st.st_ino || makedev(dev_major, dev_minor) != st.st_dev)
			continue;
		if (copy->nmappings == MAPPINGS_MAX || offset > copy->size ||
		    end - start > copy->size - offset) {
			rc = err_set(err, -EIO, "the machine's process maps its RAM in an unexpected way");
			continue;
		}
		m = &copy->mappings[copy->nmappings++];
		*m = (struct mapping){ .start = start, .size = end - start, .offset = offset };
	}
	/* A line that was not seen could be a mapping, and its pages old ones in the capture. */
	if (!rc && !feof(f))
		rc = err_sys(err, ferror(f) ? -EIO : -ENOMEM, "cannot read the maps of a machine's process");
	if (!rc && !copy->nmappings)
		rc = err_set(err, -EIO, "the machine's process does not map its RAM");
	free(line);
	fclose(f);
	return rc;
}

int ram_copy_new(pid_t pid, int ram_fd, uint64_t size, bool shared, struct ram_copy **ret, struct err *err)
{
	struct ram_copy *copy = calloc(1, sizeof(*copy));
	int rc = -ENOMEM;

	if (!copy)
		return err_sys(err, rc, "cannot capture the RAM");
	copy->maps_fd = copy->mem_fd = copy->pagemap_fd = copy->out_fd = -1;
	copy->ram_fd = ram_fd;
	copy->size = size;
	copy->shared = shared;
	copy->own = calloc(size / RAM_PAGE / 64 + 1, sizeof(*copy->own));
	copy->chunk = malloc(CHUNK);
	copy->entries = malloc(PAGEMAP_BATCH * sizeof(*copy->entries));
	if (!copy->own || !copy->chunk || !copy->entries) {
		err_sys(err, rc, "cannot capture the RAM");
		goto fail;
	}
	rc = copy->out_fd = ram_memfd("sbx-template", size, err);
	if (rc < 0)
		goto fail;
	if (!shared) {
		rc = copy->maps_fd = open_proc(pid, LAUNCH_MAPS, err);
		if (rc < 0)
			goto fail;
		rc = copy->mem_fd = open_proc(pid, LAUNCH_MEM, err);
		if (rc < 0)
			goto fail;
		rc = copy->pagemap_fd = open_proc(pid, LAUNCH_PAGEMAP, err);
		if (rc < 0)
			goto fail;
	}
	*ret = copy;
	return 0;

fail:
	ram_copy_free(copy);
	return rc;
}

void ram_copy_free(struct ram_copy *copy)
{
	if (!copy)
		return;
	close_fd(&copy->maps_fd);
	close_fd(&copy->mem_fd);
	close_fd(&copy->pagemap_fd);
	close_fd(&copy->out_fd);
	free(copy->own);
	free(copy->chunk);
	free(copy->entries);
	free(copy);
}

static bool is_own(const struct ram_copy *copy, uint64_t page)
{
	return copy->own[page / 64] & 1ull << page % 64;
}

/* Copy a run of the RAM, found in fd at `from`; pages that are zero or, if skip_own, taken already stay holes
 * or as they are. */
static int copy_run(struct ram_copy *copy, int fd, uint64_t from, uint64_t offset, uint64_t n, bool skip_own)
{
	size_t i, pages, first;
	uint64_t len;
	int rc;

	for (; n; n -= len, from += len, offset += len) {
		len = n < CHUNK ? n : CHUNK;
		rc = pread_all(fd, copy->chunk, len, from);
		pages = len / RAM_PAGE;
		for (i = 0; !rc && i < pages; i++) {
			for (first = i; i < pages; i++)
				if (all_zero(copy->chunk + i * RAM_PAGE, RAM_PAGE) ||
				    (skip_own && is_own(copy, offset / RAM_PAGE + i)))
					break;
			if (i > first)
				rc = pwrite_all(copy->out_fd, copy->chunk + first * RAM_PAGE,
						(i - first) * RAM_PAGE, offset + first * RAM_PAGE);
		}
		if (rc)
			return rc;
	}
	return 0;
}

/* Copy what the process has written of one mapping. */
static int copy_own(struct ram_copy *copy, const struct mapping *m)
{
	const uint64_t pages = m->size / RAM_PAGE;
	const uint64_t base = m->offset / RAM_PAGE;
	uint64_t at, batch, i, first, page;
	int rc;

	for (at = 0; at < pages; at += batch) {
		batch = pages - at < PAGEMAP_BATCH ? pages - at : PAGEMAP_BATCH;
		rc = pread_all(copy->pagemap_fd, copy->entries, batch * sizeof(*copy->entries),
			       (m->start / RAM_PAGE + at) * sizeof(*copy->entries));
		for (i = 0; !rc && i < batch; i++) {
			for (first = i; i < batch; i++) {
				if (!(copy->entries[i] & (PM_PRESENT | PM_SWAPPED)) ||
				    (copy->entries[i] & PM_FILE))
					break;
				page = base + at + i;
				copy->own[page / 64] |= 1ull << page % 64;
			}
			if (i > first)
				rc = copy_run(copy, copy->mem_fd, m->start + (at + first) * RAM_PAGE,
					      (base + at + first) * RAM_PAGE, (i - first) * RAM_PAGE, false);
		}
		if (rc)
			return rc;
	}
	return 0;
}

/* Copy the allocated extents of the memfd but for the pages taken from the process. */
static int copy_memfd(struct ram_copy *copy)
{
	uint64_t at = 0, n;
	int rc = 0;

	while (!rc && (at = memfd_data(copy->ram_fd, at, copy->size, CHUNK)) < copy->size) {
		n = copy->size - at < CHUNK ? copy->size - at : CHUNK;
		rc = copy_run(copy, copy->ram_fd, at, at, n, true);
		at += n;
	}
	return rc;
}

int ram_copy_live(struct ram_copy *copy, struct err *err)
{
	unsigned i;
	int rc;

	if (copy->shared) {
		rc = copy_memfd(copy);
		return rc ? err_sys(err, rc, "cannot copy the RAM") : 0;
	}
	rc = find_mappings(copy, err);
	if (rc)
		return rc;
	for (i = 0; !rc && i < copy->nmappings; i++)
		rc = copy_own(copy, &copy->mappings[i]);
	return rc ? err_sys(err, rc, "cannot copy the RAM") : 0;
}

int ram_copy_rest(struct ram_copy *copy)
{
	return copy->shared ? 0 : copy_memfd(copy);
}

int ram_copy_take(struct ram_copy *copy, struct err *err)
{
	int fd = copy->out_fd;

	if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_sys(err, -errno, "cannot seal the captured RAM");
	copy->out_fd = -1;
	return fd;
}
