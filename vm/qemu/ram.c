/* SPDX-License-Identifier: MIT */
/*
 * ram.c - copy the RAM of a machine into a template's memfd
 *
 * The kernel knows which pages of a private mapping are the process's own: in /proc/PID/pagemap they are
 * present or swapped, and not "file-page or shared-anon" (Documentation/admin-guide/mm/pagemap.rst). Those
 * are read through /proc/PID/mem. All others come from the memfd, of which only the allocated extents are
 * read: a hole is zero. So nothing is ever faulted in, neither in the process nor in the memfd, and an
 * untouched gigabyte costs a look at its page tables.
 *
 * Ahead of that, of a machine that runs: what it has written is write-protected and then copied, round by round, for
 * as long as each has half as much to do as the one before. Of a stopped machine a page that still has its protection
 * (PM_UFFD_WP) is as it was copied. One that is not present may have been given back, and its protection be all that
 * is left of it; so it does not count. A page that is the template's again is punched out of the copy.
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
#include "util/loop.h"
#include "util/pagemap.h"
#include "util/zero.h"
#include "vm/jail/jail.h"
#include "vm/qemu/track.h"

enum {
	CHUNK = 256 << 10,    /* bytes copied at once: stays in the second level cache */
	MAPPINGS_MAX = 64,    /* pieces of one RAM in the process; QEMU makes one */
	PAGEMAP_BATCH = 8192, /* entries read at once: 32 MiB of RAM */
	RUNS = 1024,          /* found written at once */
	ROUNDS_MAX = 8,       /* ahead */
	ROUND_LAST = 512,     /* pages: a machine can stand for as long as that takes */
};

/* After so long ahead the machine is stopped, whatever it still writes. */
#define AHEAD_NS UINT64_C(20000000000)

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
	uint64_t *own;   /* a bit for each page that is the process' own, now that it stands */
	uint64_t *ahead; /* and for each that was copied before that */
	int uffd;        /* -1: whether those were written since is not known */
	struct ram_counts counts;
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
	int fd, rc = 0;

	if (fstat(copy->ram_fd, &st) < 0)
		return err_sys(err, -errno, "cannot examine the RAM");
	/* From its beginning, also the second time: the process may have changed it since. */
	copy->nmappings = 0;
	fd = lseek(copy->maps_fd, 0, SEEK_SET) < 0 ? -1 : fcntl(copy->maps_fd, F_DUPFD_CLOEXEC, 0);
	f = fd < 0 ? NULL : fdopen(fd, "re");
	if (!f) {
		close_fd(&fd);
		return err_sys(err, -ENOMEM, "cannot examine the RAM");
	}
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
	copy->maps_fd = copy->mem_fd = copy->pagemap_fd = copy->out_fd = copy->uffd = -1;
	copy->ram_fd = ram_fd;
	copy->size = size;
	copy->shared = shared;
	copy->own = calloc(size / RAM_PAGE / 64 + 1, sizeof(*copy->own));
	copy->ahead = calloc(size / RAM_PAGE / 64 + 1, sizeof(*copy->ahead));
	copy->chunk = malloc(CHUNK);
	copy->entries = malloc(PAGEMAP_BATCH * sizeof(*copy->entries));
	if (!copy->own || !copy->ahead || !copy->chunk || !copy->entries) {
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
	close_fd(&copy->uffd);
	free(copy->own);
	free(copy->ahead);
	free(copy->chunk);
	free(copy->entries);
	free(copy);
}

static bool in(const uint64_t *pages, uint64_t page)
{
	return pages[page / 64] & 1ull << page % 64;
}

static int punch(struct ram_copy *copy, uint64_t page, uint64_t n)
{
	const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	return fallocate(copy->out_fd, mode, (off_t)(page * RAM_PAGE), (off_t)(n * RAM_PAGE)) < 0 ? -errno
												  : 0;
}

/* Is this page to stay as it is in the copy? One that is zero becomes a hole again. */
static bool stays(struct ram_copy *copy, const uint8_t *bytes, uint64_t page, bool skip_own, int *rc)
{
	if (skip_own && in(copy->own, page))
		return true;
	if (!all_zero(bytes, RAM_PAGE))
		return false;
	if (in(copy->ahead, page))
		*rc = punch(copy, page, 1);
	return true;
}

/* Copy a run of the RAM, found in fd at `from`; pages that are zero become holes, and those that if skip_own were
 * taken already stay as they are. */
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
				if (stays(copy, copy->chunk + i * RAM_PAGE, offset / RAM_PAGE + i, skip_own,
					  &rc))
					break;
			if (!rc && i > first)
				rc = pwrite_all(copy->out_fd, copy->chunk + first * RAM_PAGE,
						(i - first) * RAM_PAGE, offset + first * RAM_PAGE);
		}
		if (rc)
			return rc;
	}
	return 0;
}

/* Is this page of a stopped machine to be copied from its process? */
static bool wanted(struct ram_copy *copy, uint64_t page, uint64_t entry)
{
	if (!(entry & (PM_PRESENT | PM_SWAPPED)) || (entry & PM_FILE))
		return false;
	copy->own[page / 64] |= 1ull << page % 64;
	return copy->uffd < 0 || !in(copy->ahead, page) || !(entry & PM_PRESENT) || !(entry & PM_UFFD_WP);
}

