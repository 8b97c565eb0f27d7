/* SPDX-License-Identifier: MIT */
/* rng.h - entropy for the guest (virtio 1.2, section 5.4) */
#ifndef SBX_VM_VMM_VIRTIO_RNG_H
#define SBX_VM_VMM_VIRTIO_RNG_H

#include "vm/vmm/virtio/device.h"

int virtio_rng_new(const struct virtio_host *host, struct virtio_device **ret, struct err *err);

#endif
