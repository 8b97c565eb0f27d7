/* SPDX-License-Identifier: MIT */
/*
 * virtio_driver.h - the guest's side of a virtio device, for tests: a driver in a buffer that plays RAM
 *
 * Well-behaved unless told otherwise: tests reach into the rings to misbehave.
 */
#ifndef SBX_TESTS_VIRTIO_DRIVER_H
#define SBX_TESTS_VIRTIO_DRIVER_H

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/unit.h"
#include "vm/vmm/virtio/transport.h"

enum { RAM_SIZE = 4 << 20, QUEUES_MAX = 4, GSI = 17 };

struct driver_queue {
	uint16_t num;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t next_desc;  /* the first descriptor never used since the last ring was empty */
	uint16_t avail_idx;  /* ours */
	uint16_t used_taken; /* used entries seen */
};

struct driver {
	struct loop *loop;
	struct guest_memory ram;
	struct irqchip irqchip;
	struct virtio_mmio mmio;
	struct mmio_region regs;
	uint64_t features;
	struct driver_queue q[QUEUES_MAX];
	uint64_t heap; /* guest address of what is not given out yet */
};

/* With a loop of its own, which is returned. */
static inline struct loop *driver_init(struct driver *d)
{
	*d = (struct driver){ .loop = loop_new(), .ram = { .size = RAM_SIZE, .template_fd = -1 } };
	CHECK(d->loop);
	CHECK(!posix_memalign((void **)&d->ram.host, 4096, RAM_SIZE));
	memset(d->ram.host, 0, RAM_SIZE);
	irq_init(&d->irqchip, -1);
	return d->loop;
}

static inline struct virtio_host driver_host(struct driver *d)
{
	return (struct virtio_host){ .loop = d->loop, .memory = &d->ram, .irqchip = &d->irqchip, .gsi = GSI };
}

static inline void driver_attach(struct driver *d, struct virtio_device *dev)
{
	d->mmio = (struct virtio_mmio){ .dev = dev };
	d->regs = virtio_mmio_region(&d->mmio, 0xd0000000);
}

/* A device that needs nothing but the machine. */
static inline void driver_attach_new(struct driver *d,
				     int (*new)(const struct virtio_host *host, struct virtio_device **ret,
						struct err *err))
{
	const struct virtio_host host = driver_host(d);
	struct virtio_device *dev;

	CHECK(!new (&host, &dev, NULL));
	driver_attach(d, dev);
}

static inline void driver_release(struct driver *d)
{
	virtio_free(d->mmio.dev);
	loop_free(d->loop);
	free(d->ram.host);
}

static inline uint32_t reg(struct driver *d, uint64_t offset)
{
	return (uint32_t)d->regs.read(d->regs.opaque, offset, 4);
}

static inline void set_reg(struct driver *d, uint64_t offset, uint32_t value)
{
	d->regs.write(d->regs.opaque, offset, 4, value);
}

