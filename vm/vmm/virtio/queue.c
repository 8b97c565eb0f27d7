/* SPDX-License-Identifier: MIT */
/*
 * queue.c - take chains of buffers from a split ring, and give them back
 *
 * The available ring says which descriptor a chain begins with; descriptors say where a buffer is and which
 * comes next, or where a table of further descriptors is; the used ring is where we say that a chain is done.
 * A chain has at most as many buffers as the queue has descriptors (virtio 1.2, section 2.7.5.3.1), which
 * also ends every loop.
 */
#include "vm/vmm/virtio/queue.h"

#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stddef.h>
#include <string.h>

#include "vm/vmm/virtio/device.h"

_Static_assert(VIRTQ_NUM_MAX <= IOV_MAX, "a chain is at most one preadv");

/* Both rings end in a field for EVENT_IDX, there whether or not it is negotiated. */
static uint64_t avail_size(uint16_t num)
{
	return sizeof(struct vring_avail) + sizeof(uint16_t) * (num + 1u);
}

static uint64_t used_size(uint16_t num)
{
	return sizeof(struct vring_used) + sizeof(struct vring_used_elem) * num + sizeof(uint16_t);
}

static volatile uint16_t *used_event(const struct virtqueue *vq)
{
	return &vq->avail->ring[vq->num];
}

static volatile uint16_t *avail_event(const struct virtqueue *vq)
{
	return (volatile uint16_t *)&vq->used->ring[vq->num];
}

static void *map(const struct virtqueue *vq, uint64_t addr, uint64_t len)
{
	return guest_ptr(vq->device->host.memory, addr, len);
}

int virtq_start(struct virtqueue *vq)
{
	const uint16_t num = vq->num;

	if (!num || num > vq->num_max || num & (num - 1))
		return -EINVAL;
	if (vq->desc_addr % VRING_DESC_ALIGN_SIZE || vq->avail_addr % VRING_AVAIL_ALIGN_SIZE ||
	    vq->used_addr % VRING_USED_ALIGN_SIZE)
		return -EINVAL;
	vq->desc = map(vq, vq->desc_addr, sizeof(struct vring_desc) * num);
	vq->avail = map(vq, vq->avail_addr, avail_size(num));
	vq->used = map(vq, vq->used_addr, used_size(num));
	if (!vq->desc || !vq->avail || !vq->used)
		return -EINVAL;
	vq->ready = true;
	return 0;
}

void virtq_stop(struct virtqueue *vq)
{
	*vq = (struct virtqueue){ .device = vq->device, .num_max = vq->num_max, .epoch = vq->epoch + 1 };
}

/* ---- taking chains */

static bool broken(struct virtqueue *vq, const char *why)
{
	virtio_break(vq->device, why);
	return false;
}

/* Our copy of one descriptor; the driver's may change right after. */
static struct vring_desc read_desc(const volatile struct vring_desc *d)
{
	return (struct vring_desc){ .addr = le64toh(d->addr),
				    .len = le32toh(d->len),
				    .flags = le16toh(d->flags),
				    .next = le16toh(d->next) };
}

static bool add_buffer(struct virtqueue *vq, const struct vring_desc *d, struct virtq_chain *chain)
{
	struct iovec *iov = &chain->iov[chain->nout + chain->nin];

	if (chain->nout + chain->nin == vq->num)
		return broken(vq, "a chain of buffers that is longer than the queue");
	if (!d->len)
		return broken(vq, "a buffer without length");
	iov->iov_base = map(vq, d->addr, d->len);
	iov->iov_len = d->len;
	if (!iov->iov_base)
		return broken(vq, "a buffer outside of memory");
	if (d->flags & VRING_DESC_F_WRITE) {
		chain->nin++;
		chain->in_len += d->len;
		return true;
	}
	if (chain->nin)
		return broken(vq, "a buffer to read behind one to write");
	chain->nout++;
	chain->out_len += d->len;
	return true;
}