/* Copy what the process has written of one mapping. */
static int copy_own(struct ram_copy *copy, const struct mapping *m)
{
	const uint64_t pages = m->size / RAM_PAGE;
	const uint64_t base = m->offset / RAM_PAGE;
	uint64_t at, batch, i, first;
	int rc;

	for (at = 0; at < pages; at += batch) {
		batch = pages - at < PAGEMAP_BATCH ? pages - at : PAGEMAP_BATCH;
		rc = pread_all(copy->pagemap_fd, copy->entries, batch * sizeof(*copy->entries),
			       (m->start / RAM_PAGE + at) * sizeof(*copy->entries));
		for (i = 0; !rc && i < batch; i++) {
			for (first = i; i < batch; i++)
				if (!wanted(copy, base + at + i, copy->entries[i]))
					break;
			copy->counts.stopped += i - first;
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

/* Copy what was written of one mapping since the last time, and have the next writes known. */
static int copy_written(struct ram_copy *copy, const struct mapping *m, struct pagemap_run *runs,
			uint64_t *pages)
{
	uint64_t at = m->start, offset, page, len;
	int rc = 0, n, i;

	while (!rc && at < m->start + m->size) {
		rc = n = track_written(copy->pagemap_fd, &at, m->start + m->size, runs, RUNS);
		for (i = 0; i < n; i++) {
			offset = m->offset + runs[i].start - m->start;
			len = runs[i].end - runs[i].start;
			rc = copy_run(copy, copy->mem_fd, runs[i].start, offset, len, false);
			if (rc)
				break;
			for (page = offset / RAM_PAGE; page < (offset + len) / RAM_PAGE; page++)
				copy->ahead[page / 64] |= 1ull << page % 64;
			*pages += len / RAM_PAGE;
		}
		if (rc > 0)
			rc = 0;
	}
	return rc;
}

static int copy_rounds(struct ram_copy *copy, struct pagemap_run *runs)
{
	const uint64_t began = now_mono_ns();
	uint64_t pages = UINT64_MAX, before;
	unsigned round, i;
	int rc = 0;

	for (round = 0; !rc && round < ROUNDS_MAX && now_mono_ns() - began < AHEAD_NS; round++) {
		before = pages;
		pages = 0;
		for (i = 0; !rc && i < copy->nmappings; i++)
			rc = copy_written(copy, &copy->mappings[i], runs, &pages);
		copy->counts.ahead += pages;
		if (pages < ROUND_LAST || pages > before / 2)
			break;
	}
	return rc;
}

/* What is not followed any more says so itself (track_written); a mapping that is gone needs no end. */
static void end_tracking(struct ram_copy *copy)
{
	unsigned i;

	for (i = 0; i < copy->nmappings; i++)
		(void)track_end(copy->uffd, copy->mappings[i].start, copy->mappings[i].size);
}

int ram_copy_ahead(struct ram_copy *copy, int uffd, struct err *err)
{
	struct pagemap_run *runs = malloc(RUNS * sizeof(*runs));
	unsigned i;
	int rc;

	copy->uffd = fcntl(uffd, F_DUPFD_CLOEXEC, 0);
	if (!runs || copy->uffd < 0) {
		rc = err_sys(err, -ENOMEM, "cannot copy the RAM ahead");
		goto out;
	}
	rc = find_mappings(copy, err);
	if (rc)
		goto out;
	/* A capture that was given up has left its protection, and it would be taken for this one's. */
	end_tracking(copy);
	for (i = 0; !rc && i < copy->nmappings; i++)
		rc = track_begin(copy->uffd, copy->mappings[i].start, copy->mappings[i].size);
	if (!rc)
		rc = copy_rounds(copy, runs);
	if (rc) {
		end_tracking(copy);
		err_sys(err, rc, "cannot copy the RAM ahead");
	}

out:
	if (rc)
		close_fd(&copy->uffd);
	free(runs);
	return rc;
}

struct ram_counts ram_copy_counts(const struct ram_copy *copy)
{
	return copy->counts;
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

/* Pages that the process had of its own, and gave back before it stood. */
static int drop_given_back(struct ram_copy *copy)
{
	uint64_t page, n;
	int rc = 0;

	for (page = 0; !rc && page < copy->size / RAM_PAGE; page += n ? n : 1) {
		for (n = 0; page + n < copy->size / RAM_PAGE; n++)
			if (!in(copy->ahead, page + n) || in(copy->own, page + n))
				break;
		if (n)
			rc = punch(copy, page, n);
	}
	memset(copy->ahead, 0, (copy->size / RAM_PAGE / 64 + 1) * sizeof(*copy->ahead));
	return rc;
}

int ram_copy_rest(struct ram_copy *copy)
{
	int rc;

	if (copy->shared)
		return 0;
	if (copy->uffd >= 0)
		end_tracking(copy);
	rc = drop_given_back(copy);
	return rc ? rc : copy_memfd(copy);
}

int ram_copy_take(struct ram_copy *copy, struct err *err)
{
	int fd = copy->out_fd;

	if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_sys(err, -errno, "cannot seal the captured RAM");
	copy->out_fd = -1;
	return fd;
}
