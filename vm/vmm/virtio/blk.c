/* SPDX-License-Identifier: MIT */
/*
 * blk.c - the guest's disk
 *
 * A request is a chain: a header to read, data, and a status byte to write at its very end. Drivers may cut
 * the bytes into buffers as they like (section 5.2.6.4). Data moves between guest RAM and file on the disk's
 * worker threads; the answer is given on the loop's thread.
 *
 * A request that finds the host's disk full is kept, where somebody listens for that: the machine is stopped, and the
 * request repeated when it runs again. It is still in the used ring's debt, so a capture would lose it: there is none
 * meanwhile (control.c).
 *
 * A reset waits until no worker touches guest RAM any more. The callbacks that are then still to come find
 * that their chain is not alive, and leave everything alone.
 */
#include "vm/vmm/virtio/blk.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	SECTOR_BITS = 9,
	SECTOR = 1 << SECTOR_BITS,
	QUEUE_SIZE = 128,
	CHAINS_A_TURN = 64,
	/* Freeing clusters locks others out: not for too long at a time. */
	DISCARD_SECTORS_MAX = 1 << 21, /* 1 GiB */
	DISCARD_ALIGNMENT = 128,       /* sectors in a cluster */
};

struct virtio_blk {
	struct virtio_device dev;
	struct qcow2 *disk;
	char id[VIRTIO_BLK_ID_BYTES];
	struct virtq_chain chain;
	struct list parked;      /* struct blk_request: no room for them */
	void (*full)(void *arg); /* NULL: they fail */
	void *full_arg;
};

/* A request under way. */
struct blk_request {
	struct list link; /* in parked */
	struct virtio_blk *blk;
	enum qcow2_op op;
	uint64_t offset, len;
	unsigned niov;
	uint16_t head;
	uint32_t epoch;
	uint32_t written; /* bytes of guest RAM, if all goes well */
	uint8_t *status;
	struct iovec iov[]; /* the data */
};

static void finish(struct blk_request *req, uint8_t status)
{
	struct virtqueue *vq = &req->blk->dev.queues[0];

	if (virtq_alive(vq, req->epoch)) {
		*req->status = status;
		virtq_push(vq, req->head, req->epoch, status == VIRTIO_BLK_S_OK ? req->written : 1);
	}
	free(req);
}

