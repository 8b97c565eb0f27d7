/* SPDX-License-Identifier: MIT */
/* vm.c - the virtual machine as KVM sees it, without CPUs and devices */
#include "vm/vmm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vm/vmm/cpuid.h"
#include "vm/vmm/layout.h"

/* What we cannot do without; all older than Linux 5.0. */
static const struct {
	int cap;
	const char *name;
} required[] = {
	{ KVM_CAP_USER_MEMORY, "user memory" },
	{ KVM_CAP_SPLIT_IRQCHIP, "a split irqchip" },
	{ KVM_CAP_SIGNAL_MSI, "interrupt messages" },
	{ KVM_CAP_IMMEDIATE_EXIT, "immediate exits" },
	{ KVM_CAP_ADJUST_CLOCK, "clock access" },
	{ KVM_CAP_VCPU_EVENTS, "vCPU events" },
	{ KVM_CAP_DEBUGREGS, "debug registers" },
	{ KVM_CAP_XSAVE, "XSAVE" },
	{ KVM_CAP_MP_STATE, "MP state" },
	{ KVM_CAP_EXT_CPUID, "CPUID" },
};

static int open_kvm(struct kvm_vm *vm, struct err *err)
{
	int size;
	size_t i;

	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm_fd < 0)
		return err_sys(err, -errno, "cannot open /dev/kvm");
	if (ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return err_set(err, -ENODEV, "/dev/kvm speaks another API version than %d", KVM_API_VERSION);
	for (i = 0; i < sizeof(required) / sizeof(required[0]); i++)
		if (ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, required[i].cap) <= 0)
			return err_set(err, -ENODEV, "this host's KVM lacks %s", required[i].name);
	size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		return err_set(err, -EIO, "KVM's vCPU mapping is too small");
	vm->run_size = (size_t)size;
	return 0;
}

static int create(struct kvm_vm *vm, struct err *err)
{
	/* A pending signal interrupts the making of KVM's recovery thread. */
	do
		vm->vm_fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
	while (vm->vm_fd < 0 && errno == EINTR);
	return vm->vm_fd < 0 ? err_sys(err, -errno, "cannot create a virtual machine") : 0;
}

static int set_slot(struct kvm_vm *vm, unsigned slot, uint64_t gpa, uint64_t size, void *host,
		    struct err *err)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)host
	};

	if (size && ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return err_sys(err, -errno, "cannot register the guest's memory");
	return 0;
}

static int add_memory(struct kvm_vm *vm, const struct guest_memory *memory, struct err *err)
{
	const uint64_t low = guest_low_size(memory);
	int rc = set_slot(vm, 0, 0, low, memory->host, err);

	return rc ? rc : set_slot(vm, 1, GUEST_HIGH_BASE, memory->size - low, memory->host + low, err);
}

static int enable_irqchip(struct kvm_vm *vm, struct err *err)
{
	uint64_t identity_map = IDENTITY_MAP_ADDR;
	/* No routes are reserved for our I/O APIC: they are for ends of level-triggered interrupts. */
	struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP };

	if (ioctl(vm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0 ||
	    ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, TSS_ADDR) < 0)
		return err_sys(err, -errno, "cannot place KVM's own pages");
	if (ioctl(vm->vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		return err_sys(err, -errno, "cannot enable the split irqchip");
	return 0;
}

static void ask_features(struct kvm_vm *vm)
{
	/*
	 * Of the VM, not of /dev/kvm: only there does the size hold what this process has asked permission
	 * for (AMX).
	 */
	const int xsave2 = ioctl(vm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	vm->xsave2 = xsave2 >= (int)sizeof(struct kvm_xsave);
	vm->xsave_size = vm->xsave2 ? (size_t)xsave2 : sizeof(struct kvm_xsave);
	vm->tsc_control = ioctl(vm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0;
	vm->tsc_deadline = ioctl(vm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
}

static int list_msrs(struct kvm_vm *vm, struct err *err)
{
	struct kvm_msr_list probe = { .nmsrs = 0 };

	/* Fails with E2BIG, and says how many there are. */
	if (ioctl(vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, &probe) < 0 && errno != E2BIG)
		return err_sys(err, -errno, "cannot list the MSRs");
	vm->msrs = calloc(1, sizeof(*vm->msrs) + probe.nmsrs * sizeof(vm->msrs->indices[0]));
	if (!vm->msrs)
		return err_set(err, -ENOMEM, "out of memory");
	vm->msrs->nmsrs = probe.nmsrs;
	if (ioctl(vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, vm->msrs) < 0)
		return err_sys(err, -errno, "cannot list the MSRs");
	return 0;
}

int kvm_vm_create(struct kvm_vm *vm, const struct guest_memory *memory, struct err *err)
{
	int rc;

	*vm = (struct kvm_vm){ .kvm_fd = -1, .vm_fd = -1 };
	rc = open_kvm(vm, err);
	if (!rc)
		rc = create(vm, err);
	if (!rc)
		rc = add_memory(vm, memory, err);
	if (!rc)
		rc = enable_irqchip(vm, err);
	if (!rc) {
		ask_features(vm);
		rc = list_msrs(vm, err);
	}
	if (!rc)
		rc = cpuid_supported(vm->kvm_fd, vm->tsc_deadline, &vm->cpuid, err);
	if (rc)
		kvm_vm_release(vm);
	return rc;
}

void kvm_vm_release(struct kvm_vm *vm)
{
	free(vm->cpuid);
	free(vm->msrs);
	if (vm->vm_fd >= 0)
		close(vm->vm_fd);
	if (vm->kvm_fd >= 0)
		close(vm->kvm_fd);
	*vm = (struct kvm_vm){ .kvm_fd = -1, .vm_fd = -1 };
}
