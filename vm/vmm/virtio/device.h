/* SPDX-License-Identifier: MIT */
/*
 * device.h - what all virtio devices have in common, whatever they do and whatever bus they are on
 *
 * A device is a struct of its own that begins with a struct virtio_device, and a table of operations.
 *
 * Threads: everything is called with the device lock held (mmio.h), by the loop or by a vCPU.
 */
#ifndef SBX_VM_VMM_VIRTIO_DEVICE_H
#define SBX_VM_VMM_VIRTIO_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "util/buf.h"
#include "util/err.h"
#include "util/loop.h"
#include "vm/vmm/irq.h"
#include "vm/vmm/memory.h"
#include "vm/vmm/virtio/queue.h"

struct virtio_device;

/* What a device needs of its machine. */
struct virtio_host {
	struct loop *loop;
	const struct guest_memory *memory; /* mapped, and where it is, as long as the device lives */
	struct irqchip *irqchip;
	unsigned gsi;
};

struct virtio_ops {
	const char *name;
	uint32_t id; /* virtio 1.2, section 5 */
	uint16_t nqueues, queue_size;
	/* Configuration space: the driver reads it all. */
	void (*config)(struct virtio_device *dev, uint8_t *ret, size_t size);
	size_t config_size;
	/* There may be work in this queue: it was notified, the driver became ready, or state was loaded. */
	void (*notify)(struct virtio_device *dev, unsigned queue);
	/* The driver resets the device: touch no guest memory from now on, forget what it said. NULL: it says nothing. */
	void (*reset)(struct virtio_device *dev);
	/* Finish what is under way; NULL: nothing ever is, once an operation has returned. */
	void (*drain)(struct virtio_device *dev);
	/* The device's own state, without features and queues. NULL: there is none. Load checks it. */
	void (*save)(const struct virtio_device *dev, struct buf *buf);
	int (*load)(struct virtio_device *dev, struct reader *r, struct err *err);
	/* Finish what is under way, and release what is the device's own. NULL: nothing. */
	void (*release)(struct virtio_device *dev);
};

struct virtio_device {
	const struct virtio_ops *ops;
	struct virtio_host host;
	uint64_t offered, features; /* what the device can do; what of that the driver uses */
	uint8_t status;             /* VIRTIO_CONFIG_S_* */
	bool warned;                /* of a driver that breaks the rules */
	uint32_t config_generation;
	uint32_t isr; /* why we interrupted, as far as the driver has not said that it knows:
			 VIRTIO_MMIO_INT_* */
	struct virtqueue *queues;
	int doorbell; /* eventfd: makes the loop look at all queues */
	struct watch *doorbell_watch;
};

/* For a device's constructor: its struct, of `size` bytes, all zero behind the part that all have. `features` beside
 * those every device has. NULL: no memory or descriptors. */
void *virtio_new(size_t size, const struct virtio_ops *ops, const struct virtio_host *host, uint64_t features,
		 struct err *err);
/* Free a device of whatever kind. NULL is allowed. */
void virtio_free(struct virtio_device *dev);

/* ---- for devices */

bool virtio_has(const struct virtio_device *dev, unsigned feature);
/* The driver is ready and the device not broken: queues may be used. */
bool virtio_running(const struct virtio_device *dev);
/* Interrupt the driver for one of VIRTIO_MMIO_INT_*. */
void virtio_interrupt(struct virtio_device *dev, uint32_t why);
/* The driver broke the rules: log why, once, and ask for a reset. */
void virtio_break(struct virtio_device *dev, const char *why);
/* Make the loop look at all queues, after what else it has to do. */
void virtio_ring_doorbell(struct virtio_device *dev);

/* ---- for the bus */

void virtio_set_status(struct virtio_device *dev, uint8_t status);
void virtio_notify(struct virtio_device *dev, uint32_t queue);
void virtio_start_queue(struct virtio_device *dev, unsigned queue);
void virtio_stop_queue(struct virtio_device *dev, unsigned queue);

/*
 * State: the vCPUs are stopped. Saving first finishes what is under way. The RAM that goes with it has to
 * be taken before the loop runs on. Loading is for a fresh device; every byte is checked, and on failure the
 * device may only be freed. virtio_loaded then starts it, once the interrupt controller has its state:
 * interrupts again if the driver may not know yet, and looks at every queue once.
 */
void virtio_save(struct virtio_device *dev, struct buf *buf);
int virtio_load(struct virtio_device *dev, struct reader *r, struct err *err);
void virtio_loaded(struct virtio_device *dev);

#endif
