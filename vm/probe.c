/* SPDX-License-Identifier: MIT */
/*
 * probe.c - can /dev/kvm run a Linux guest, or does it only say so?
 *
 * The guest is a loop of two instructions in 64-bit mode, ring 0, on 2 MiB of identity-mapped memory. Real
 * mode would be simpler, but Intel processors before Westmere have KVM interpret that, too. A first short run
 * pays for the faults and the first entry. Of those after it the fastest counts: on a busy host the others
 * measure what else runs there.
 */
#include "vm/probe.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/loop.h"

enum {
	MEMORY = 64 << 10, /* bytes; page tables and code */
	PML4 = 0x1000,
	PDPT = 0x2000,
	PD = 0x3000,
	CODE = 0x4000,
	WARM_UP = 10,
	RUNS = 8,
	ITERATIONS = 8000, /* of two instructions each: all runs take 85 ms at 1.5 MIPS */
	MIPS_MIN = 20,
};

/* Page table and control register bits: Intel SDM volume 3, sections 2.5 and 4.5. */
enum { PTE_PRESENT = 1, PTE_WRITE = 2, PTE_LARGE = 0x80 };
enum { CR0_PE = 1, CR4_PAE = 0x20, EFER_LME = 0x100, EFER_LMA = 0x400 };
#define CR0_PG (1ull << 31)

static const uint8_t code[] = {
	0xff, 0xc9, /* 1: dec ecx */
	0x75, 0xfc, /* jnz 1b */
	0xf4,       /* hlt */
};

static void write_tables(uint8_t *memory)
{
	const uint64_t pml4e = PDPT | PTE_PRESENT | PTE_WRITE;
	const uint64_t pdpte = PD | PTE_PRESENT | PTE_WRITE;
	const uint64_t pde = PTE_PRESENT | PTE_WRITE | PTE_LARGE;

	memcpy(memory + PML4, &pml4e, sizeof(pml4e));
	memcpy(memory + PDPT, &pdpte, sizeof(pdpte));
	memcpy(memory + PD, &pde, sizeof(pde));
	memcpy(memory + CODE, code, sizeof(code));
}

static int set_long_mode(int vcpu)
{
	struct kvm_segment cs = {
		.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	struct kvm_segment ds = {
		.limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
	};
	struct kvm_sregs sregs;

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	sregs.cs = cs;
	sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = ds;
	sregs.cr0 = CR0_PE | CR0_PG;
	sregs.cr3 = PML4;
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_LME | EFER_LMA;
	return ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 ? -errno : 0;
}

static int run_loop(int vcpu, const struct kvm_run *run, uint64_t iterations)
{
	struct kvm_regs regs = { .rip = CODE, .rcx = iterations, .rflags = 2 };
	int rc;

	if (ioctl(vcpu, KVM_SET_REGS, &regs) < 0)
		return -errno;
	do
		rc = ioctl(vcpu, KVM_RUN, 0);
	while (rc < 0 && errno == EINTR);
	if (rc < 0)
		return -errno;
	return run->exit_reason == KVM_EXIT_HLT ? 0 : -EIO;
}

int kvm_measure_mips(int kvm_fd, double *ret, struct err *err)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY };
	int vm = -1, vcpu = -1, run_size, rc = 0;
	struct kvm_run *run = MAP_FAILED;
	uint8_t *memory = MAP_FAILED;
	uint64_t start, took, shortest = UINT64_MAX;
	unsigned i;

	run_size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	vm = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (run_size < (int)sizeof(*run) || vm < 0) {
		rc = err_sys(err, errno ? -errno : -EIO, "cannot create a virtual machine on /dev/kvm");
		goto out;
	}
	memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		rc = err_sys(err, -errno, "cannot map the probe's memory");
		goto out;
	}
	write_tables(memory);
	region.userspace_addr = (uintptr_t)memory;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0) {
		rc = err_sys(err, -errno, "cannot give memory to a virtual machine on /dev/kvm");
		goto out;
	}
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu >= 0)
		run = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (vcpu < 0 || run == MAP_FAILED) {
		rc = err_sys(err, -errno, "cannot create a virtual CPU on /dev/kvm");
		goto out;
	}
	rc = set_long_mode(vcpu);
	if (!rc)
		rc = run_loop(vcpu, run, WARM_UP);
	for (i = 0; i < RUNS && !rc; i++) {
		start = now_mono_ns();
		rc = run_loop(vcpu, run, ITERATIONS);
		took = now_mono_ns() - start;
		if (took < shortest)
			shortest = took;
	}
	if (rc) {
		err_sys(err, rc, "a test guest does not run on /dev/kvm");
		goto out;
	}
	*ret = 2.0 * ITERATIONS * 1000 / (double)shortest;
out:
	if (run != MAP_FAILED)
		munmap(run, (size_t)run_size);
	if (vcpu >= 0)
		close(vcpu);
	if (vm >= 0)
		close(vm);
	if (memory != MAP_FAILED)
		munmap(memory, MEMORY);
	return rc;
}

static void read_cpuid(struct kvm_probe *probe)
{
	unsigned a, b, c, d;

	/* CPUID 1 ECX bit 5 is VMX (Intel SDM volume 2), 0x80000001 ECX bit 2 is SVM (AMD APM volume 3). */
	probe->vmx = __get_cpuid(1, &a, &b, &c, &d) && c & 1u << 5;
	probe->svm = __get_cpuid(0x80000001, &a, &b, &c, &d) && c & 1u << 2;
	probe->how = probe->vmx ? "VMX" : probe->svm ? "SVM" : "hidden hardware";
}

static void measure(struct kvm_probe *probe)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		err_sys(&probe->err, -errno, "cannot open /dev/kvm");
		return;
	}
	if (!kvm_measure_mips(fd, &probe->mips, &probe->err) && probe->mips < MIPS_MIN)
		err_set(&probe->err, -ENODEV, "/dev/kvm emulates ring 0 at %.1f MIPS", probe->mips);
	close(fd);
}

const struct kvm_probe *kvm_probe(void)
{
	static struct kvm_probe probe;

	if (!probe.how) {
		read_cpuid(&probe);
		measure(&probe);
	}
	return &probe;
}
