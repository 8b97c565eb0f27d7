/* SPDX-License-Identifier: MIT */
/*
 * device.c - the life of a device: features, status, interrupts, saved state
 */
#include "vm/vmm/virtio/device.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "util/io.h"
#include "util/log.h"

enum { STATE_VERSION = 1 };

#define COMMON_FEATURES                                                                                      \
	(1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_RING_F_EVENT_IDX)

bool virtio_has(const struct virtio_device *dev, unsigned feature)
{
	return dev->features >> feature & 1;
}

bool virtio_running(const struct virtio_device *dev)
{
	return (dev->status & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET)) ==
	       VIRTIO_CONFIG_S_DRIVER_OK;
}

static void look_at_queues(struct virtio_device *dev)
{
	unsigned i;

	for (i = 0; i < dev->ops->nqueues; i++)
		virtio_notify(dev, i);
}

static void doorbell_rang(void *arg, uint32_t events)
{
	struct virtio_device *dev = arg;
	uint64_t n;

	(void)events;
	(void)!read(dev->doorbell, &n, sizeof(n));
	look_at_queues(dev);
}

void virtio_ring_doorbell(struct virtio_device *dev)
{
	const uint64_t one = 1;

	/* Fails only when the counter is at its end, and then the loop is about to look anyway. */
	(void)!write(dev->doorbell, &one, sizeof(one));
}

static void release(struct virtio_device *dev)
{
	watch_free(dev->doorbell_watch);
	close_fd(&dev->doorbell);
	free(dev->queues);
	free(dev);
}

void *virtio_new(size_t size, const struct virtio_ops *ops, const struct virtio_host *host, uint64_t features,
		 struct err *err)
{
	struct virtio_device *dev = calloc(1, size);
	unsigned i;

	if (!dev) {
		err_set(err, -ENOMEM, "no memory for device %s", ops->name);
		return NULL;
	}
	*dev = (struct virtio_device){ .ops = ops, .host = *host, .offered = COMMON_FEATURES | features };
	dev->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	dev->queues = calloc(ops->nqueues, sizeof(*dev->queues));
	if (dev->doorbell >= 0)
		dev->doorbell_watch = watch_new(host->loop, dev->doorbell, EPOLLIN, doorbell_rang, dev);
	if (!dev->queues || !dev->doorbell_watch) {
		release(dev);
		err_set(err, -ENOMEM, "no memory or descriptors for device %s", ops->name);
		return NULL;
	}
	for (i = 0; i < ops->nqueues; i++) {
		dev->queues[i].device = dev;
		dev->queues[i].num_max = ops->queue_size;
	}
	return dev;
}

void virtio_free(struct virtio_device *dev)
{
	if (!dev)
		return;
	if (dev->ops->release)
		dev->ops->release(dev);
	release(dev);
}

/* ---- interrupts */

void virtio_interrupt(struct virtio_device *dev, uint32_t why)
{
	dev->isr |= why;
	irq_pulse(dev->host.irqchip, dev->host.gsi);
}

