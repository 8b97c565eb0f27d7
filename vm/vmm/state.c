/* SPDX-License-Identifier: MIT */
/* state.c - a stopped machine as bytes, all but its RAM and disk */
#include "vm/vmm/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/io.h"
#include "vm/vmm/cpuid.h"
#include "vm/vmm/vcpu_state.h"
#include "vm/vmm/vmm.h"

#define STATE_MAGIC 0x4d564b2d58425353ull /* "SSBX-KVM" */
#define TAG(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

enum { STATE_MAX = 16 << 20 };

static const uint32_t tag_machine = TAG('M', 'A', 'C', 'H'), tag_cpuid = TAG('C', 'P', 'I', 'D'),
		      tag_clock = TAG('C', 'L', 'C', 'K'), tag_vcpu = TAG('V', 'C', 'P', 'U'),
		      tag_ioapic = TAG('I', 'O', 'A', 'P'), tag_serial = TAG('S', 'E', 'R', 'L'),
		      tag_virtio = TAG('V', 'I', 'R', 'T'), tag_done = TAG('D', 'O', 'N', 'E');

/* Begin a section; returns what section_end needs to fill in its length. */
static size_t section_begin(struct buf *buf, uint32_t tag)
{
	buf_put_u32(buf, tag);
	buf_put_u32(buf, 0);
	return buf->len;
}

static void section_end(struct buf *buf, size_t at)
{
	const uint32_t len = (uint32_t)(buf->len - at);

	if (!buf->failed)
		memcpy(buf_bytes(buf) + at - sizeof(len), &len, sizeof(len));
}

/* The section that must come now. */
static int section_open(struct reader *reader, uint32_t tag, struct reader *ret, struct err *err)
{
	const uint32_t found = get_u32(reader);
	const uint8_t *bytes;
	size_t n;

	bytes = get_bytes(reader, &n);
	if (reader->bad)
		return err_set(err, -EINVAL, "the saved machine is cut short");
	if (found != tag)
		return err_set(err, -EINVAL, "the saved machine has section %.4s where %.4s belongs",
			       (const char *)&found, (const char *)&tag);
	*ret = reader_init(bytes, n);
	return 0;
}

static int section_close(const struct reader *section, uint32_t tag, struct err *err)
{
	if (section->bad || reader_left(section))
		return err_set(err, -EINVAL, "section %.4s of the saved machine has a wrong length",
			       (const char *)&tag);
	return 0;
}

static int save_vcpus(struct vmm *vmm, struct buf *buf, struct err *err)
{
	unsigned i;
	size_t at;
	int rc = 0;

	for (i = 0; !rc && i < vmm->ncpus; i++) {
		at = section_begin(buf, tag_vcpu);
		rc = vcpu_save(&vmm->vcpus[i], buf, err);
		section_end(buf, at);
	}
	return rc;
}

static void save_devices(struct vmm *vmm, struct buf *buf)
{
	unsigned slot;
	size_t at;

	at = section_begin(buf, tag_ioapic);
	irq_save(&vmm->irqchip, buf);
	section_end(buf, at);
	at = section_begin(buf, tag_serial);
	serial_save(&vmm->serial, buf);
	section_end(buf, at);
	for (slot = 0; slot < VIRTIO_SLOTS; slot++) {
		if (!vmm->virtio[slot].dev)
			continue;
		at = section_begin(buf, tag_virtio);
		buf_put_u32(buf, slot);
		virtio_mmio_save(&vmm->virtio[slot], buf);
		section_end(buf, at);
	}
}

