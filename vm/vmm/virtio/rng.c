/* SPDX-License-Identifier: MIT */
/*
 * rng.c - entropy for the guest, from getrandom(2)
 *
 * Every request is answered at once, so the device has no state. That matters: bytes handed out before a
 * capture are in all its forks, and must be the last they have in common.
 */
#include "vm/vmm/virtio/rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <sys/random.h>

/* A driver with a huge buffer gets this much of it, and asks again: the loop has other things to do. */
enum { BYTES_MAX = 4096, CHAINS_A_TURN = 16 };

struct virtio_rng {
	struct virtio_device dev;
	struct virtq_chain chain;
};

static void answer(struct virtqueue *vq, const struct virtq_chain *chain)
{
	uint8_t bytes[BYTES_MAX];
	size_t n = chain->in_len < sizeof(bytes) ? chain->in_len : sizeof(bytes);
	size_t done = 0;
	ssize_t got;

	while (done < n) {
		got = getrandom(bytes + done, n - done, 0);
		if (got > 0)
			done += (size_t)got;
		else if (errno != EINTR)
			break;
	}
	n = iov_write(chain->iov + chain->nout, chain->nin, 0, bytes, done);
	virtq_push(vq, chain->head, chain->epoch, (uint32_t)n);
}

static void rng_notify(struct virtio_device *dev, unsigned queue)
{
	struct virtio_rng *rng = container_of(dev, struct virtio_rng, dev);
	struct virtqueue *vq = &dev->queues[queue];
	unsigned i;

	for (i = 0; i < CHAINS_A_TURN; i++) {
		if (!virtq_pop(vq, &rng->chain))
			return;
		answer(vq, &rng->chain);
	}
	virtio_ring_doorbell(dev);
}

static const struct virtio_ops rng_ops = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.nqueues = 1,
	.queue_size = 64,
	.notify = rng_notify,
};

int virtio_rng_new(const struct virtio_host *host, struct virtio_device **ret, struct err *err)
{
	*ret = virtio_new(sizeof(struct virtio_rng), &rng_ops, host, 0, err);
	return *ret ? 0 : -ENOMEM;
}