/* Follow a chain in `table`, which has `size` descriptors, from `i` on. */
static bool walk(struct virtqueue *vq, const volatile struct vring_desc *table, uint32_t size, uint32_t i,
		 bool indirect, struct virtq_chain *chain)
{
	const volatile struct vring_desc *inner;
	struct vring_desc d;

	/* Every round adds a buffer, and add_buffer limits those. */
	for (;;) {
		if (i >= size)
			return broken(vq, "a descriptor number outside of the table");
		d = read_desc(&table[i]);
		if (d.flags & VRING_DESC_F_INDIRECT)
			break;
		if (!add_buffer(vq, &d, chain))
			return false;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return true;
		i = d.next;
	}
	if (indirect || !virtio_has(vq->device, VIRTIO_RING_F_INDIRECT_DESC))
		return broken(vq, "an indirect descriptor where none may be");
	/* Linux never chains on behind an indirect one; the specification (2.7.5.3.1) forbids it. */
	if (d.flags & VRING_DESC_F_NEXT || !d.len || d.len % sizeof(d) ||
	    d.len > sizeof(d) * (uint32_t)vq->num)
		return broken(vq, "an indirect table of a wrong size");
	inner = map(vq, d.addr, d.len);
	if (!inner || (uintptr_t)inner % _Alignof(struct vring_desc))
		return broken(vq, "an indirect table outside of memory");
	return walk(vq, inner, d.len / sizeof(d), 0, true, chain);
}

static uint16_t read_avail_idx(const struct virtqueue *vq)
{
	/* What the driver wrote before it raised the index is read after. */
	return le16toh(__atomic_load_n(&vq->avail->idx, __ATOMIC_SEQ_CST));
}

/* How many chains wait. When there are none, ask to be notified of the next. */
static uint16_t waiting(struct virtqueue *vq)
{
	uint16_t n = (uint16_t)(read_avail_idx(vq) - vq->last_avail);

	if (n || !virtio_has(vq->device, VIRTIO_RING_F_EVENT_IDX))
		return n;
	/* The driver writes its index, then reads our event; we do it the other way round. One of us sees. */
	__atomic_store_n(avail_event(vq), htole16(vq->last_avail), __ATOMIC_SEQ_CST);
	return (uint16_t)(read_avail_idx(vq) - vq->last_avail);
}

bool virtq_pop(struct virtqueue *vq, struct virtq_chain *chain)
{
	uint16_t n, head;

	if (!vq->ready || !virtio_running(vq->device))
		return false;
	n = waiting(vq);
	if (!n)
		return false;
	if (n > vq->num)
		return broken(vq, "an available index that jumped");
	if ((uint16_t)(vq->last_avail - vq->used_idx) >= vq->num)
		return broken(vq, "a chain that is still in use");
	head = le16toh(vq->avail->ring[vq->last_avail & (vq->num - 1)]);
	chain->head = head;
	chain->epoch = vq->epoch;
	chain->nout = chain->nin = 0;
	chain->out_len = chain->in_len = 0;
	if (!walk(vq, vq->desc, vq->num, head, false, chain))
		return false;
	vq->last_avail++;
	return true;
}

void virtq_unpop(struct virtqueue *vq)
{
	vq->last_avail--;
}

/* ---- giving them back */

bool virtq_alive(const struct virtqueue *vq, uint32_t epoch)
{
	return vq->ready && vq->epoch == epoch && virtio_running(vq->device);
}

/* Does the driver want an interrupt? (virtio 1.2, section 2.7.7) Our index has to be written before its wish
 * is read: both are sequentially consistent. */
static bool wants_interrupt(struct virtqueue *vq)
{
	const uint16_t old = vq->signalled, new = vq->used_idx;
	const bool valid = vq->signalled_valid;
	uint16_t event;

	if (!virtio_has(vq->device, VIRTIO_RING_F_EVENT_IDX))
		return !(le16toh(__atomic_load_n(&vq->avail->flags, __ATOMIC_SEQ_CST)) &
			 VRING_AVAIL_F_NO_INTERRUPT);
	vq->signalled = new;
	vq->signalled_valid = true;
	event = le16toh(__atomic_load_n(used_event(vq), __ATOMIC_SEQ_CST));
	return !valid || vring_need_event(event, new, old);
}