int state_save(struct vmm *vmm, struct buf *buf, struct err *err)
{
	size_t at;
	int rc;

	buf_put_u64(buf, STATE_MAGIC);
	buf_put_u32(buf, STATE_VERSION);
	at = section_begin(buf, tag_machine);
	buf_put_u64(buf, vmm->memory.size);
	buf_put_u32(buf, vmm->ncpus);
	section_end(buf, at);
	at = section_begin(buf, tag_cpuid);
	cpuid_save(vmm->vm.cpuid, buf);
	section_end(buf, at);
	at = section_begin(buf, tag_clock);
	buf_put_u64(buf, vmm->clock.clock);
	section_end(buf, at);
	/* Devices last, when no interrupt of theirs can come between: messages go into a local APIC. */
	rc = save_vcpus(vmm, buf, err);
	if (rc)
		return rc;
	save_devices(vmm, buf);
	section_end(buf, section_begin(buf, tag_done));
	return buf->failed ? err_set(err, -ENOMEM, "out of memory for the machine's state") : 0;
}

static int load_machine(struct vmm *vmm, struct reader *reader, struct err *err)
{
	const uint64_t magic = get_u64(reader);
	const uint32_t version = get_u32(reader);
	struct reader section;
	uint64_t memory;
	uint32_t cpus;
	int rc;

	if (reader->bad || magic != STATE_MAGIC)
		return err_set(err, -EINVAL, "this is not a machine saved by the kvm engine");
	if (version != STATE_VERSION)
		return err_set(err, -EINVAL, "the saved machine has format %u, this program reads %d",
			       version, STATE_VERSION);
	rc = section_open(reader, tag_machine, &section, err);
	if (rc)
		return rc;
	memory = get_u64(&section);
	cpus = get_u32(&section);
	rc = section_close(&section, tag_machine, err);
	if (!rc && (memory != vmm->memory.size || cpus != vmm->ncpus))
		rc = err_set(
			err, -EINVAL, "the saved machine has %llu bytes and %u CPUs, this one %llu and %u",
			(unsigned long long)memory, cpus, (unsigned long long)vmm->memory.size, vmm->ncpus);
	return rc;
}

static int set_cpuid(struct vmm *vmm, const struct kvm_cpuid2 *saved, struct err *err)
{
	unsigned i;
	int rc = 0;

	for (i = 0; !rc && i < vmm->ncpus; i++) {
		struct kvm_cpuid2 *cpuid = cpuid_copy(saved);

		if (!cpuid)
			return err_set(err, -ENOMEM, "out of memory");
		cpuid_set_topology(cpuid, i, vmm->ncpus);
		if (ioctl(vmm->vcpus[i].fd, KVM_SET_CPUID2, cpuid) < 0)
			rc = err_sys(err, -errno, "cannot set the saved CPUID");
		free(cpuid);
	}
	return rc;
}

static int load_cpuid(struct vmm *vmm, struct reader *reader, struct err *err)
{
	struct reader section;
	struct kvm_cpuid2 *saved;
	int rc;

	rc = section_open(reader, tag_cpuid, &section, err);
	if (!rc)
		rc = cpuid_load(&section, vmm->vm.cpuid, &saved, err);
	if (rc)
		return rc;
	rc = section_close(&section, tag_cpuid, err);
	/* On the host it was captured on, and on its like, the vCPUs have it since they were made. */
	if (!rc && !cpuid_equal(saved, vmm->vm.cpuid))
		rc = set_cpuid(vmm, saved, err);
	if (rc) {
		free(saved);
	} else {
		free(vmm->vm.cpuid); /* the next capture's is this one */
		vmm->vm.cpuid = saved;
	}
	return rc;
}

static int load_clock(struct vmm *vmm, struct reader *reader, struct err *err)
{
	struct reader section;
	int rc = section_open(reader, tag_clock, &section, err);

	if (rc)
		return rc;
	vmm->clock = (struct kvm_clock_data){ .clock = get_u64(&section) };
	vmm->clock_held = true; /* vmm_run sets it, at the last moment */
	return section_close(&section, tag_clock, err);
}

