/* SPDX-License-Identifier: MIT */
/*
 * fuzz_virtqueue.c - a driver that does what the input says: writes anywhere in RAM and to any register
 *
 * The first byte chooses the device. Then come actions: small ones that make chains which are nearly right,
 * and raw ones.
 */
#include "tests/fuzz/virtio_devices.h"

/* A chain of up to four buffers, made available and notified. */
static void put_chain(struct machine_with_device *m, struct reader *r, unsigned queue, unsigned n)
{
	uint8_t *rings = m->ram.host + queue * QUEUE_STRIDE;
	struct vring_desc *desc = (struct vring_desc *)rings;
	struct vring_avail *avail = (struct vring_avail *)(rings + 0x100);
	const uint8_t first = get_u8(r);
	unsigned i, at;

	for (i = 0; i < n; i++) {
		at = (first + i) % QUEUE_NUM;
		desc[at] =
			(struct vring_desc){ .addr = get_u16(r), .len = get_u16(r), .flags = get_u8(r) & 7 };
		if (i + 1 < n)
			desc[at].flags |= VRING_DESC_F_NEXT;
		desc[at].next = (uint16_t)((at + 1) % QUEUE_NUM);
	}
	avail->ring[avail->idx % QUEUE_NUM] = first % QUEUE_NUM;
	avail->idx++;
	set_reg(m, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
}

static void act(struct machine_with_device *m, struct reader *r)
{
	const uint8_t what = get_u8(r);
	uint64_t v;
	size_t i, n, offset;
	char bytes[64];

	switch (what & 7) {
	case 0:
	case 1:
		put_chain(m, r, what >> 3 & 3, 1 + (what >> 5 & 3));
		break;
	case 2: /* bytes into RAM */
		offset = get_u16(r);
		for (i = 0, n = 1 + (what >> 3); i < n && offset + i < RAM_SIZE; i++)
			m->ram.host[offset + i] = get_u8(r);
		break;
	case 3: /* one of the first registers */
		offset = (get_u8(r) & 63) * 4;
		v = get_u32(r);
		set_reg(m, offset, (uint32_t)v);
		break;
	case 4: /* any access */
		offset = get_u16(r) % (VIRTIO_MMIO_SIZE - 7);
		v = get_u64(r);
		if (what & 8)
			m->regs.write(m->regs.opaque, offset, 1u << (what >> 4 & 3), v);
		else
			(void)m->regs.read(m->regs.opaque, offset, 1u << (what >> 4 & 3));
		break;
	case 5:
		machine_start(m, get_u32(r));
		break;
	case 6: /* the console's other end */
		if (m->peer < 0)
			break;
		memset(bytes, what, sizeof(bytes));
		if (what & 8)
			(void)!write(m->peer, bytes, 1 + (what >> 4));
		else
			(void)!read(m->peer, bytes, sizeof(bytes));
		break;
	case 7:
		if (m->disk)
			virtio_blk_drain(m->mmio.dev);
		loop_once(m->loop, 0);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reader r = reader_init(data, size);
	struct machine_with_device m;
	unsigned i;

	machine_make(&m, get_u8(&r));
	machine_start(&m, UINT32_MAX);
	for (i = 0; i < 200 && reader_left(&r); i++)
		act(&m, &r);
	machine_free(&m);
	return 0;
}
