/* SPDX-License-Identifier: MIT */
/* vmm.c - one machine: how it is put together, started and stopped */
#include "vm/vmm/vmm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "snap/qcow2/disk.h"
#include "vm/vmm/acpi.h"
#include "vm/vmm/boot.h"
#include "vm/vmm/freeze.h"
#include "vm/vmm/state.h"
#include "vm/vmm/virtio/blk.h"
#include "vm/vmm/virtio/console.h"
#include "vm/vmm/virtio/net.h"

static void on_power(void *arg, enum power_event event)
{
	vmm_end(arg, true, event == POWER_OFF ? "the guest powered off" : "the guest reset its machine");
}

static int add_platform(struct vmm *vmm, struct err *err)
{
	struct mmio_region region;
	int rc;

	irq_init(&vmm->irqchip, vmm->vm.vm_fd);
	vmm->power = (struct power){ .event = on_power, .arg = vmm };
	region = irq_region(&vmm->irqchip);
	rc = mmio_add(&vmm->mmio, &region, err);
	if (!rc)
		rc = power_add(&vmm->power, &vmm->pio, err);
	if (!rc)
		rc = serial_init(&vmm->serial, vmm->loop, &vmm->irqchip, SERIAL_IRQ, vmm->config.console_fd,
				 err);
	if (rc)
		return rc;
	region = serial_region(&vmm->serial, SERIAL_PORT);
	return mmio_add(&vmm->pio, &region, err);
}

static int add_vcpus(struct vmm *vmm, struct err *err)
{
	unsigned i;
	int rc = 0;

	for (i = 0; i < vmm->ncpus; i++)
		vmm->vcpus[i].fd = -1;
	for (i = 0; !rc && i < vmm->ncpus; i++)
		rc = vcpu_create(&vmm->vcpus[i], vmm, i, err);
	vmm->standing = vmm->ncpus;
	for (i = 0; !rc && i < vmm->ncpus; i++)
		rc = vcpu_start(&vmm->vcpus[i], err);
	return rc;
}

int vmm_create(struct loop *loop, const struct vmm_config *config, struct vmm **ret, struct err *err)
{
	struct vmm *vmm;
	int rc;

	if (!config->cpus || config->cpus > VMM_CPUS_MAX)
		return err_set(err, -ERANGE, "a machine has 1 to %d CPUs", VMM_CPUS_MAX);
	vmm = calloc(1, sizeof(*vmm));
	if (!vmm)
		return err_set(err, -ENOMEM, "out of memory");
	vmm->loop = loop;
	vmm->config = *config;
	vmm->vm = (struct kvm_vm){ .kvm_fd = -1, .vm_fd = -1 };
	vmm->serial.fd = -1;
	list_init(&vmm->leaving);
	pthread_mutex_init(&vmm->lock, NULL);
	pthread_cond_init(&vmm->go, NULL);
	pthread_cond_init(&vmm->stands, NULL);
	vmm->vcpus = calloc(config->cpus, sizeof(*vmm->vcpus));
	rc = vmm->vcpus ? 0 : err_set(err, -ENOMEM, "out of memory");
	if (!rc)
		rc = guest_memory_reserve(&vmm->memory, config->memory, err);
	if (!rc)
		rc = kvm_vm_create(&vmm->vm, &vmm->memory, err);
	if (!rc) {
		vmm->ncpus = config->cpus;
		rc = add_vcpus(vmm, err);
	}
	if (!rc)
		rc = add_platform(vmm, err);
	if (rc) {
		vmm->config.agent_fd = vmm->config.console_fd = vmm->config.net_fd =
			-1; /* still the caller's */
		vmm_free(vmm);
		return rc;
	}
	loop_set_lock(loop, &vmm->lock);
	*ret = vmm;
	return 0;
}

void vmm_free(struct vmm *vmm)
{
	unsigned i;

	if (!vmm)
		return;
	pthread_mutex_lock(&vmm->lock);
	vmm->quit = true;
	vmm->running = false;
	for (i = 0; i < vmm->ncpus; i++)
		vcpu_kick(&vmm->vcpus[i]);
	pthread_cond_broadcast(&vmm->go);
	pthread_mutex_unlock(&vmm->lock);
	for (i = 0; i < vmm->ncpus; i++)
		vcpu_release(&vmm->vcpus[i]);
	loop_set_lock(vmm->loop, NULL);
	freeze_forget(vmm);
	devices_release(vmm);
	serial_release(&vmm->serial);
	if (vmm->config.console_fd >= 0)
		close(vmm->config.console_fd);
	kvm_vm_release(&vmm->vm);
	guest_memory_release(&vmm->memory);
	pthread_cond_destroy(&vmm->go);
	pthread_cond_destroy(&vmm->stands);
	pthread_mutex_destroy(&vmm->lock);
	free(vmm->vcpus);
	free(vmm);
}