void virtq_fill(struct virtqueue *vq, uint16_t head, uint32_t epoch, uint32_t len, uint16_t ahead)
{
	volatile struct vring_used_elem *elem;

	if (!virtq_alive(vq, epoch))
		return;
	elem = &vq->used->ring[(uint16_t)(vq->used_idx + ahead) & (vq->num - 1)];
	elem->id = htole32(head);
	elem->len = htole32(len);
}

void virtq_flush(struct virtqueue *vq, uint32_t epoch, uint16_t n)
{
	if (!virtq_alive(vq, epoch))
		return;
	vq->used_idx = (uint16_t)(vq->used_idx + n);
	__atomic_store_n(&vq->used->idx, htole16(vq->used_idx), __ATOMIC_SEQ_CST);
	if (wants_interrupt(vq))
		virtio_interrupt(vq->device, VIRTIO_MMIO_INT_VRING);
}

void virtq_push(struct virtqueue *vq, uint16_t head, uint32_t epoch, uint32_t len)
{
	virtq_fill(vq, head, epoch, len, 0);
	virtq_flush(vq, epoch, 1);
}

/* ---- state */

void virtq_save(const struct virtqueue *vq, struct buf *buf)
{
	buf_put_u16(buf, vq->num);
	buf_put_u8(buf, vq->ready);
	buf_put_u64(buf, vq->desc_addr);
	buf_put_u64(buf, vq->avail_addr);
	buf_put_u64(buf, vq->used_addr);
	buf_put_u16(buf, vq->last_avail);
	buf_put_u16(buf, vq->used_idx);
}

int virtq_load(struct virtqueue *vq, struct reader *r, struct err *err)
{
	const char *name = vq->device->ops->name;
	bool ready;

	vq->num = get_u16(r);
	ready = get_u8(r);
	vq->desc_addr = get_u64(r);
	vq->avail_addr = get_u64(r);
	vq->used_addr = get_u64(r);
	vq->last_avail = get_u16(r);
	vq->used_idx = get_u16(r);
	if (r->bad)
		return err_set(err, -EINVAL, "the state of device %s ends early", name);
	/* Of a device that is broken, chains may never come back. */
	if (virtio_running(vq->device) && vq->last_avail != vq->used_idx)
		return err_set(err, -EINVAL, "the state of device %s was saved with requests in flight",
			       name);
	if (ready && virtq_start(vq))
		return err_set(err, -EINVAL, "the state of device %s has a queue where none can be", name);
	return 0;
}

/* ---- buffers */

/* The next bytes from *offset on, at most `left`: how many, 0 behind the end. Moves on behind them. */
static size_t next_piece(const struct iovec **iov, unsigned *n, size_t *offset, size_t left, char **ret)
{
	size_t part;

	while (*n && *offset >= (*iov)->iov_len) {
		*offset -= (*iov)->iov_len;
		++*iov;
		--*n;
	}
	if (!*n)
		return 0;
	part = (*iov)->iov_len - *offset;
	if (part > left)
		part = left;
	*ret = (char *)(*iov)->iov_base + *offset;
	*offset += part;
	return part;
}

size_t iov_read(const struct iovec *iov, unsigned n, size_t offset, void *buf, size_t len)
{
	size_t done, part;
	char *at;

	for (done = 0; done < len && (part = next_piece(&iov, &n, &offset, len - done, &at)); done += part)
		memcpy((char *)buf + done, at, part);
	return done;
}

size_t iov_write(const struct iovec *iov, unsigned n, size_t offset, const void *buf, size_t len)
{
	size_t done, part;
	char *at;

	for (done = 0; done < len && (part = next_piece(&iov, &n, &offset, len - done, &at)); done += part)
		memcpy(at, (const char *)buf + done, part);
	return done;
}

unsigned iov_slice(const struct iovec *iov, unsigned n, size_t offset, size_t len, struct iovec *ret)
{
	unsigned out = 0;
	size_t part;
	char *at;

	for (; len && (part = next_piece(&iov, &n, &offset, len, &at)); len -= part)
		ret[out++] = (struct iovec){ at, part };
	return out;
}