static void disk_done(void *arg, int result)
{
	struct blk_request *req = arg;
	struct virtio_blk *blk = req->blk;

	if ((result == -ENOSPC || result == -EDQUOT) && blk->full &&
	    virtq_alive(&blk->dev.queues[0], req->epoch)) {
		list_add(&blk->parked, &req->link);
		blk->full(blk->full_arg);
		return;
	}
	finish(req, result ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
}

static void start_io(struct blk_request *req)
{
	if (qcow2_submit(req->blk->disk, req->op, req->offset, req->len, req->iov, req->niov, disk_done, req))
		finish(req, VIRTIO_BLK_S_IOERR);
}

static void submit(struct blk_request *req, enum qcow2_op op, uint64_t sector, uint64_t len, unsigned niov)
{
	if (sector > UINT64_MAX >> SECTOR_BITS) {
		finish(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	req->op = op;
	req->offset = sector << SECTOR_BITS;
	req->len = len;
	req->niov = niov;
	start_io(req);
}

/* Those of a ring that is no more. */
static void drop_parked(struct virtio_blk *blk)
{
	struct blk_request *req;

	while ((req = list_first(&blk->parked, struct blk_request, link))) {
		list_del(&req->link);
		free(req);
	}
}

static void read_write(struct blk_request *req, const struct virtq_chain *chain, bool write, uint64_t sector)
{
	const size_t header = sizeof(struct virtio_blk_outhdr);
	unsigned n;
	uint64_t len;

	if (write) {
		len = chain->out_len - header;
		n = iov_slice(chain->iov, chain->nout, header, len, req->iov);
	} else {
		len = chain->in_len - 1;
		n = iov_slice(chain->iov + chain->nout, chain->nin, 0, len, req->iov);
		/* The length in the used ring has only 32 bits. */
		if (len >= UINT32_MAX)
			len = 1;
		req->written = (uint32_t)len + 1;
	}
	if (len % SECTOR)
		finish(req, VIRTIO_BLK_S_IOERR);
	else
		submit(req, write ? QCOW2_WRITE : QCOW2_READ, sector, len, n);
}

/* Discard or write zeroes: one range, as our configuration says. */
static void free_range(struct blk_request *req, const struct virtq_chain *chain, bool zeroes)
{
	struct virtio_blk_discard_write_zeroes range;
	const size_t header = sizeof(struct virtio_blk_outhdr);
	const uint32_t allowed = zeroes ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
	uint64_t sectors;

	if (chain->out_len != header + sizeof(range)) {
		finish(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	iov_read(chain->iov, chain->nout, header, &range, sizeof(range));
	sectors = le32toh(range.num_sectors);
	/* Section 5.2.6.2: unknown flags are refused as unsupported. */
	if (le32toh(range.flags) & ~allowed)
		finish(req, VIRTIO_BLK_S_UNSUPP);
	else if (sectors > DISCARD_SECTORS_MAX)
		finish(req, VIRTIO_BLK_S_IOERR);
	else
		submit(req, zeroes ? QCOW2_ZERO : QCOW2_DISCARD, le64toh(range.sector),
		       sectors << SECTOR_BITS, 0);
}

static void get_id(struct blk_request *req, const struct virtq_chain *chain)
{
	size_t n = chain->in_len - 1;

	if (n > sizeof(req->blk->id))
		n = sizeof(req->blk->id);
	iov_write(chain->iov + chain->nout, chain->nin, 0, req->blk->id, n);
	req->written = (uint32_t)n + 1;
	finish(req, VIRTIO_BLK_S_OK);
}

/* Start one request, which ends in finish(). False: the chain is not one. */
static bool start(struct virtio_blk *blk, const struct virtq_chain *chain)
{
	struct virtio_blk_outhdr header;
	struct blk_request *req;
	struct iovec last;

	if (iov_read(chain->iov, chain->nout, 0, &header, sizeof(header)) < sizeof(header) || !chain->nin) {
		virtio_break(&blk->dev, "a disk request without header or status");
		return false;
	}
	last = chain->iov[chain->nout + chain->nin - 1];
	req = malloc(sizeof(*req) + (chain->nout + chain->nin) * sizeof(req->iov[0]));
	if (!req) {
		*((uint8_t *)last.iov_base + last.iov_len - 1) = VIRTIO_BLK_S_IOERR;
		virtq_push(&blk->dev.queues[0], chain->head, chain->epoch, 1);
		return true;
	}
	*req = (struct blk_request){ .link = LIST_INIT(req->link),
				     .blk = blk,
				     .head = chain->head,
				     .epoch = chain->epoch,
				     .written = 1,
				     .status = (uint8_t *)last.iov_base + last.iov_len - 1 };
	switch (le32toh(header.type)) {
	case VIRTIO_BLK_T_IN:
		read_write(req, chain, false, le64toh(header.sector));
		break;
	case VIRTIO_BLK_T_OUT:
		read_write(req, chain, true, le64toh(header.sector));
		break;
	case VIRTIO_BLK_T_FLUSH:
		submit(req, QCOW2_FLUSH, 0, 0, 0);
		break;
	case VIRTIO_BLK_T_DISCARD:
		free_range(req, chain, false);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		free_range(req, chain, true);
		break;
	case VIRTIO_BLK_T_GET_ID:
		get_id(req, chain);
		break;
	default:
		finish(req, VIRTIO_BLK_S_UNSUPP);
	}
	return true;
}

static void blk_notify(struct virtio_device *dev, unsigned queue)
{
	struct virtio_blk *blk = container_of(dev, struct virtio_blk, dev);
	unsigned i;

	for (i = 0; i < CHAINS_A_TURN; i++)
		if (!virtq_pop(&dev->queues[queue], &blk->chain) || !start(blk, &blk->chain))
			return;
	virtio_ring_doorbell(dev);
}

static void blk_config(struct virtio_device *dev, uint8_t *ret, size_t size)
{
	const struct virtio_blk *blk = container_of(dev, struct virtio_blk, dev);
	const struct virtio_blk_config config = {
		.capacity = htole64(qcow2_size(blk->disk) >> SECTOR_BITS),
		.seg_max = htole32(QUEUE_SIZE - 2),
		.blk_size = htole32(SECTOR),
		.max_discard_sectors = htole32(DISCARD_SECTORS_MAX),
		.max_discard_seg = htole32(1),
		.discard_sector_alignment = htole32(DISCARD_ALIGNMENT),
		.max_write_zeroes_sectors = htole32(DISCARD_SECTORS_MAX),
		.max_write_zeroes_seg = htole32(1),
		.write_zeroes_may_unmap = 1,
	};

	memcpy(ret, &config, sizeof(config) < size ? sizeof(config) : size);
}

static void blk_reset(struct virtio_device *dev)
{
	struct virtio_blk *blk = container_of(dev, struct virtio_blk, dev);

	qcow2_wait(blk->disk);
	drop_parked(blk);
}

void virtio_blk_on_full(struct virtio_device *dev, void (*full)(void *arg), void *arg)
{
	struct virtio_blk *blk = container_of(dev, struct virtio_blk, dev);

	blk->full = full;
	blk->full_arg = arg;
}

void virtio_blk_retry(struct virtio_device *dev)
{
	struct virtio_blk *blk = container_of(dev, struct virtio_blk, dev);
	struct blk_request *req;

	/* None of them ends, or is parked again, from inside: that is the loop's turn. */
	while ((req = list_first(&blk->parked, struct blk_request, link))) {
		list_del(&req->link);
		start_io(req);
	}
}

void virtio_blk_drain(struct virtio_device *dev)
{
	/* Requests we have not looked at yet stay in the ring, which is part of the RAM. */
	qcow2_drain(container_of(dev, struct virtio_blk, dev)->disk);
}

static void blk_release(struct virtio_device *dev)
{
	struct virtio_blk *blk = container_of(dev, struct virtio_blk, dev);

	qcow2_drain(blk->disk);
	drop_parked(blk);
}

static const struct virtio_ops blk_ops = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.nqueues = 1,
	.queue_size = QUEUE_SIZE,
	.config = blk_config,
	.config_size = sizeof(struct virtio_blk_config),
	.notify = blk_notify,
	.reset = blk_reset,
	.drain = virtio_blk_drain,
	.release = blk_release,
};

int virtio_blk_new(const struct virtio_host *host, struct qcow2 *disk, const char *id,
		   struct virtio_device **ret, struct err *err)
{
	struct virtio_blk *blk;
	uint64_t features =
		1u << VIRTIO_BLK_F_SEG_MAX | 1u << VIRTIO_BLK_F_BLK_SIZE | 1u << VIRTIO_BLK_F_FLUSH;

	if (qcow2_writable(disk))
		features |= 1u << VIRTIO_BLK_F_DISCARD | 1u << VIRTIO_BLK_F_WRITE_ZEROES;
	else
		features |= 1u << VIRTIO_BLK_F_RO;
	blk = virtio_new(sizeof(*blk), &blk_ops, host, features, err);
	if (!blk)
		return -ENOMEM;
	blk->disk = disk;
	list_init(&blk->parked);
	memcpy(blk->id, id, strnlen(id, sizeof(blk->id)));
	*ret = &blk->dev;
	return 0;
}
