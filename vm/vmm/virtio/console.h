/* SPDX-License-Identifier: MIT */
/*
 * console.h - a byte channel between guest and host: one named port (virtio 1.2, section 5.3)
 *
 * The guest finds the port by its name, as /dev/virtio-ports/NAME or through /sys/class/virtio-ports. What it
 * writes appears on a stream socket, and the other way round; neither side can make us hold more than the
 * socket and its own memory hold, and nothing is dropped while both are there.
 */
#ifndef SBX_VM_VMM_VIRTIO_CONSOLE_H
#define SBX_VM_VMM_VIRTIO_CONSOLE_H

#include "vm/vmm/virtio/device.h"

/* `fd` is a non-blocking stream socket; the device closes it when it is freed. `name` outlives the device. */
int virtio_console_new(const struct virtio_host *host, int fd, const char *name, struct virtio_device **ret,
		       struct err *err);

/* While it is held, what arrives on the socket stays there: for a machine that is stopped, so that nothing
 * new comes into its memory, and nobody wakes up for it. */
void virtio_console_hold(struct virtio_device *dev, bool held);

#endif
