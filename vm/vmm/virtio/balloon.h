/* SPDX-License-Identifier: MIT */
/* balloon.h - takes back what memory the guest reports as free (virtio 1.2, section 5.5) */
#ifndef SBX_VM_VMM_VIRTIO_BALLOON_H
#define SBX_VM_VMM_VIRTIO_BALLOON_H

#include "vm/vmm/virtio/device.h"

int virtio_balloon_new(const struct virtio_host *host, struct virtio_device **ret, struct err *err);

#endif
