/* SPDX-License-Identifier: MIT */
/*
 * vcpu_state.c - everything KVM knows of one vCPU, as bytes
 *
 * The order of the calls matters more than what they do; each rule is stated where it is kept. Sources:
 * Documentation/virt/kvm/api.rst, and the order that Firecracker and Cloud Hypervisor have arrived at.
 */
#include "vm/vmm/vcpu_state.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vm/vmm/vmm.h"

enum {
	MSR_TSC = 0x10,
	MSR_TSC_DEADLINE = 0x6e0,
	MSRS_CHUNK = 128, /* KVM takes at most 256 in a call */
	MSRS_MAX = 4096,  /* in a saved state */
};

union msrs {
	struct kvm_msrs head;
	uint8_t space[sizeof(struct kvm_msrs) + MSRS_CHUNK * sizeof(struct kvm_msr_entry)];
};

/* The fixed-size parts. A union, so that one function reads and writes all of them. */
union part {
	struct kvm_mp_state mp_state;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
};

static int save_part(struct vcpu *vcpu, struct buf *buf, unsigned long get, size_t size, const char *what,
		     struct err *err)
{
	union part part;

	memset(&part, 0, sizeof(part));
	if (ioctl(vcpu->fd, get, &part) < 0)
		return err_sys(err, -errno, "cannot read the %s of vCPU %u", what, vcpu->index);
	buf_put_bytes(buf, &part, size);
	return 0;
}

static int load_part(struct vcpu *vcpu, struct reader *reader, unsigned long set, size_t size,
		     const char *what, struct err *err)
{
	union part part;
	size_t n;
	const uint8_t *bytes = get_bytes(reader, &n);

	if (n != size)
		return err_set(err, -EINVAL, "the saved %s of vCPU %u have a wrong length", what,
			       vcpu->index);
	memcpy(&part, bytes, size);
	if (ioctl(vcpu->fd, set, &part) < 0)
		return err_sys(err, -errno, "cannot set the %s of vCPU %u", what, vcpu->index);
	return 0;
}

static int save_xsave(struct vcpu *vcpu, struct buf *buf, struct err *err)
{
	const struct kvm_vm *vm = &vcpu->vmm->vm;
	void *xsave = calloc(1, vm->xsave_size);
	int rc = 0;

	if (!xsave)
		return err_set(err, -ENOMEM, "out of memory");
	/* KVM_GET_XSAVE has 4 KiB only, which wider vector registers do not fit in. */
	if (ioctl(vcpu->fd, vm->xsave2 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, xsave) < 0)
		rc = err_sys(err, -errno, "cannot read the vector registers of vCPU %u", vcpu->index);
	else
		buf_put_bytes(buf, xsave, vm->xsave_size);
	free(xsave);
	return rc;
}

static int load_xsave(struct vcpu *vcpu, struct reader *reader, struct err *err)
{
	const struct kvm_vm *vm = &vcpu->vmm->vm;
	size_t n;
	const uint8_t *bytes = get_bytes(reader, &n);
	void *xsave;
	int rc = 0;

	if (n < sizeof(struct kvm_xsave) || n > vm->xsave_size)
		return err_set(
			err, -EINVAL,
			"the saved vector registers of vCPU %u have %zu bytes, this host's at most %zu",
			vcpu->index, n, vm->xsave_size);
	xsave = calloc(1, vm->xsave_size);
	if (!xsave)
		return err_set(err, -ENOMEM, "out of memory");
	memcpy(xsave, bytes, n);
	if (ioctl(vcpu->fd, KVM_SET_XSAVE, xsave) < 0)
		rc = err_sys(err, -errno, "cannot set the vector registers of vCPU %u", vcpu->index);
	free(xsave);
	return rc;
}

static int load_xcrs(struct vcpu *vcpu, struct reader *reader, struct err *err)
{
	struct kvm_xcrs xcrs;
	size_t n;
	const uint8_t *bytes = get_bytes(reader, &n);

	if (n != sizeof(xcrs))
		return err_set(err, -EINVAL, "the saved XCRs of vCPU %u have a wrong length", vcpu->index);
	memcpy(&xcrs, bytes, n);
	/* None where the CPU has no XSAVE, and there it is an error to set them. */
	if (xcrs.nr_xcrs && ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs) < 0)
		return err_sys(err, -errno, "cannot set the XCRs of vCPU %u", vcpu->index);
	return 0;
}

