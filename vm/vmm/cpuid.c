/* SPDX-License-Identifier: MIT */
/*
 * cpuid.c - what the guest's CPUs say they are
 *
 * Leaves are those of the Intel SDM volume 2 (CPUID), of the AMD APM volume 3 (appendix E) from 0x80000000
 * on, and of Documentation/virt/kvm/x86/cpuid.rst from 0x40000000 on.
 */
#include "vm/vmm/cpuid.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum { ENTRIES_MAX = 256 };

#define BIT(n) (1u << (n))

enum { EAX, EBX, ECX, EDX };
static const char *const register_names[] = { "EAX", "EBX", "ECX", "EDX" };

/* Bits to take away from what KVM supports. */
static const struct {
	uint32_t function, index;
	unsigned reg;
	uint32_t bits;
} hidden[] = {
	/* Nested virtualization (VMX, SVM): its state is not saved. */
	{ 0x1, 0, ECX, BIT(5) },
	{ 0x80000001, 0, ECX, BIT(2) },
	/* Performance counters would count the host's interference; nothing in a sandbox needs them. */
	{ 0xa, 0, EAX, ~0u },
	{ 0xa, 0, EBX, ~0u },
	{ 0xa, 0, ECX, ~0u },
	{ 0xa, 0, EDX, ~0u },
	{ 0x80000001, 0, ECX, BIT(23) },
	/* AMX and its two components of XCR0: KVM wants a permission for them, and every capture 8 KiB. */
	{ 0x7, 0, EDX, BIT(22) | BIT(24) | BIT(25) },
	{ 0xd, 0, EAX, BIT(17) | BIT(18) },
	/*
	 * Invariant TSC: with it Linux prefers the TSC to kvmclock, and only kvmclock stands still in a pause
	 * and goes on in a fork on a host whose TSC cannot be set.
	 */
	{ 0x80000007, 0, EDX, BIT(8) },
	/*
	 * Asynchronous page faults: tokens of faults under way at a capture would never be answered in a
	 * fork.
	 */
	{ KVM_CPUID_FEATURES, 0, EAX,
	  BIT(KVM_FEATURE_ASYNC_PF) | BIT(KVM_FEATURE_ASYNC_PF_VMEXIT) | BIT(KVM_FEATURE_ASYNC_PF_INT) },
};

/* Registers that list features, one a bit: a guest that has seen one set relies on it. */
static const struct {
	uint32_t function, index;
	unsigned regs; /* BIT(EAX) and so on */
} features[] = {
	{ 0x1, 0, BIT(ECX) | BIT(EDX) },
	{ 0x7, 0, BIT(EBX) | BIT(ECX) | BIT(EDX) },
	{ 0x7, 1, BIT(EAX) },
	{ 0xd, 0, BIT(EAX) | BIT(EDX) },
	{ 0xd, 1, BIT(EAX) },
	{ 0x80000001, 0, BIT(ECX) | BIT(EDX) },
	{ 0x80000008, 0, BIT(EBX) },
	{ KVM_CPUID_FEATURES, 0, BIT(EAX) },
};

static uint32_t get(const struct kvm_cpuid_entry2 *entry, unsigned reg)
{
	return reg == EAX ? entry->eax : reg == EBX ? entry->ebx : reg == ECX ? entry->ecx : entry->edx;
}

static uint32_t *at(struct kvm_cpuid_entry2 *entry, unsigned reg)
{
	return reg == EAX ? &entry->eax : reg == EBX ? &entry->ebx : reg == ECX ? &entry->ecx : &entry->edx;
}

static const struct kvm_cpuid_entry2 *find_const(const struct kvm_cpuid2 *cpuid, uint32_t function,
						 uint32_t index)
{
	const struct kvm_cpuid_entry2 *entry;

	for (entry = cpuid->entries; entry < cpuid->entries + cpuid->nent; entry++)
		if (entry->function == function && entry->index == index)
			return entry;
	return NULL;
}

