/* SPDX-License-Identifier: MIT */
/*
 * balloon.c - takes back what memory the guest reports as free
 *
 * The device is there for free page reporting only; it never asks for memory. A reported page may read as
 * anything until it is used again (5.5.6.7: no poison is negotiated), so MADV_DONTNEED does for both kinds of
 * RAM: a page of a machine that booted is zero again, one of a fork is the template's again, which this guest
 * has seen before. Either way it is no page of ours any more, and no capture copies it.
 *
 * The device has no state: every report is answered at once.
 */
#include "vm/vmm/virtio/balloon.h"

#include <errno.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <string.h>
#include <sys/mman.h>

/* Without the statistics and hinting features, whose queues would come before the last one. */
enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_REPORTING, QUEUES };
enum { PAGE = 4096, CHAINS_A_TURN = 16 };

struct virtio_balloon {
	struct virtio_device dev;
	struct virtq_chain chain;
};

/* The whole pages of a buffer, which the queue has checked to be RAM. */
static void discard(const struct iovec *iov)
{
	const uintptr_t start = ((uintptr_t)iov->iov_base + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
	const uintptr_t end = ((uintptr_t)iov->iov_base + iov->iov_len) & ~(uintptr_t)(PAGE - 1);

	/* Should it fail, the pages are only not given back. */
	if (start < end)
		(void)madvise((void *)start, end - start, MADV_DONTNEED);
}

static void balloon_notify(struct virtio_device *dev, unsigned queue)
{
	struct virtio_balloon *balloon = container_of(dev, struct virtio_balloon, dev);
	struct virtq_chain *chain = &balloon->chain;
	struct virtqueue *vq = &dev->queues[queue];
	unsigned i, buffer;

	for (i = 0; i < CHAINS_A_TURN; i++) {
		if (!virtq_pop(vq, chain))
			return;
		/* What is put into the balloon, unasked, stays with the guest. */
		if (queue == QUEUE_REPORTING && virtio_has(dev, VIRTIO_BALLOON_F_REPORTING))
			for (buffer = 0; buffer < chain->nin; buffer++)
				discard(&virtq_in(chain)[buffer]);
		virtq_push(vq, chain->head, chain->epoch, 0);
	}
	virtio_ring_doorbell(dev);
}

/* Of size 0, and not to be filled. */
static void balloon_config(struct virtio_device *dev, uint8_t *ret, size_t size)
{
	(void)dev;
	memset(ret, 0, size);
}

static const struct virtio_ops balloon_ops = {
	.name = "virtio-balloon",
	.id = VIRTIO_ID_BALLOON,
	.nqueues = QUEUES,
	.queue_size = 64,
	.config = balloon_config,
	.config_size = sizeof(struct virtio_balloon_config),
	.notify = balloon_notify,
};

int virtio_balloon_new(const struct virtio_host *host, struct virtio_device **ret, struct err *err)
{
	*ret = virtio_new(sizeof(struct virtio_balloon), &balloon_ops, host,
			  UINT64_C(1) << VIRTIO_BALLOON_F_REPORTING, err);
	return *ret ? 0 : -ENOMEM;
}