/* All of KVM's list: an MSR left out is a bug that shows much later, in the guest. */
static int save_msrs(struct vcpu *vcpu, struct buf *buf, struct err *err)
{
	const struct kvm_msr_list *list = vcpu->vmm->vm.msrs;
	struct buf out = { 0 };
	union msrs msrs;
	uint32_t at = 0, i, n;
	int got;

	while (at < list->nmsrs) {
		n = list->nmsrs - at < MSRS_CHUNK ? list->nmsrs - at : MSRS_CHUNK;
		memset(&msrs, 0, sizeof(msrs));
		msrs.head.nmsrs = n;
		for (i = 0; i < n; i++)
			msrs.head.entries[i].index = list->indices[at + i];
		got = ioctl(vcpu->fd, KVM_GET_MSRS, &msrs);
		if (got < 0) {
			buf_release(&out);
			return err_sys(err, -errno, "cannot read the MSRs of vCPU %u", vcpu->index);
		}
		for (i = 0; i < (uint32_t)got; i++) {
			buf_put_u32(&out, msrs.head.entries[i].index);
			buf_put_u64(&out, msrs.head.entries[i].data);
		}
		/* It stops at the first that this vCPU does not have, for want of the CPUID bit: skip
		 * that. */
		at += (uint32_t)got + ((uint32_t)got < n);
	}
	buf_put_bytes(buf, buf_bytes(&out), out.len);
	buf->failed |= out.failed;
	buf_release(&out);
	return 0;
}

static bool has_value(struct vcpu *vcpu, const struct kvm_msr_entry *want)
{
	union msrs msrs = { .head.nmsrs = 1 };

	msrs.head.entries[0] = (struct kvm_msr_entry){ .index = want->index };
	return ioctl(vcpu->fd, KVM_GET_MSRS, &msrs) == 1 && msrs.head.entries[0].data == want->data;
}

static int set_msrs(struct vcpu *vcpu, const struct kvm_msr_entry *want, uint32_t n, struct err *err)
{
	union msrs msrs;
	uint32_t chunk;
	int done;

	while (n) {
		chunk = n < MSRS_CHUNK ? n : MSRS_CHUNK;
		msrs.head = (struct kvm_msrs){ .nmsrs = chunk };
		memcpy(msrs.head.entries, want, chunk * sizeof(*want));
		done = ioctl(vcpu->fd, KVM_SET_MSRS, &msrs);
		if (done < 0)
			return err_sys(err, -errno, "cannot set the MSRs of vCPU %u", vcpu->index);
		/* It stops at the first it refuses, which is no loss where the value is there already. */
		if ((uint32_t)done < chunk) {
			if (!has_value(vcpu, &want[done]))
				return err_set(err, -EINVAL,
					       "this host refuses to set MSR %#x of vCPU %u to %#llx",
					       want[done].index, vcpu->index, want[done].data);
			done++;
		}
		want += done;
		n -= (uint32_t)done;
	}
	return 0;
}

/*
 * KVM takes a TSC that is written within a second of what the machine's TSC is by then for an attempt to
 * synchronise its vCPUs, and changes nothing (arch/x86/kvm/x86.c, kvm_synchronize_tsc; since Linux 6.7 not at
 * the first write). A fork of a young guest in a young process would have a TSC that is off by up to a
 * second, and its timer, set by the TSC, would be late by as much. A value far from both makes the next one
 * count. The other vCPUs' are near the first one's and do get synchronised.
 */
static int detach_tsc(struct vcpu *vcpu, uint64_t tsc, struct err *err)
{
	const struct kvm_msr_entry far = { .index = MSR_TSC, .data = tsc + (UINT64_C(1) << 62) };

	return vcpu->index || !tsc ? 0 : set_msrs(vcpu, &far, 1, err);
}

static int load_msrs(struct vcpu *vcpu, struct reader *reader, struct err *err)
{
	struct kvm_msr_entry *entries, deadline = { 0 };
	struct reader list;
	uint64_t tsc = 0;
	uint32_t i, n = 0;
	size_t len;
	const uint8_t *bytes = get_bytes(reader, &len);
	int rc;

	if (len % 12 || len / 12 > MSRS_MAX)
		return err_set(err, -EINVAL, "the saved MSRs of vCPU %u have a wrong length", vcpu->index);
	entries = calloc(len / 12 + 1, sizeof(*entries));
	if (!entries)
		return err_set(err, -ENOMEM, "out of memory");
	list = reader_init(bytes, len);
	for (i = 0; i < len / 12; i++) {
		const struct kvm_msr_entry entry = { .index = get_u32(&list), .data = get_u64(&list) };

		if (entry.index == MSR_TSC)
			tsc = entry.data;
		if (entry.index == MSR_TSC_DEADLINE)
			deadline = entry;
		else
			entries[n++] = entry;
	}
	rc = detach_tsc(vcpu, tsc, err);
	if (!rc)
		rc = set_msrs(vcpu, entries, n, err);
	/*
	 * The deadline comes after the TSC that it is compared with, in a call of its own: KVM works through
	 * the list in order, and this one is not in a fixed place. A deadline of zero means none, or one that
	 * has just passed while the vCPU stood: an interrupt too many is harmless, one too few stops the
	 * guest's clock, so we make it now. KVM drops the write where the local APIC is in another mode.
	 */
	if (!rc && deadline.index) {
		if (!deadline.data)
			deadline.data = tsc;
		rc = set_msrs(vcpu, &deadline, 1, err);
	}
	free(entries);
	return rc;
}