static struct kvm_cpuid_entry2 *find(struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index)
{
	return (struct kvm_cpuid_entry2 *)find_const(cpuid, function, index);
}

static struct kvm_cpuid2 *allocate(void)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + ENTRIES_MAX * sizeof(cpuid->entries[0]));

	if (cpuid)
		cpuid->nent = ENTRIES_MAX;
	return cpuid;
}

struct kvm_cpuid2 *cpuid_copy(const struct kvm_cpuid2 *cpuid)
{
	struct kvm_cpuid2 *copy = allocate();

	if (copy)
		memcpy(copy, cpuid, sizeof(*cpuid) + cpuid->nent * sizeof(cpuid->entries[0]));
	return copy;
}

bool cpuid_equal(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b)
{
	return a->nent == b->nent && !memcmp(a->entries, b->entries, a->nent * sizeof(a->entries[0]));
}

int cpuid_supported(int kvm_fd, bool tsc_deadline, struct kvm_cpuid2 **ret, struct err *err)
{
	struct kvm_cpuid2 *cpuid = allocate();
	struct kvm_cpuid_entry2 *entry;
	size_t i;

	if (!cpuid)
		return err_set(err, -ENOMEM, "out of memory");
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0) {
		const int rc = err_sys(err, -errno, "cannot ask KVM for its CPUID");

		free(cpuid);
		return rc;
	}
	for (i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++) {
		entry = find(cpuid, hidden[i].function, hidden[i].index);
		if (entry)
			*at(entry, hidden[i].reg) &= ~hidden[i].bits;
	}
	entry = find(cpuid, 1, 0);
	if (entry) {
		/* "There is a hypervisor": guests look for kvmclock only then, and older KVMs leave it to
		 * us. */
		entry->ecx |= BIT(31);
		/* Depends on the irqchip, so KVM never lists it (Documentation/virt/kvm/api.rst). */
		if (tsc_deadline)
			entry->ecx |= BIT(24);
	}
	*ret = cpuid;
	return 0;
}

static unsigned log2_up(unsigned n)
{
	unsigned bits = 0;

	while (BIT(bits) < n)
		bits++;
	return bits;
}

/* Fields [high:low] of a register. */
static void set_field(uint32_t *v, unsigned high, unsigned low, uint32_t value)
{
	const uint32_t mask = (uint32_t)(((1ull << (high - low + 1)) - 1) << low);

	*v = (*v & ~mask) | (value << low & mask);
}

/* Extended topology: the only subleaves are threads (one) and cores (all). */
static void set_extended_topology(struct kvm_cpuid2 *cpuid, uint32_t function, unsigned index, unsigned cpus)
{
	const struct kvm_cpuid_entry2 levels[] = {
		{ .eax = 0, .ebx = 1, .ecx = 1u << 8 | 0 },                /* type 1: SMT */
		{ .eax = log2_up(cpus), .ebx = cpus, .ecx = 2u << 8 | 1 }, /* type 2: core */
	};
	struct kvm_cpuid_entry2 *entry;
	uint32_t i;

	if (!find(cpuid, function, 0))
		return;
	for (entry = cpuid->entries; entry < cpuid->entries + cpuid->nent; entry++)
		if (entry->function == function) {
			entry->eax = entry->ebx = 0;
			entry->ecx = entry->index & 0xff;
			entry->edx = index;
		}
	for (i = 0; i < 2; i++) {
		entry = find(cpuid, function, i);
		if (!entry && cpuid->nent < ENTRIES_MAX)
			entry = &cpuid->entries[cpuid->nent++];
		if (!entry)
			return;
		*entry = levels[i];
		entry->function = function;
		entry->index = i;
		entry->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		entry->edx = index;
	}
}

