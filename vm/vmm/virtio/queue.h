/* SPDX-License-Identifier: MIT */
/*
 * queue.h - the split ring between a driver and a device (virtio 1.2, section 2.7)
 *
 * The driver is not trusted. It may change the rings at any moment and put any number anywhere, so each field
 * is read once, into a local copy, and checked before it is used. What breaks the rules breaks the queue:
 * its device then wants a reset, and nothing more is taken from it or given to it.
 */
#ifndef SBX_VM_VMM_VIRTIO_QUEUE_H
#define SBX_VM_VMM_VIRTIO_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "util/buf.h"
#include "util/err.h"

struct virtio_device;
struct vring_desc;
struct vring_avail;
struct vring_used;

enum { VIRTQ_NUM_MAX = 256 };

struct virtqueue {
	struct virtio_device *device;
	uint16_t num_max;
	/* Set by the driver while the queue is not ready. */
	uint16_t num;
	uint64_t desc_addr, avail_addr, used_addr;
	bool ready;
	/* While ready: where the rings are in our memory. */
	const volatile struct vring_desc *desc;
	volatile struct vring_avail *avail;
	volatile struct vring_used *used;
	uint16_t last_avail; /* the next chain to take */
	uint16_t used_idx;   /* the next one to give back; last_avail - used_idx are being worked on */
	uint16_t signalled;  /* used_idx at the last interrupt */
	bool signalled_valid;
	uint32_t epoch; /* counts how often the queue was stopped */
};

/* One chain of buffers: first what the device reads, then what it writes. */
struct virtq_chain {
	uint16_t head;
	uint32_t epoch;
	unsigned nout, nin;
	uint64_t out_len, in_len;        /* bytes */
	struct iovec iov[VIRTQ_NUM_MAX]; /* nout, then nin */
};

static inline struct iovec *virtq_in(struct virtq_chain *chain)
{
	return chain->iov + chain->nout;
}

/* Let the queue begin where its driver put the rings. -EINVAL: not where rings can be. */
int virtq_start(struct virtqueue *vq);
/* Forget everything; chains still out belong to nobody any more. */
void virtq_stop(struct virtqueue *vq);

/* Take the next chain. False: none there (the driver will notify when there is one), or the queue is
 * broken. */
bool virtq_pop(struct virtqueue *vq, struct virtq_chain *ret);
/* Put the chain taken last back, to take it again later. */
void virtq_unpop(struct virtqueue *vq);
/* May this chain's memory still be touched? Not after a reset. */
bool virtq_alive(const struct virtqueue *vq, uint32_t epoch);
/* Give a chain back, `len` bytes written. Nothing happens if it is not alive. Interrupts the driver if it
 * wants that. */
void virtq_push(struct virtqueue *vq, uint16_t head, uint32_t epoch, uint32_t len);
/* The same for several that the driver has to see at once: each is filled in, `ahead` ones before it, and then
 * all n are flushed. */
void virtq_fill(struct virtqueue *vq, uint16_t head, uint32_t epoch, uint32_t len, uint16_t ahead);
void virtq_flush(struct virtqueue *vq, uint32_t epoch, uint16_t n);

/* State. Nothing may be in flight at a save. A load checks everything; -EINVAL. */
void virtq_save(const struct virtqueue *vq, struct buf *buf);
int virtq_load(struct virtqueue *vq, struct reader *r, struct err *err);

/* Copy out of or into buffers, from byte `offset` on; returns how many bytes there were. */
size_t iov_read(const struct iovec *iov, unsigned n, size_t offset, void *buf, size_t len);
size_t iov_write(const struct iovec *iov, unsigned n, size_t offset, const void *buf, size_t len);
/* Describe `len` bytes from `offset` on in `ret`, which has room for n entries; returns how many it took. */
unsigned iov_slice(const struct iovec *iov, unsigned n, size_t offset, size_t len, struct iovec *ret);

#endif
