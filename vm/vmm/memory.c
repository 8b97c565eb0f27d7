/* SPDX-License-Identifier: MIT */
/*
 * memory.c - the guest's RAM
 *
 * Zero pages are huge pages where the host has them: a capture freezes RAM with fork(2), whose cost is the
 * number of page table entries, and with huge pages the pause is 0.6 ms instead of 20 ms for 250 MiB
 * (docs/kvm.md). A write after that splits a huge page and copies 4 KiB of it. A template's pages are small,
 * and so are the copies that forks make of them.
 */
#include "vm/vmm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/io.h"

int guest_memory_reserve(struct guest_memory *memory, uint64_t size, struct err *err)
{
	void *host;

	if (!size || size % (uint64_t)sysconf(_SC_PAGESIZE))
		return err_set(err, -EINVAL, "a memory size of %llu bytes is not a number of pages",
			       (unsigned long long)size);
	host = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (host == MAP_FAILED)
		return err_sys(err, -errno, "cannot reserve %llu bytes of address space",
			       (unsigned long long)size);
	*memory = (struct guest_memory){ .host = host, .size = size, .template_fd = -1, .overlay_fd = -1 };
	return 0;
}

static int map(struct guest_memory *memory, int flags, int fd, struct err *err)
{
	/*
	 * Over the reserved range, in place: KVM has been told of these addresses already and takes what the
	 * page tables say, so this needs no ioctl and no grace period of the kernel's.
	 */
	if (mmap(memory->host, memory->size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE | flags, fd, 0) == MAP_FAILED)
		return err_sys(err, -errno, "cannot map the guest's memory");
	return 0;
}

int guest_memory_map_zero(struct guest_memory *memory, struct err *err)
{
	const int rc = map(memory, MAP_ANONYMOUS, -1, err);

	/* Fails on kernels without huge pages only, where it makes no difference. */
	if (!rc)
		(void)madvise(memory->host, memory->size, MADV_HUGEPAGE);
	return rc;
}

/*
 * A page that we have not written shows the file as it is, not as it was when we mapped it: somebody who could write to
 * the file would write into every fork, and one who could shorten it would kill them with SIGBUS.
 */
static int check_file(int fd, const char *what, uint64_t size, struct err *err)
{
	const int want = F_SEAL_WRITE | F_SEAL_SHRINK, seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, -errno, "cannot ask for the template's size");
	if ((uint64_t)st.st_size != size)
		return err_set(err, -EINVAL, "the template has %lld bytes of %s, the machine %llu",
			       (long long)st.st_size, what, (unsigned long long)size);
	if (seals < 0 || (seals & want) != want)
		return err_set(err, -EINVAL, "the template's %s is not sealed", what);
	return 0;
}

/* Map the runs of pages that the overlay covers: a capture sees to it that they are few (freeze.c). */
static int map_overlay(struct guest_memory *memory, struct err *err)
{
	const uint64_t size = memory->size;
	uint64_t start = 0, end;

	for (; (start = template_map_next(memory->overlaid, size, start, true)) < size; start = end) {
		end = template_map_next(memory->overlaid, size, start, false);
		if (mmap(memory->host + start, end - start, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, memory->overlay_fd,
			 (off_t)start) == MAP_FAILED)
			return err_sys(err, -errno, "cannot map the guest's memory");
	}
	return 0;
}

static int read_map(struct guest_memory *memory, int map_fd, struct err *err)
{
	const size_t n = (size_t)template_map_size(memory->size);
	int rc = check_file(map_fd, "map", n, err);

	if (rc)
		return rc;
	memory->overlaid = malloc(n);
	if (!memory->overlaid)
		return err_set(err, -ENOMEM, "out of memory");
	rc = pread_all(map_fd, memory->overlaid, n, 0);
	return rc ? err_sys(err, rc, "cannot read which memory is the template's own") : 0;
}

int guest_memory_map_template(struct guest_memory *memory, const struct guest_template *template,
			      struct err *err)
{
	int rc = check_file(template->ram_fd, "memory", memory->size, err);

	if (!rc)
		rc = map(memory, 0, template->ram_fd, err);
	if (rc)
		return rc;
	memory->template_fd = template->ram_fd;
	if (template->overlay_fd >= 0) {
		rc = check_file(template->overlay_fd, "memory", memory->size, err);
		if (!rc)
			rc = read_map(memory, template->map_fd, err);
		if (rc)
			return rc;
		memory->overlay_fd = template->overlay_fd;
		rc = map_overlay(memory, err);
	}
	/* Fails on kernels without huge pages only, where it makes no difference. */
	(void)madvise(memory->host, memory->size, MADV_NOHUGEPAGE);
	return rc;
}

void guest_memory_release(struct guest_memory *memory)
{
	if (!memory->host)
		return;
	munmap(memory->host, memory->size);
	close_fd(&memory->template_fd);
	close_fd(&memory->overlay_fd);
	free(memory->overlaid);
	*memory = (struct guest_memory){ .template_fd = -1, .overlay_fd = -1 };
}