void cpuid_set_topology(struct kvm_cpuid2 *cpuid, unsigned index, unsigned cpus)
{
	struct kvm_cpuid_entry2 *entry;
	unsigned i;

	set_extended_topology(cpuid, 0xb, index, cpus);
	set_extended_topology(cpuid, 0x1f, index, cpus);
	for (i = 0; i < cpuid->nent; i++) {
		entry = &cpuid->entries[i];
		switch (entry->function) {
		case 0x1:
			set_field(&entry->ebx, 31, 24, index);
			set_field(&entry->ebx, 23, 16, cpus > 1 ? BIT(log2_up(cpus)) : 1);
			set_field(&entry->edx, 28, 28, cpus > 1);
			break;
		case 0x4: /* caches; a level in bits 7:5 */
			if (!(entry->eax & 0x1f))
				break;
			set_field(&entry->eax, 31, 26, BIT(log2_up(cpus)) - 1);
			set_field(&entry->eax, 25, 14,
				  (entry->eax >> 5 & 7) < 3 ? 0 : BIT(log2_up(cpus)) - 1);
			break;
		case 0x80000008:
			set_field(&entry->ecx, 7, 0, cpus - 1);
			set_field(&entry->ecx, 15, 12, log2_up(cpus));
			break;
		case 0x8000001d:
			if (entry->eax & 0x1f)
				set_field(&entry->eax, 25, 14, (entry->eax >> 5 & 7) < 3 ? 0 : cpus - 1);
			break;
		case 0x8000001e:
			entry->eax = index;
			set_field(&entry->ebx, 15, 0, index); /* one thread a core */
			set_field(&entry->ecx, 10, 0, 0);     /* one node */
			break;
		default:
			break;
		}
	}
}

void cpuid_save(const struct kvm_cpuid2 *cpuid, struct buf *buf)
{
	uint32_t i;

	buf_put_u32(buf, cpuid->nent);
	for (i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		buf_put_u32(buf, entry->function);
		buf_put_u32(buf, entry->index);
		buf_put_u32(buf, entry->flags);
		buf_put_u32(buf, entry->eax);
		buf_put_u32(buf, entry->ebx);
		buf_put_u32(buf, entry->ecx);
		buf_put_u32(buf, entry->edx);
	}
}

static int check_features(const struct kvm_cpuid2 *saved, const struct kvm_cpuid2 *host, struct err *err)
{
	size_t i;
	unsigned r;

	for (i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		const struct kvm_cpuid_entry2 *want, *have;

		want = find_const(saved, features[i].function, features[i].index);
		have = find_const(host, features[i].function, features[i].index);

		for (r = EAX; want && r <= EDX; r++) {
			const uint32_t missing = get(want, r) & ~(have ? get(have, r) : 0);

			if (features[i].regs & BIT(r) && missing)
				return err_set(err, -EINVAL,
					       "this host's CPU lacks features the guest uses: CPUID %#x.%u "
					       "%s bits %#x",
					       features[i].function, features[i].index, register_names[r],
					       missing);
		}
	}
	return 0;
}

int cpuid_load(struct reader *reader, const struct kvm_cpuid2 *host, struct kvm_cpuid2 **ret, struct err *err)
{
	struct kvm_cpuid2 *cpuid = allocate();
	uint32_t i, n = get_u32(reader);
	int rc = 0;

	if (!cpuid)
		return err_set(err, -ENOMEM, "out of memory");
	if (n > ENTRIES_MAX)
		rc = err_set(err, -EINVAL, "the saved CPUID has %u entries", n);
	for (i = 0; !rc && i < n; i++) {
		struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		entry->function = get_u32(reader);
		entry->index = get_u32(reader);
		entry->flags = get_u32(reader);
		entry->eax = get_u32(reader);
		entry->ebx = get_u32(reader);
		entry->ecx = get_u32(reader);
		entry->edx = get_u32(reader);
	}
	cpuid->nent = n;
	if (!rc && reader->bad)
		rc = err_set(err, -EINVAL, "the saved CPUID is cut short");
	if (!rc)
		rc = check_features(cpuid, host, err);
	if (rc)
		free(cpuid);
	else
		*ret = cpuid;
	return rc;
}