static int begin_filling(struct vmm *vmm, struct err *err)
{
	if (vmm->content != VMM_EMPTY)
		return err_set(err, -EBUSY, "the machine has been started already");
	vmm->content = VMM_BROKEN;
	return 0;
}

int vmm_boot(struct vmm *vmm, const struct vmm_boot *boot, struct err *err)
{
	uint64_t entry;
	int rc = begin_filling(vmm, err);

	if (!rc)
		rc = guest_memory_map_zero(&vmm->memory, err);
	if (!rc)
		rc = boot_load(&vmm->memory, boot->kernel_fd, boot->initrd_fd, boot->cmdline, &entry, err);
	if (!rc)
		rc = acpi_write(&vmm->memory, vmm->ncpus, err);
	if (!rc)
		rc = devices_add(vmm, boot->disk, err);
	if (!rc)
		rc = boot_set_registers(vmm->vcpus[0].fd, entry, err);
	if (!rc)
		vmm->content = VMM_FULL;
	return rc;
}

int vmm_load(struct vmm *vmm, const struct guest_template *ram, int state_fd, struct chain *disk,
	     struct err *err)
{
	int rc = begin_filling(vmm, err);

	if (!rc)
		rc = guest_memory_map_template(&vmm->memory, ram, err);
	if (!rc)
		rc = devices_add(vmm, disk, err);
	if (!rc)
		rc = state_load(vmm, state_fd, err);
	if (!rc)
		vmm->content = VMM_FULL;
	return rc;
}

void vmm_stall(void *arg)
{
	struct vmm *vmm = arg;
	struct err err;

	if (vmm->stalled)
		return;
	vmm->stalled = true;
	/* Not from inside vmm_stop, which drains: it does the same. */
	if (vmm->running && vmm_stop(vmm, &err))
		vmm_end(vmm, false, "%s", err.text);
	vmm->config.stalled(vmm->config.arg);
}

static void hold_input(struct vmm *vmm, bool held)
{
	if (vmm->virtio[VIRTIO_CONSOLE].dev)
		virtio_console_hold(vmm->virtio[VIRTIO_CONSOLE].dev, held);
	if (vmm->virtio[VIRTIO_NET].dev)
		virtio_net_hold(vmm->virtio[VIRTIO_NET].dev, held);
}

int vmm_run(struct vmm *vmm, struct err *err)
{
	unsigned i;

	if (vmm->running || vmm->ended)
		return 0;
	if (vmm->content != VMM_FULL)
		return err_set(err, -EBUSY, "there is nothing to run");
	if (vmm->clock_held) {
		/*
		 * Before any vCPU runs, or it would see the clock jump. Without flags: KVM would otherwise
		 * add the real time that has passed.
		 */
		vmm->clock.flags = 0;
		if (ioctl(vmm->vm.vm_fd, KVM_SET_CLOCK, &vmm->clock) < 0)
			return err_sys(err, -errno, "cannot set the guest's clock");
		/* Tells the guest's watchdogs that it was stopped; refused where it does not use kvmclock. */
		for (i = 0; i < vmm->ncpus; i++)
			(void)ioctl(vmm->vcpus[i].fd, KVM_KVMCLOCK_CTRL, 0);
		vmm->clock_held = false;
	}
	hold_input(vmm, false);
	if (vmm->stalled) {
		vmm->stalled = false;
		virtio_blk_retry(vmm->virtio[VIRTIO_BLK].dev);
	}
	vmm->running = true;
	pthread_cond_broadcast(&vmm->go);
	return 0;
}

int vmm_stop(struct vmm *vmm, struct err *err)
{
	unsigned i;

	if (vmm->running) {
		vmm->running = false;
		for (i = 0; i < vmm->ncpus; i++)
			vcpu_kick(&vmm->vcpus[i]);
	}
	/* They may need the lock to finish the access they are in: waiting lets go of it. */
	while (vmm->standing < vmm->ncpus)
		pthread_cond_wait(&vmm->stands, &vmm->lock);
	hold_input(vmm, true);
	if (vmm->virtio[VIRTIO_BLK].dev)
		virtio_blk_drain(vmm->virtio[VIRTIO_BLK].dev);
	if (!vmm->clock_held) {
		if (ioctl(vmm->vm.vm_fd, KVM_GET_CLOCK, &vmm->clock) < 0)
			return err_sys(err, -errno, "cannot read the guest's clock");
		vmm->clock_held = true;
	}
	return 0;
}

void vmm_end(struct vmm *vmm, bool clean, const char *fmt, ...)
{
	char why[ERR_TEXT_MAX];
	unsigned i;
	va_list ap;

	if (vmm->ended)
		return;
	vmm->ended = true;
	vmm->running = false;
	for (i = 0; i < vmm->ncpus; i++)
		vcpu_kick(&vmm->vcpus[i]);
	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	vmm->config.ended(vmm->config.arg, clean, why);
}
