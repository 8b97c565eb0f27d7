/* SPDX-License-Identifier: MIT */
/* blk.h - the guest's disk (virtio 1.2, section 5.2) */
#ifndef SBX_VM_VMM_VIRTIO_BLK_H
#define SBX_VM_VMM_VIRTIO_BLK_H

#include "snap/qcow2/disk.h"
#include "vm/vmm/virtio/device.h"

/* The disk stays the caller's, and outlives the device. `id` is what the guest sees as its serial number, at
 * most 20 bytes. */
int virtio_blk_new(const struct virtio_host *host, struct qcow2 *disk, const char *id,
		   struct virtio_device **ret, struct err *err);

/* Finish all requests under way. */
void virtio_blk_drain(struct virtio_device *dev);

/*
 * The host's disk is full: the request is kept until virtio_blk_retry, or a reset. `full` is called for each such, on
 * the loop's thread, perhaps from inside virtio_blk_drain. Without it they fail.
 */
void virtio_blk_on_full(struct virtio_device *dev, void (*full)(void *arg), void *arg);
void virtio_blk_retry(struct virtio_device *dev);

#endif