static int load_vcpus(struct vmm *vmm, struct reader *reader, struct err *err)
{
	struct reader section;
	unsigned i;
	int rc = 0;

	for (i = 0; !rc && i < vmm->ncpus; i++) {
		rc = section_open(reader, tag_vcpu, &section, err);
		if (!rc)
			rc = vcpu_load(&vmm->vcpus[i], &section, err);
		if (!rc)
			rc = section_close(&section, tag_vcpu, err);
	}
	for (i = 1; !rc && i < vmm->ncpus; i++)
		rc = vcpu_copy_tsc_offset(&vmm->vcpus[0], &vmm->vcpus[i], err);
	return rc;
}

static int load_virtio(struct vmm *vmm, struct reader *reader, unsigned slot, struct err *err)
{
	struct reader section;
	uint32_t found;
	int rc = section_open(reader, tag_virtio, &section, err);

	if (rc)
		return rc;
	found = get_u32(&section);
	if (found != slot)
		return err_set(err, -EINVAL, "the saved machine has a device in slot %u, this one in %u",
			       found, slot);
	rc = virtio_mmio_load(&vmm->virtio[slot], &section, err);
	return rc ? rc : section_close(&section, tag_virtio, err);
}

static int load_devices(struct vmm *vmm, struct reader *reader, struct err *err)
{
	struct reader section;
	unsigned slot;
	int rc = section_open(reader, tag_ioapic, &section, err);

	if (!rc)
		rc = irq_load(&vmm->irqchip, &section, err);
	if (!rc)
		rc = section_close(&section, tag_ioapic, err);
	if (!rc)
		rc = section_open(reader, tag_serial, &section, err);
	if (!rc)
		rc = serial_load(&vmm->serial, &section, err);
	if (!rc)
		rc = section_close(&section, tag_serial, err);
	for (slot = 0; !rc && slot < VIRTIO_SLOTS; slot++)
		if (vmm->virtio[slot].dev)
			rc = load_virtio(vmm, reader, slot, err);
	if (!rc)
		rc = section_open(reader, tag_done, &section, err);
	if (!rc)
		rc = section_close(&section, tag_done, err);
	if (!rc && reader_left(reader))
		rc = err_set(err, -EINVAL, "there is data after the end of the saved machine");
	return rc;
}

int state_parse(struct vmm *vmm, struct reader *reader, struct err *err)
{
	unsigned slot;
	int rc = load_machine(vmm, reader, err);

	if (!rc)
		rc = load_cpuid(vmm, reader, err);
	if (!rc)
		rc = load_clock(vmm, reader, err);
	if (!rc)
		rc = load_vcpus(vmm, reader, err);
	if (!rc)
		rc = load_devices(vmm, reader, err);
	if (rc)
		return rc;
	/* Interrupts, now that the controllers would no longer forget them. */
	serial_kick(&vmm->serial);
	for (slot = 0; slot < VIRTIO_SLOTS; slot++)
		if (vmm->virtio[slot].dev)
			virtio_loaded(vmm->virtio[slot].dev);
	return 0;
}

int state_load(struct vmm *vmm, int fd, struct err *err)
{
	struct reader reader;
	struct stat st;
	size_t size;
	uint8_t *bytes;
	int rc;

	if (fstat(fd, &st) < 0)
		return err_sys(err, -errno, "cannot ask for the size of the saved machine");
	if (st.st_size <= 0 || st.st_size > STATE_MAX)
		return err_set(err, -EINVAL, "a saved machine cannot have %lld bytes", (long long)st.st_size);
	size = (size_t)st.st_size;
	bytes = malloc(size);
	if (!bytes)
		return err_set(err, -ENOMEM, "out of memory for the machine's state");
	/* Read, not mapped: what has been checked must not change. */
	rc = pread_all(fd, bytes, size, 0);
	if (rc) {
		err_sys(err, rc, "cannot read the saved machine");
	} else {
		reader = reader_init(bytes, size);
		rc = state_parse(vmm, &reader, err);
	}
	free(bytes);
	return rc;
}