static inline bool needs_reset(struct driver *d)
{
	return reg(d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* Was the line pulsed since the last time? */
static inline bool interrupted(struct driver *d)
{
	const bool yes = d->irqchip.pending >> GSI & 1;

	d->irqchip.pending = 0;
	return yes;
}

static inline uint64_t ram_alloc(struct driver *d, uint64_t size)
{
	const uint64_t gpa = (d->heap + 15) & ~15ull;

	CHECK(gpa + size <= RAM_SIZE);
	d->heap = gpa + size;
	return gpa;
}

static inline void *at(struct driver *d, uint64_t gpa)
{
	return d->ram.host + gpa;
}

static inline void set_addr(struct driver *d, uint64_t low, uint64_t gpa)
{
	set_reg(d, low, (uint32_t)gpa);
	set_reg(d, low + 4, (uint32_t)(gpa >> 32));
}

static inline void driver_queue(struct driver *d, unsigned i, uint16_t num)
{
	struct driver_queue *q = &d->q[i];
	const uint64_t desc = ram_alloc(d, sizeof(*q->desc) * num);
	const uint64_t avail = ram_alloc(d, sizeof(*q->avail) + 2u * (num + 1u));
	const uint64_t used = ram_alloc(d, sizeof(*q->used) + sizeof(struct vring_used_elem) * num + 2);

	*q = (struct driver_queue){
		.num = num, .desc = at(d, desc), .avail = at(d, avail), .used = at(d, used)
	};
	set_reg(d, VIRTIO_MMIO_QUEUE_SEL, i);
	CHECK(reg(d, VIRTIO_MMIO_QUEUE_NUM_MAX) >= num);
	set_reg(d, VIRTIO_MMIO_QUEUE_NUM, num);
	set_addr(d, VIRTIO_MMIO_QUEUE_DESC_LOW, desc);
	set_addr(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, avail);
	set_addr(d, VIRTIO_MMIO_QUEUE_USED_LOW, used);
	set_reg(d, VIRTIO_MMIO_QUEUE_READY, 1);
}

/* Reset the device and negotiate, up to FEATURES_OK. `mask`: features to take if they are offered. */
static inline void driver_negotiate(struct driver *d, uint64_t mask)
{
	uint64_t offered;

	set_reg(d, VIRTIO_MMIO_STATUS, 0);
	CHECK(reg(d, VIRTIO_MMIO_STATUS) == 0);
	memset(d->ram.host, 0, RAM_SIZE);
	d->heap = 0x1000;
	set_reg(d, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	set_reg(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	offered = reg(d, VIRTIO_MMIO_DEVICE_FEATURES);
	set_reg(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	offered |= (uint64_t)reg(d, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
	d->features = offered & mask;
	set_reg(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	set_reg(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)d->features);
	set_reg(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	set_reg(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(d->features >> 32));
	set_reg(d, VIRTIO_MMIO_STATUS,
		VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
}

/* The whole of the driver's start, with all queues. */
static inline void driver_start(struct driver *d, uint64_t mask, uint16_t num)
{
	unsigned i;

	driver_negotiate(d, mask);
	CHECK(reg(d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK);
	for (i = 0; i < d->mmio.dev->ops->nqueues; i++)
		driver_queue(d, i, num);
	set_reg(d, VIRTIO_MMIO_STATUS,
		VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |
			VIRTIO_CONFIG_S_DRIVER_OK);
	CHECK(!needs_reset(d));
}

/* One descriptor; `write`: for the device to write. */
static inline uint16_t put_desc(struct driver *d, unsigned i, uint64_t gpa, uint32_t len, bool write)
{
	struct driver_queue *q = &d->q[i];
	const uint16_t n = q->next_desc++ % q->num;

	q->desc[n] = (struct vring_desc){ .addr = gpa, .len = len, .flags = write ? VRING_DESC_F_WRITE : 0 };
	return n;
}

static inline uint16_t put_next(struct driver *d, unsigned i, uint16_t prev, uint64_t gpa, uint32_t len,
				bool write)
{
	const uint16_t n = put_desc(d, i, gpa, len, write);

	d->q[i].desc[prev].flags |= VRING_DESC_F_NEXT;
	d->q[i].desc[prev].next = n;
	return n;
}

static inline void put_avail(struct driver *d, unsigned i, uint16_t head)
{
	struct driver_queue *q = &d->q[i];

	q->avail->ring[q->avail_idx % q->num] = head;
	__atomic_store_n(&q->avail->idx, ++q->avail_idx, __ATOMIC_RELEASE);
}

static inline void kick(struct driver *d, unsigned i)
{
	set_reg(d, VIRTIO_MMIO_QUEUE_NOTIFY, i);
}

/* Take the next used entry, if there is one. */
static inline bool take_used(struct driver *d, unsigned i, struct vring_used_elem *ret)
{
	struct driver_queue *q = &d->q[i];

	if (__atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE) == q->used_taken)
		return false;
	*ret = q->used->ring[q->used_taken++ % q->num];
	return true;
}

/* Wait for it. */
static inline struct vring_used_elem wait_used(struct driver *d, unsigned i)
{
	struct vring_used_elem elem;

	while (!take_used(d, i, &elem))
		CHECK(!needs_reset(d) && !loop_once(d->loop, 2000));
	return elem;
}

#endif
