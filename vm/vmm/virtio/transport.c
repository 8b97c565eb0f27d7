/* SPDX-License-Identifier: MIT */
/*
 * transport.c - the registers of a virtio device (virtio 1.2, section 4.2.2, table 4.1)
 *
 * Version 2 of the layout. Registers are 32 bits wide and accessed as such; configuration space, from 0x100
 * on, in any width.
 */
#include "vm/vmm/virtio/transport.h"

#include <endian.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <string.h>

enum {
	MAGIC = 0x74726976,  /* "virt" */
	VENDOR = 0x66786273, /* "sbxf" */
	CONFIG_MAX = 256,
};

static struct virtqueue *selected(struct virtio_mmio *mmio)
{
	return mmio->queue_sel < mmio->dev->ops->nqueues ? &mmio->dev->queues[mmio->queue_sel] : NULL;
}

static uint32_t half(uint64_t v, uint32_t sel)
{
	if (sel > 1)
		return 0;
	return (uint32_t)(sel ? v >> 32 : v);
}

static void set_half(uint64_t *v, bool high, uint32_t half_value)
{
	if (high)
		*v = (*v & UINT32_MAX) | (uint64_t)half_value << 32;
	else
		*v = (*v & ~(uint64_t)UINT32_MAX) | half_value;
}

static uint32_t read_register(struct virtio_mmio *mmio, uint64_t offset)
{
	struct virtio_device *dev = mmio->dev;
	const struct virtqueue *vq = selected(mmio);

	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return 2;
	case VIRTIO_MMIO_DEVICE_ID:
		return dev->ops->id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return half(dev->offered, mmio->device_features_sel);
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return vq ? vq->num_max : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return vq && vq->ready;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return dev->isr;
	case VIRTIO_MMIO_STATUS:
		return dev->status;
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return dev->config_generation;
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return UINT32_MAX; /* there is no such region (section 4.2.2.1) */
	default:
		return 0;
	}
}

static uint64_t read_config(struct virtio_device *dev, uint64_t offset, unsigned size)
{
	uint8_t config[CONFIG_MAX] = { 0 };
	uint64_t value = 0;

	if (!dev->ops->config || offset > dev->ops->config_size || size > dev->ops->config_size - offset)
		return 0;
	dev->ops->config(dev, config, sizeof(config));
	memcpy(&value, config + offset, size);
	return le64toh(value);
}

static uint64_t mmio_region_read(void *opaque, uint64_t offset, unsigned size)
{
	struct virtio_mmio *mmio = opaque;

	if (offset >= VIRTIO_MMIO_CONFIG)
		return read_config(mmio->dev, offset - VIRTIO_MMIO_CONFIG, size);
	return size == sizeof(uint32_t) ? read_register(mmio, offset) : 0;
}

/* Features are negotiated before FEATURES_OK, queues placed before they are ready; later it is too late. */
static void write_queue_register(struct virtqueue *vq, uint64_t offset, uint32_t value)
{
	if (!vq || vq->ready)
		return;
	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:
		vq->num = value <= vq->num_max ? (uint16_t)value : 0;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_half(&vq->desc_addr, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_half(&vq->avail_addr, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_half(&vq->used_addr, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
		break;
	default:
		break;
	}
}

static void write_register(struct virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
	struct virtio_device *dev = mmio->dev;

	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		mmio->device_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		mmio->driver_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		if (mmio->driver_features_sel <= 1 && !(dev->status & VIRTIO_CONFIG_S_FEATURES_OK))
			set_half(&dev->features, mmio->driver_features_sel, value);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		mmio->queue_sel = value;
		break;
	case VIRTIO_MMIO_QUEUE_READY:
		if (selected(mmio) && value)
			virtio_start_queue(dev, mmio->queue_sel);
		else if (selected(mmio))
			virtio_stop_queue(dev, mmio->queue_sel);
		break;
	case VIRTIO_MMIO_QUEUE_NOTIFY:
		virtio_notify(dev, value);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		dev->isr &= ~value;
		break;
	case VIRTIO_MMIO_STATUS:
		virtio_set_status(dev, (uint8_t)value);
		break;
	default:
		write_queue_register(selected(mmio), offset, value);
	}
}

static void mmio_region_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	/* None of our devices has configuration that a driver writes. */
	if (offset < VIRTIO_MMIO_CONFIG && size == sizeof(uint32_t))
		write_register(opaque, offset, (uint32_t)value);
}

struct mmio_region virtio_mmio_region(struct virtio_mmio *mmio, uint64_t base)
{
	return (struct mmio_region){ .name = mmio->dev->ops->name,
				     .base = base,
				     .len = VIRTIO_MMIO_SIZE,
				     .read = mmio_region_read,
				     .write = mmio_region_write,
				     .opaque = mmio };
}

void virtio_mmio_save(struct virtio_mmio *mmio, struct buf *buf)
{
	buf_put_u32(buf, mmio->device_features_sel);
	buf_put_u32(buf, mmio->driver_features_sel);
	buf_put_u32(buf, mmio->queue_sel);
	virtio_save(mmio->dev, buf);
}

int virtio_mmio_load(struct virtio_mmio *mmio, struct reader *r, struct err *err)
{
	/* Any value is a valid one. */
	mmio->device_features_sel = get_u32(r);
	mmio->driver_features_sel = get_u32(r);
	mmio->queue_sel = get_u32(r);
	return virtio_load(mmio->dev, r, err);
}