void virtio_break(struct virtio_device *dev, const char *why)
{
	if (dev->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	/* Once: a guest must not be able to fill the log. */
	if (!dev->warned)
		log_warn("device %s: the driver sent %s; it needs a reset", dev->ops->name, why);
	dev->warned = true;
	dev->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	if (dev->status & VIRTIO_CONFIG_S_DRIVER_OK)
		virtio_interrupt(dev, VIRTIO_MMIO_INT_CONFIG);
}

/* ---- status and queues */

static void reset(struct virtio_device *dev)
{
	unsigned i;

	if (dev->ops->reset)
		dev->ops->reset(dev);
	for (i = 0; i < dev->ops->nqueues; i++)
		virtq_stop(&dev->queues[i]);
	dev->isr = 0;
	dev->status = 0;
	dev->features = 0;
}

static bool features_ok(const struct virtio_device *dev)
{
	return virtio_has(dev, VIRTIO_F_VERSION_1) && !(dev->features & ~dev->offered);
}

void virtio_set_status(struct virtio_device *dev, uint8_t status)
{
	const uint8_t was = dev->status;

	if (!status) {
		reset(dev);
		return;
	}
	/* The driver sees that we do not take its features by the bit that stays clear (section 3.1.1). */
	if (status & VIRTIO_CONFIG_S_FEATURES_OK && !features_ok(dev))
		status &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	if (!(status & VIRTIO_CONFIG_S_FEATURES_OK))
		status &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
	/* It sets bits and clears none, and this one is ours. */
	dev->status = was | (status & (uint8_t)~VIRTIO_CONFIG_S_NEEDS_RESET);
	if (~was & dev->status & VIRTIO_CONFIG_S_DRIVER_OK)
		virtio_ring_doorbell(dev);
}

void virtio_notify(struct virtio_device *dev, uint32_t queue)
{
	if (queue < dev->ops->nqueues && virtio_running(dev) && dev->queues[queue].ready)
		dev->ops->notify(dev, queue);
}

void virtio_start_queue(struct virtio_device *dev, unsigned queue)
{
	struct virtqueue *vq = &dev->queues[queue];

	if (vq->ready)
		return;
	if (virtq_start(vq))
		virtio_break(dev, "a queue where none can be");
	else
		virtio_ring_doorbell(dev);
}

void virtio_stop_queue(struct virtio_device *dev, unsigned queue)
{
	if (!dev->queues[queue].ready)
		return;
	if (dev->ops->reset)
		dev->ops->reset(dev);
	virtq_stop(&dev->queues[queue]);
}

/* ---- state */

void virtio_save(struct virtio_device *dev, struct buf *buf)
{
	unsigned i;

	if (dev->ops->drain)
		dev->ops->drain(dev);
	buf_put_u8(buf, STATE_VERSION);
	buf_put_u32(buf, dev->ops->id);
	buf_put_u64(buf, dev->features);
	buf_put_u8(buf, dev->status);
	buf_put_u32(buf, dev->isr);
	buf_put_u32(buf, dev->config_generation);
	buf_put_u16(buf, dev->ops->nqueues);
	for (i = 0; i < dev->ops->nqueues; i++)
		virtq_save(&dev->queues[i], buf);
	if (dev->ops->save)
		dev->ops->save(dev, buf);
}

int virtio_load(struct virtio_device *dev, struct reader *r, struct err *err)
{
	const char *name = dev->ops->name;
	unsigned i;
	int rc = 0;

	if (get_u8(r) != STATE_VERSION || get_u32(r) != dev->ops->id)
		return err_set(err, -EINVAL, "the state of device %s is not one of this version", name);
	dev->features = get_u64(r);
	dev->status = get_u8(r);
	dev->isr = get_u32(r);
	dev->config_generation = get_u32(r);
	if (get_u16(r) != dev->ops->nqueues)
		return err_set(err, -EINVAL, "the state of device %s has other queues", name);
	if (dev->isr & ~(uint32_t)(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG) ||
	    (dev->status & VIRTIO_CONFIG_S_FEATURES_OK && !features_ok(dev)) ||
	    (dev->status & VIRTIO_CONFIG_S_DRIVER_OK && !(dev->status & VIRTIO_CONFIG_S_FEATURES_OK)))
		return err_set(err, -EINVAL, "the state of device %s is one this version cannot have", name);
	for (i = 0; !rc && i < dev->ops->nqueues; i++)
		rc = virtq_load(&dev->queues[i], r, err);
	if (!rc && dev->ops->load)
		rc = dev->ops->load(dev, r, err);
	if (!rc && r->bad)
		rc = err_set(err, -EINVAL, "the state of device %s ends early", name);
	return rc;
}

void virtio_loaded(struct virtio_device *dev)
{
	/* An interrupt on its way, and a notification nobody had looked at, are not part of the state. One
	 * too many does no harm. */
	if (dev->isr)
		irq_pulse(dev->host.irqchip, dev->host.gsi);
	virtio_ring_doorbell(dev);
}
