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
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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
	*memory = (struct guest_memory){ .host = host, .size = size, .template_fd = -1 };
	return 0;
}

static int map(struct guest_memory *memory, int flags, int fd, int advice, struct err *err)
{
	/*
	 * Over the reserved range, in place: KVM has been told of these addresses already and takes what the
	 * page tables say, so this needs no ioctl and no grace period of the kernel's.
	 */
	if (mmap(memory->host, memory->size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE | flags, fd, 0) == MAP_FAILED)
		return err_sys(err, -errno, "cannot map the guest's memory");
	/* Fails on kernels without huge pages only, where it makes no difference. */
	(void)madvise(memory->host, memory->size, advice);
	return 0;
}

int guest_memory_map_zero(struct guest_memory *memory, struct err *err)
{
	return map(memory, MAP_ANONYMOUS, -1, MADV_HUGEPAGE, err);
}

int guest_memory_map_template(struct guest_memory *memory, int fd, struct err *err)
{
	const int want = F_SEAL_WRITE | F_SEAL_SHRINK;
	struct stat st;
	int seals, rc;

	if (fstat(fd, &st) < 0)
		return err_sys(err, -errno, "cannot ask for the template's size");
	if ((uint64_t)st.st_size != memory->size)
		return err_set(err, -EINVAL, "the template has %lld bytes of memory, the machine %llu",
			       (long long)st.st_size, (unsigned long long)memory->size);
	/*
	 * A page that we have not written shows the file as it is, not as it was when we mapped it: somebody
	 * who could write to the file would write into every fork, and one who could shorten it would kill
	 * them with SIGBUS.
	 */
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & want) != want)
		return err_set(err, -EINVAL, "the template's memory is not sealed");
	rc = map(memory, 0, fd, MADV_NOHUGEPAGE, err);
	if (!rc)
		memory->template_fd = fd;
	return rc;
}

void guest_memory_release(struct guest_memory *memory)
{
	if (!memory->host)
		return;
	munmap(memory->host, memory->size);
	if (memory->template_fd >= 0)
		close(memory->template_fd);
	*memory = (struct guest_memory){ .template_fd = -1 };
}
