/* SPDX-License-Identifier: MIT */
/*
 * vmm.h - one machine: memory, vCPUs and devices, and how it is started, stopped, captured and forked
 *
 * Threads: one runs the loop (I/O, control, everything in this header), one each vCPU. `lock`, the device
 * lock, is held by whoever runs: the loop in its callbacks (loop_set_lock), a vCPU's thread while it handles
 * an exit; nobody holds it while the guest runs or the loop waits. All fields are guarded by it.
 *
 * Life: vmm_create makes a machine without content ("ready"); vmm_boot or vmm_load fills it, once; then
 * vmm_run and vmm_stop alternate, and vmm_capture is for a stopped one. All are called on the loop's thread
 * with the lock held, but vmm_create and vmm_free, which are called before and after the loop runs.
 */
#ifndef SBX_VM_VMM_VMM_H
#define SBX_VM_VMM_VMM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"
#include "util/list.h"
#include "util/loop.h"
#include "vm/vmm/irq.h"
#include "vm/vmm/layout.h"
#include "vm/vmm/memory.h"
#include "vm/vmm/mmio.h"
#include "vm/vmm/power.h"
#include "vm/vmm/serial.h"
#include "vm/vmm/virtio/transport.h"
#include "vm/vmm/vm.h"

struct chain;
struct qcow2;
struct vmm;

enum { VMM_CPUS_MAX = 64 };

/* Counters that another process may read at any time, in a shared mapping. */
struct vmm_stats {
	_Atomic uint64_t exits;
	_Atomic uint64_t disk_written;
};

struct vcpu {
	struct vmm *vmm;
	unsigned index;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	bool started;  /* the thread exists */
	bool standing; /* it waits to be let run: the vCPU's state is whole and may be read and written */
};

struct vmm_config {
	uint64_t memory;
	unsigned cpus;
	int agent_fd, console_fd; /* non-blocking stream sockets, the machine's from now on; -1: none */
	int net_fd;               /* likewise, SOCK_SEQPACKET */
	struct vmm_stats *stats;  /* zeroed */
	/* The machine ended: powered off or reset (clean), or by a fault of the guest's or ours; the sentence
	 * says which. Called once, from any thread, with the lock held; the vCPUs stand still soon after. */
	void (*ended)(void *arg, bool clean, const char *why);
	/* The disk has no room for what the guest wrote: the machine is stopped, and goes on with vmm_run. Called on
	 * the loop's thread, with the lock held. NULL: such writes fail. */
	void (*stalled)(void *arg);
	void *arg;
};

struct vmm {
	struct loop *loop;
	pthread_mutex_t lock;
	struct vmm_config config;

	struct guest_memory memory;
	struct kvm_vm vm;
	struct vcpu *vcpus;
	unsigned ncpus;

	struct mmio_bus mmio, pio;
	struct irqchip irqchip;
	struct power power;
	struct serial serial;
	struct qcow2 *disk; /* NULL: none */
	struct virtio_mmio virtio[VIRTIO_SLOTS];

	enum { VMM_EMPTY, VMM_BROKEN, VMM_FULL } content; /* BROKEN: filling it has failed, or is not done */
	bool running;                                     /* vCPUs are to run */
	bool quit, ended;
	bool stalled;                /* the disk keeps requests that it has no room for */
	unsigned standing;           /* vCPUs that are stopped */
	pthread_cond_t go, stands;   /* running or quit changed; standing changed */
	struct kvm_clock_data clock; /* kvmclock of a machine that does not run, if clock.flags says so */
	bool clock_held;
	struct list leaving; /* captures that are done (freeze.c) */
};

int vmm_create(struct loop *loop, const struct vmm_config *config, struct vmm **ret, struct err *err);
/* NULL is allowed. */
void vmm_free(struct vmm *vmm);

struct vmm_boot {
	int kernel_fd, initrd_fd; /* the caller's; initrd_fd may be -1 */
	const char *cmdline;
	struct chain *disk; /* or NULL */
};
/* The disk is the machine's once vmm->disk is set; if that fails it stays the caller's. So with vmm_load. */
int vmm_boot(struct vmm *vmm, const struct vmm_boot *boot, struct err *err);
/* Become a fork: RAM and state of a capture, and a disk. state_fd stays the caller's; ram_fd is the machine's
 * from the moment it is mapped (memory.template_fd). A failure leaves a machine that can only be freed. */
int vmm_load(struct vmm *vmm, const struct guest_template *ram, int state_fd, struct chain *disk,
	     struct err *err);

/* Let the vCPUs run; stop them, and drain the disk. Both may be repeated. */
int vmm_run(struct vmm *vmm, struct err *err);
int vmm_stop(struct vmm *vmm, struct err *err);

/* Called by whoever sees the machine's end; the first call counts. */
void vmm_end(struct vmm *vmm, bool clean, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* ---- vcpu.c, for vmm.c */

/* The vCPU exists, with its CPUID; no thread yet. */
int vcpu_create(struct vcpu *vcpu, struct vmm *vmm, unsigned index, struct err *err);
/* Start its thread, which waits until vmm->running. */
int vcpu_start(struct vcpu *vcpu, struct err *err);
/* Make it leave the guest; it then stays stopped, if vmm->running is false. */
void vcpu_kick(struct vcpu *vcpu);
/* Standing, or without a thread; vmm->quit is set if it has one. */
void vcpu_release(struct vcpu *vcpu);

/* ---- vmm.c, for devices.c */

/* The disk is full (virtio_blk_on_full; arg: the machine). */
void vmm_stall(void *arg);

/* ---- devices.c, for vmm.c and state.c */

/* The virtio devices; one of them the disk, unless it is NULL. */
int devices_add(struct vmm *vmm, struct chain *disk, struct err *err);
void devices_release(struct vmm *vmm);

#endif
