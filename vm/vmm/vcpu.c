/* SPDX-License-Identifier: MIT */
/*
 * vcpu.c - a vCPU and its thread
 *
 * The thread alternates between two places: in KVM_RUN without the device lock, and handling an exit with it.
 * It leaves this circle only where KVM_RUN was interrupted, and that is what makes its state whole: an access
 * that has been handled is finished by the next entry (the value read goes into the guest's register there),
 * and an entry with immediate_exit set finishes it and comes back with EINTR before any instruction runs
 * (Documentation/virt/kvm/api.rst, the note below KVM_EXIT_IO).
 *
 * A kick sets immediate_exit and then sends a signal: whether it comes before, during or after the entry, one
 * of the two is seen.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snap/qcow2/disk.h"
#include "util/thread.h"
#include "vm/vmm/cpuid.h"
#include "vm/vmm/seccomp.h"
#include "vm/vmm/vmm.h"

enum { KICK_SIGNAL = SIGUSR1 };

static void on_kick(int signal)
{
	(void)signal; /* interrupting KVM_RUN is all it is for */
}

static unsigned access_size(unsigned len)
{
	return len == 1 || len == 2 || len == 4 || len == 8 ? len : 0;
}

/* size bytes at data, for an access by the guest at an address of the bus. */
static void access_bus(const struct mmio_bus *bus, uint64_t addr, uint8_t *data, unsigned size, bool write)
{
	uint64_t value = 0;

	if (!size)
		return;
	if (write) {
		memcpy(&value, data, size);
		mmio_write(bus, addr, size, value);
	} else {
		value = mmio_read(bus, addr, size);
		memcpy(data, &value, size);
	}
}

static void handle_io(struct vmm *vmm, struct kvm_run *run)
{
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	uint32_t i;

	/* count > 1: INS and OUTS */
	for (i = 0; i < run->io.count; i++, data += run->io.size)
		access_bus(&vmm->pio, run->io.port, data, run->io.size, run->io.direction == KVM_EXIT_IO_OUT);
}

static void handle_mmio(struct vmm *vmm, struct kvm_run *run)
{
	/* Accesses of other sizes come from instructions no driver of ours uses: nobody answers. */
	access_bus(&vmm->mmio, run->mmio.phys_addr, run->mmio.data, access_size(run->mmio.len),
		   run->mmio.is_write);
	/* Drivers acknowledge the interrupt of every request that has ended: a good moment to count. */
	if (vmm->disk)
		atomic_store_explicit(&vmm->config.stats->disk_written, qcow2_written(vmm->disk),
				      memory_order_relaxed);
}

static void handle_exit(struct vcpu *vcpu)
{
	struct vmm *vmm = vcpu->vmm;
	struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(vmm, run);
		break;
	case KVM_EXIT_MMIO:
		handle_mmio(vmm, run);
		break;
	case KVM_EXIT_INTR:
		break;
	case KVM_EXIT_SHUTDOWN:
		vmm_end(vmm, false, "the guest's CPU %u shut down (triple fault)", vcpu->index);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		vmm_end(vmm, false, "KVM cannot run the guest's CPU %u: internal error %u", vcpu->index,
			run->internal.suberror);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		vmm_end(vmm, false, "the hardware refuses to run the guest's CPU %u: reason %#llx",
			vcpu->index, run->fail_entry.hardware_entry_failure_reason);
		break;
	default:
		vmm_end(vmm, false, "the guest's CPU %u stopped for exit reason %u", vcpu->index,
			run->exit_reason);
		break;
	}
}

/* Enter the guest until we are kicked. Called and left with the lock held. */
static void run_guest(struct vcpu *vcpu)
{
	struct vmm *vmm = vcpu->vmm;
	int rc, error;

	for (;;) {
		pthread_mutex_unlock(&vmm->lock);
		rc = ioctl(vcpu->fd, KVM_RUN, 0);
		error = errno;
		atomic_fetch_add_explicit(&vmm->config.stats->exits, 1, memory_order_relaxed);
		pthread_mutex_lock(&vmm->lock);
		if (rc >= 0) {
			handle_exit(vcpu);
		} else if (error == EINTR) {
			/* A kick left over from the last stop; not meant for this run. */
			if (!vmm->running)
				return;
			vcpu->run->immediate_exit = 0;
		} else if (error != EAGAIN) { /* EAGAIN: an AP that waits for its start-up was woken */
			vmm_end(vmm, false, "cannot run the guest's CPU %u: %s", vcpu->index,
				strerror(error));
			return;
		}
	}
}

static void *vcpu_main(void *arg)
{
	struct vcpu *vcpu = arg;
	struct vmm *vmm = vcpu->vmm;
	bool confined = false;
	struct err err;

	pthread_mutex_lock(&vmm->lock);
	while (!vmm->quit) {
		if (vmm->running && !confined) {
			/* Only now: the filter for all threads must be the first. */
			confined = !seccomp_enter_vcpu(&err);
			if (!confined)
				vmm_end(vmm, false, "%s", err.text);
		} else if (vmm->running) {
			vcpu->standing = false;
			vmm->standing--;
			vcpu->run->immediate_exit = 0;
			run_guest(vcpu);
			vcpu->standing = true;
			vmm->standing++;
			pthread_cond_signal(&vmm->stands);
		} else {
			pthread_cond_wait(&vmm->go, &vmm->lock);
		}
	}
	pthread_mutex_unlock(&vmm->lock);
	return NULL;
}

static int set_cpuid(struct vcpu *vcpu, struct err *err)
{
	struct kvm_cpuid2 *cpuid = cpuid_copy(vcpu->vmm->vm.cpuid);
	int rc = 0;

	if (!cpuid)
		return err_set(err, -ENOMEM, "out of memory");
	cpuid_set_topology(cpuid, vcpu->index, vcpu->vmm->ncpus);
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0)
		rc = err_sys(err, -errno, "cannot set the CPUID of vCPU %u", vcpu->index);
	free(cpuid);
	return rc;
}

int vcpu_create(struct vcpu *vcpu, struct vmm *vmm, unsigned index, struct err *err)
{
	void *run;

	*vcpu = (struct vcpu){ .vmm = vmm, .index = index, .standing = true };
	vcpu->fd = ioctl(vmm->vm.vm_fd, KVM_CREATE_VCPU, index);
	if (vcpu->fd < 0)
		return err_sys(err, -errno, "cannot create vCPU %u", index);
	run = mmap(NULL, vmm->vm.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (run == MAP_FAILED)
		return err_sys(err, -errno, "cannot map vCPU %u", index);
	vcpu->run = run;
	return set_cpuid(vcpu, err);
}

int vcpu_start(struct vcpu *vcpu, struct err *err)
{
	/* No SA_RESTART, which ioctl(2) would not heed anyway. */
	const struct sigaction action = { .sa_handler = on_kick };
	int rc;

	sigaction(KICK_SIGNAL, &action, NULL);
	rc = thread_start(&vcpu->thread, vcpu_main, vcpu);
	if (rc)
		return err_sys(err, -rc, "cannot start the thread of vCPU %u", vcpu->index);
	vcpu->started = true;
	return 0;
}

void vcpu_kick(struct vcpu *vcpu)
{
	if (!vcpu->started || vcpu->standing)
		return;
	vcpu->run->immediate_exit = 1;
	pthread_kill(vcpu->thread, KICK_SIGNAL);
}

void vcpu_release(struct vcpu *vcpu)
{
	if (vcpu->started)
		pthread_join(vcpu->thread, NULL);
	if (vcpu->run)
		munmap(vcpu->run, vcpu->vmm->vm.run_size);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
}