static int save_tsc_khz(struct vcpu *vcpu, struct buf *buf, struct err *err)
{
	const int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);

	if (khz < 0)
		return err_sys(err, -errno, "cannot read the TSC's frequency");
	buf_put_u32(buf, (uint32_t)khz);
	return 0;
}

static int load_tsc_khz(struct vcpu *vcpu, struct reader *reader, struct err *err)
{
	const uint32_t want = get_u32(reader);
	const int have = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
	uint64_t difference;

	if (have <= 0)
		return err_sys(err, have < 0 ? -errno : -EIO, "cannot read the TSC's frequency");
	difference = want > (uint32_t)have ? want - (uint32_t)have : (uint32_t)have - want;
	/* Within what NTP corrects, as KVM's own tsc_tolerance_ppm has it: 250 ppm. */
	if (difference * 1000000 <= (uint64_t)have * 250)
		return 0;
	if (!vcpu->vmm->vm.tsc_control)
		return err_set(err, -EINVAL,
			       "the guest's TSC runs at %u kHz, this host's at %d and cannot be scaled", want,
			       have);
	if (ioctl(vcpu->fd, KVM_SET_TSC_KHZ, (unsigned long)want) < 0)
		return err_sys(err, -errno, "cannot set the TSC's frequency to %u kHz", want);
	return 0;
}

#define SAVE(field, ioctl, what) save_part(vcpu, buf, ioctl, sizeof(((union part *)0)->field), what, err)
#define LOAD(field, ioctl, what) load_part(vcpu, reader, ioctl, sizeof(((union part *)0)->field), what, err)

int vcpu_save(struct vcpu *vcpu, struct buf *buf, struct err *err)
{
	int rc;

	/* First: reading it makes KVM take in INIT and SIPI that wait, which changes what follows. */
	rc = SAVE(mp_state, KVM_GET_MP_STATE, "run state");
	if (!rc)
		rc = SAVE(regs, KVM_GET_REGS, "registers");
	if (!rc)
		rc = SAVE(sregs, KVM_GET_SREGS, "system registers");
	if (!rc)
		rc = save_xsave(vcpu, buf, err);
	if (!rc)
		rc = SAVE(xcrs, KVM_GET_XCRS, "XCRs");
	if (!rc)
		rc = SAVE(debugregs, KVM_GET_DEBUGREGS, "debug registers");
	if (!rc)
		rc = SAVE(lapic, KVM_GET_LAPIC, "local APIC");
	if (!rc)
		rc = save_tsc_khz(vcpu, buf, err);
	if (!rc)
		rc = save_msrs(vcpu, buf, err);
	/* Last: all of the above may still turn into an event. */
	if (!rc)
		rc = SAVE(events, KVM_GET_VCPU_EVENTS, "events");
	return rc;
}

int vcpu_load(struct vcpu *vcpu, struct reader *reader, struct err *err)
{
	int rc;

	/* As it was saved: an AP that waits or a CPU that sleeps goes on to do so. */
	rc = LOAD(mp_state, KVM_SET_MP_STATE, "run state");
	/* Forgets pending exceptions, so before the events. */
	if (!rc)
		rc = LOAD(regs, KVM_SET_REGS, "registers");
	/* Has the APIC base, so before the local APIC. */
	if (!rc)
		rc = LOAD(sregs, KVM_SET_SREGS, "system registers");
	if (!rc)
		rc = load_xsave(vcpu, reader, err);
	if (!rc)
		rc = load_xcrs(vcpu, reader, err);
	if (!rc)
		rc = LOAD(debugregs, KVM_SET_DEBUGREGS, "debug registers");
	/* Before the MSRs: the TSC deadline is dropped unless the timer is in that mode, and cleared here. */
	if (!rc)
		rc = LOAD(lapic, KVM_SET_LAPIC, "local APIC");
	if (!rc)
		rc = load_tsc_khz(vcpu, reader, err);
	if (!rc)
		rc = load_msrs(vcpu, reader, err);
	if (!rc)
		rc = LOAD(events, KVM_SET_VCPU_EVENTS, "events");
	return rc;
}

int vcpu_copy_tsc_offset(const struct vcpu *first, struct vcpu *vcpu, struct err *err)
{
	uint64_t offset;
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
					.attr = KVM_VCPU_TSC_OFFSET,
					.addr = (uintptr_t)&offset };

	/* Older than Linux 5.16: KVM then takes writes of nearly the same value for the same. */
	if (ioctl(first->fd, KVM_HAS_DEVICE_ATTR, &attr) < 0)
		return 0;
	/*
	 * Each vCPU's TSC was written at another moment. With offsets that differ KVM gives up its master
	 * clock, and the guest sees time go backwards when it moves between CPUs.
	 */
	if (ioctl(first->fd, KVM_GET_DEVICE_ATTR, &attr) < 0 ||
	    ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attr) < 0)
		return err_sys(err, -errno, "cannot synchronise the TSC of vCPU %u", vcpu->index);
	return 0;
}
