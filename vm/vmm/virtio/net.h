/* SPDX-License-Identifier: MIT */
/*
 * net.h - the guest's network device (virtio 1.2, section 5.1)
 *
 * Frames go to and come from a SOCK_SEQPACKET socket, one a message. Whoever has the other end may be slow or not
 * there yet: a full socket stops the transmit queue, and nothing else.
 */
#ifndef SBX_VM_VMM_VIRTIO_NET_H
#define SBX_VM_VMM_VIRTIO_NET_H

#include "vm/vmm/virtio/device.h"

/* `fd` is non-blocking; the device closes it when it is freed. */
int virtio_net_new(const struct virtio_host *host, int fd, struct virtio_device **ret, struct err *err);

/* While it is held, frames that arrive stay in the socket (virtio_console_hold has why). */
void virtio_net_hold(struct virtio_device *dev, bool held);

#endif
