/* SPDX-License-Identifier: MIT */
/* transport.h - a virtio device behind memory-mapped registers (virtio 1.2, section 4.2) */
#ifndef SBX_VM_VMM_VIRTIO_TRANSPORT_H
#define SBX_VM_VMM_VIRTIO_TRANSPORT_H

#include <stdint.h>

#include "vm/vmm/mmio.h"
#include "vm/vmm/virtio/device.h"

enum { VIRTIO_MMIO_SIZE = 0x1000 };

/* A device and the registers that choose what other registers mean, zero at first. */
struct virtio_mmio {
	struct virtio_device *dev;
	uint32_t device_features_sel, driver_features_sel, queue_sel;
};

/* The registers, for mmio_add. A device has one struct virtio_mmio, for all its life. */
struct mmio_region virtio_mmio_region(struct virtio_mmio *mmio, uint64_t base);

/* The device's state and the selectors; contract as virtio_save and virtio_load. */
void virtio_mmio_save(struct virtio_mmio *mmio, struct buf *buf);
int virtio_mmio_load(struct virtio_mmio *mmio, struct reader *r, struct err *err);

#endif
