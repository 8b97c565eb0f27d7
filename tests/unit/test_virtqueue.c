/* SPDX-License-Identifier: MIT */
/* test_virtqueue.c - the walker of the rings, and what it says to drivers that break the rules */
#include <errno.h>

#include "tests/unit/virtio_driver.h"

static struct loop *loop;
static struct driver d;

/* ---- a device that keeps what it is given */

struct probe {
	struct virtio_device dev;
	bool hold; /* take nothing */
	bool keep; /* take, and do not give back */
	unsigned taken;
	struct virtq_chain chain;
};

static struct probe *probe;

static void probe_notify(struct virtio_device *dev, unsigned queue)
{
	(void)dev;
	while (!probe->hold && virtq_pop(&probe->dev.queues[queue], &probe->chain)) {
		probe->taken++;
		if (!probe->keep)
			virtq_push(&probe->dev.queues[queue], probe->chain.head, probe->chain.epoch,
				   (uint32_t)probe->chain.in_len);
	}
}

static void probe_reset(struct virtio_device *dev)
{
	(void)dev;
}

static const struct virtio_ops probe_ops = { .name = "probe",
					     .id = 42,
					     .nqueues = 2,
					     .queue_size = 16,
					     .notify = probe_notify,
					     .reset = probe_reset };

static void start(uint64_t mask)
{
	const struct virtio_host host = driver_host(&d);

	if (!d.mmio.dev) {
		probe = virtio_new(sizeof(*probe), &probe_ops, &host, 0, NULL);
		CHECK(probe);
		driver_attach(&d, &probe->dev);
	}
	driver_start(&d, mask, 16);
	while (reg(&d, VIRTIO_MMIO_INTERRUPT_STATUS))
		set_reg(&d, VIRTIO_MMIO_INTERRUPT_ACK, 3);
	interrupted(&d);
	probe->taken = 0;
	probe->hold = probe->keep = false;
}

static void test_takes_chains(void)
{
	const uint64_t a = 0x100000, b = 0x200000;
	struct vring_used_elem elem;
	uint16_t head, n;

	start(UINT64_MAX);
	head = put_desc(&d, 0, a, 100, false);
	n = put_next(&d, 0, head, a + 100, 50, false);
	put_next(&d, 0, n, b, 4096, true);
	put_avail(&d, 0, head);
	kick(&d, 0);
	CHECK(probe->taken == 1);
	CHECK(probe->chain.nout == 2 && probe->chain.nin == 1);
	CHECK(probe->chain.out_len == 150 && probe->chain.in_len == 4096);
	CHECK(probe->chain.iov[0].iov_base == at(&d, a) && probe->chain.iov[0].iov_len == 100);
	CHECK(probe->chain.iov[1].iov_base == at(&d, a + 100) && probe->chain.iov[1].iov_len == 50);
	CHECK(probe->chain.iov[2].iov_base == at(&d, b));
	CHECK(take_used(&d, 0, &elem) && elem.id == head && elem.len == 4096);
	CHECK(interrupted(&d) && reg(&d, VIRTIO_MMIO_INTERRUPT_STATUS) == VIRTIO_MMIO_INT_VRING);
	set_reg(&d, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
	CHECK(reg(&d, VIRTIO_MMIO_INTERRUPT_STATUS) == 0);
}

/* An indirect table at `gpa` with n buffers of 16 bytes each. */
static struct vring_desc *indirect_table(uint64_t gpa, unsigned n)
{
	struct vring_desc *t = at(&d, gpa);
	unsigned i;

	for (i = 0; i < n; i++)
		t[i] = (struct vring_desc){ .addr = 0x100000 + 16 * i,
					    .len = 16,
					    .flags = i + 1 < n ? VRING_DESC_F_NEXT : 0,
					    .next = (uint16_t)(i + 1) };
	return t;
}

static uint16_t put_indirect(uint64_t gpa, uint32_t len)
{
	const uint16_t head = put_desc(&d, 0, gpa, len, false);

	d.q[0].desc[head].flags |= VRING_DESC_F_INDIRECT;
	put_avail(&d, 0, head);
	return head;
}

static void test_indirect(void)
{
	uint16_t head;

	start(UINT64_MAX);
	indirect_table(0x80000, 16);
	put_indirect(0x80000, 16 * 16);
	kick(&d, 0);
	CHECK(probe->taken == 1 && probe->chain.nout == 16 && probe->chain.out_len == 256);

	/* A direct buffer first, then the table. */
	head = put_desc(&d, 0, 0x100000, 8, false);
	put_next(&d, 0, head, 0x80000, 15 * 16, false);
	indirect_table(0x80000, 15);
	d.q[0].desc[d.q[0].desc[head].next].flags |= VRING_DESC_F_INDIRECT;
	put_avail(&d, 0, head);
	kick(&d, 0);
	CHECK(probe->taken == 2 && probe->chain.nout == 16 && probe->chain.out_len == 248);
	CHECK(!needs_reset(&d));
}

static void test_indices_wrap(void)
{
	struct vring_used_elem elem;
	unsigned i;

	start(UINT64_MAX & ~(1ull << VIRTIO_RING_F_EVENT_IDX));
	for (i = 0; i < 140000; i++) {
		put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
		kick(&d, 0);
		CHECK(take_used(&d, 0, &elem));
	}
	CHECK(probe->taken == 140000 && !needs_reset(&d));
}

static void test_interrupt_suppression(void)
{
	start(UINT64_MAX & ~(1ull << VIRTIO_RING_F_EVENT_IDX));
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	d.q[0].avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	kick(&d, 0);
	CHECK(probe->taken == 1 && !interrupted(&d));
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	d.q[0].avail->flags = 0;
	kick(&d, 0);
	CHECK(probe->taken == 2 && interrupted(&d));
}

static void test_event_idx(void)
{
	uint16_t *used_event, *avail_event;
	unsigned i;

	start(UINT64_MAX);
	used_event = &d.q[0].avail->ring[16];
	avail_event = (uint16_t *)&d.q[0].used->ring[16];
	*used_event = 3;
	for (i = 0; i < 3; i++) {
		put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
		kick(&d, 0);
		/* After a start the first is always reported: nobody knows what was signalled before. */
		CHECK(interrupted(&d) == (i == 0));
		CHECK(*avail_event == d.q[0].avail_idx);
	}
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	kick(&d, 0);
	CHECK(interrupted(&d));
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	kick(&d, 0);
	CHECK(!interrupted(&d));
}

static void test_reset_disowns_chains(void)
{
	uint32_t epoch;
	uint16_t head;

	start(UINT64_MAX);
	probe->keep = true;
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	kick(&d, 0);
	head = probe->chain.head;
	epoch = probe->chain.epoch;
	CHECK(probe->taken == 1 && virtq_alive(&probe->dev.queues[0], epoch));
	start(UINT64_MAX);
	CHECK(!virtq_alive(&probe->dev.queues[0], epoch));
	virtq_push(&probe->dev.queues[0], head, epoch, 1);
	CHECK(d.q[0].used->idx == 0 && !interrupted(&d));
}

static void test_nothing_before_driver_ok(void)
{
	start(UINT64_MAX);
	driver_negotiate(&d, UINT64_MAX);
	driver_queue(&d, 0, 16);
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	kick(&d, 0);
	CHECK(probe->taken == 0 && d.q[0].used->idx == 0);
	set_reg(&d, VIRTIO_MMIO_STATUS, reg(&d, VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
	/* What was there before is noticed without another notification. */
	while (!probe->taken)
		CHECK(!loop_once(loop, 2000));
	CHECK(d.q[0].used->idx == 1);
}

/* ---- drivers that break the rules */

/* The last thing the driver did must have broken the device, harmed nothing, and be mended by a reset. */
static void expect_broken(const char *what)
{
	const unsigned taken = probe->taken;
	const uint16_t used = d.q[0].used->idx;

	kick(&d, 0);
	if (!needs_reset(&d) || probe->taken != taken || d.q[0].used->idx != used)
		fprintf(stderr, "%s was accepted\n", what);
	CHECK(needs_reset(&d) && probe->taken == taken && d.q[0].used->idx == used);
	CHECK(interrupted(&d) && reg(&d, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	/* Broken it stays, even when the ring is fine again. */
	kick(&d, 0);
	kick(&d, 1);
	CHECK(probe->taken == taken);
	start(UINT64_MAX);
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	kick(&d, 0);
	CHECK(probe->taken == 1 && !needs_reset(&d));
	start(UINT64_MAX);
}

static void test_bad_buffers(void)
{
	const struct {
		uint64_t addr;
		uint32_t len;
	} bad[] = { { RAM_SIZE, 1 },   { RAM_SIZE - 1, 2 },   { 0, RAM_SIZE + 1 },
		    { 0, UINT32_MAX }, { UINT64_MAX, 1 },     { UINT64_MAX - 4, UINT32_MAX },
		    { 0xd0000000, 4 }, { 0x100000000, 4096 }, { 0x100000, 0 } };
	unsigned i;

	start(UINT64_MAX);
	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		put_avail(&d, 0, put_desc(&d, 0, bad[i].addr, bad[i].len, i & 1));
		expect_broken("a bad buffer");
	}
}

static void test_bad_chains(void)
{
	uint16_t head, n;
	unsigned i;

	start(UINT64_MAX);
	put_avail(&d, 0, 16);
	expect_broken("a head outside of the table");
	put_avail(&d, 0, UINT16_MAX);
	expect_broken("a head outside of the table");

	head = put_desc(&d, 0, 0x100000, 1, false);
	put_next(&d, 0, head, 0x100000, 1, false);
	d.q[0].desc[head].next = 16;
	put_avail(&d, 0, head);
	expect_broken("a next outside of the table");

	head = put_desc(&d, 0, 0x100000, 1, false);
	d.q[0].desc[head].flags = VRING_DESC_F_NEXT;
	d.q[0].desc[head].next = head;
	put_avail(&d, 0, head);
	expect_broken("a loop of one");

	head = n = put_desc(&d, 0, 0x100000, 1, false);
	for (i = 1; i < 16; i++)
		n = put_next(&d, 0, n, 0x100000, 1, false);
	d.q[0].desc[n].flags |= VRING_DESC_F_NEXT;
	d.q[0].desc[n].next = head;
	put_avail(&d, 0, head);
	expect_broken("a loop of all");

	head = put_desc(&d, 0, 0x100000, 1, true);
	put_next(&d, 0, head, 0x100000, 1, false);
	put_avail(&d, 0, head);
	expect_broken("a readable buffer behind a writable one");
}

static void test_bad_indirect(void)
{
	struct vring_desc *t;
	uint16_t head;

	start(UINT64_MAX);
	put_indirect(0x80000, 0);
	expect_broken("an empty table");
	indirect_table(0x80000, 16);
	put_indirect(0x80000, 16 * 16 - 1);
	expect_broken("a table of odd size");
	indirect_table(0x80000, 17);
	put_indirect(0x80000, 17 * 16);
	expect_broken("a table longer than the queue");
	put_indirect(RAM_SIZE - 16, 32);
	expect_broken("a table outside of memory");
	put_indirect(UINT64_MAX - 15, 16);
	expect_broken("a table outside of memory");
	put_indirect(0x80001, 32);
	expect_broken("a table at an odd address");

	t = indirect_table(0x80000, 4);
	t[2].flags |= VRING_DESC_F_INDIRECT;
	put_indirect(0x80000, 4 * 16);
	expect_broken("a table in a table");
	t = indirect_table(0x80000, 4);
	t[2].next = 4;
	put_indirect(0x80000, 4 * 16);
	expect_broken("a next outside of the indirect table");
	t = indirect_table(0x80000, 4);
	t[2].next = 0;
	put_indirect(0x80000, 4 * 16);
	expect_broken("a loop in the indirect table");

	indirect_table(0x80000, 4);
	head = put_indirect(0x80000, 4 * 16);
	d.q[0].desc[head].flags |= VRING_DESC_F_NEXT;
	expect_broken("a chain that goes on behind a table");
	head = put_desc(&d, 0, 0x100000, 8, false);
	put_next(&d, 0, head, 0x80000, 16 * 16, false);
	indirect_table(0x80000, 16);
	d.q[0].desc[d.q[0].desc[head].next].flags |= VRING_DESC_F_INDIRECT;
	put_avail(&d, 0, head);
	expect_broken("more buffers than the queue has");

	start(UINT64_MAX & ~(1ull << VIRTIO_RING_F_INDIRECT_DESC));
	indirect_table(0x80000, 4);
	put_indirect(0x80000, 4 * 16);
	expect_broken("a table that was not negotiated");
}

static void test_bad_indices(void)
{
	unsigned i;

	start(UINT64_MAX);
	d.q[0].avail->idx = 17;
	expect_broken("an index that jumped");
	d.q[0].avail->idx = UINT16_MAX;
	expect_broken("an index that went back");

	/* As many chains at once as there are descriptors, and not one more. */
	probe->keep = true;
	for (i = 0; i < 16; i++) {
		put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
		kick(&d, 0);
	}
	CHECK(probe->taken == 16 && !needs_reset(&d));
	put_avail(&d, 0, 0);
	expect_broken("a chain that is still in use");
}

static void test_bad_rings(void)
{
	const struct {
		uint64_t desc, avail, used;
		uint32_t num;
	} bad[] = { { 0x1000, 0x2000, 0x3000, 0 },          { 0x1000, 0x2000, 0x3000, 15 },
		    { 0x1000, 0x2000, 0x3000, 32 },         { 0x1000, 0x2000, 0x3000, 65536 + 16 },
		    { 0x1008, 0x2000, 0x3000, 16 },         { 0x1000, 0x2001, 0x3000, 16 },
		    { 0x1000, 0x2000, 0x3002, 16 },         { RAM_SIZE - 255, 0x2000, 0x3000, 16 },
		    { RAM_SIZE - 240, 0x2000, 0x3000, 16 }, { 0x1000, RAM_SIZE - 36, 0x3000, 16 },
		    { 0x1000, 0x2000, RAM_SIZE - 132, 16 }, { UINT64_MAX - 15, 0x2000, 0x3000, 16 },
		    { 0x1000, 1ull << 63, 0x3000, 16 },     { 0x1000, 0x2000, 0xfffffff0, 16 } };
	unsigned i;

	start(UINT64_MAX);
	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		driver_negotiate(&d, UINT64_MAX);
		set_reg(&d, VIRTIO_MMIO_QUEUE_SEL, 0);
		set_reg(&d, VIRTIO_MMIO_QUEUE_NUM, bad[i].num);
		set_addr(&d, VIRTIO_MMIO_QUEUE_DESC_LOW, bad[i].desc);
		set_addr(&d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, bad[i].avail);
		set_addr(&d, VIRTIO_MMIO_QUEUE_USED_LOW, bad[i].used);
		set_reg(&d, VIRTIO_MMIO_QUEUE_READY, 1);
		CHECK(needs_reset(&d) && !reg(&d, VIRTIO_MMIO_QUEUE_READY));
	}
}

/* ---- registers */

static void test_registers(void)
{
	start(UINT64_MAX);
	CHECK(reg(&d, VIRTIO_MMIO_MAGIC_VALUE) == 0x74726976 && reg(&d, VIRTIO_MMIO_VERSION) == 2);
	CHECK(reg(&d, VIRTIO_MMIO_DEVICE_ID) == 42);
	CHECK(reg(&d, VIRTIO_MMIO_SHM_LEN_LOW) == UINT32_MAX);
	/* Other widths than 32 bits, and registers that are not there, are ignored. */
	CHECK(!d.regs.read(d.regs.opaque, VIRTIO_MMIO_VERSION, 1));
	CHECK(!d.regs.read(d.regs.opaque, 0xf0, 4));
	d.regs.write(d.regs.opaque, VIRTIO_MMIO_STATUS, 1, 0);
	CHECK(reg(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK);
	/* No such queue. */
	set_reg(&d, VIRTIO_MMIO_QUEUE_SEL, 2);
	CHECK(!reg(&d, VIRTIO_MMIO_QUEUE_NUM_MAX) && !reg(&d, VIRTIO_MMIO_QUEUE_READY));
	set_reg(&d, VIRTIO_MMIO_QUEUE_NUM, 4);
	set_reg(&d, VIRTIO_MMIO_QUEUE_READY, 1);
	set_reg(&d, VIRTIO_MMIO_QUEUE_SEL, UINT32_MAX);
	set_reg(&d, VIRTIO_MMIO_QUEUE_READY, 1);
	kick(&d, 2);
	kick(&d, UINT32_MAX);
	CHECK(!needs_reset(&d));
	/* A queue does not move while it is ready. */
	set_reg(&d, VIRTIO_MMIO_QUEUE_SEL, 0);
	set_addr(&d, VIRTIO_MMIO_QUEUE_DESC_LOW, 0);
	set_reg(&d, VIRTIO_MMIO_QUEUE_NUM, 1);
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	kick(&d, 0);
	CHECK(probe->taken == 1);
	/* Stopped, it does not work; the other one does. */
	set_reg(&d, VIRTIO_MMIO_QUEUE_READY, 0);
	CHECK(!reg(&d, VIRTIO_MMIO_QUEUE_READY));
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	kick(&d, 0);
	CHECK(probe->taken == 1);
	put_avail(&d, 1, put_desc(&d, 1, 0x100000, 1, true));
	kick(&d, 1);
	CHECK(probe->taken == 2);
}

static void test_features(void)
{
	start(UINT64_MAX);
	driver_negotiate(&d, ~(1ull << VIRTIO_F_VERSION_1));
	CHECK(!(reg(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK));
	/* Nor does it start then. */
	set_reg(&d, VIRTIO_MMIO_STATUS, 0xf);
	CHECK(!(reg(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK));

	driver_negotiate(&d, 0);
	set_reg(&d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	set_reg(&d, VIRTIO_MMIO_DRIVER_FEATURES, 1 | 1u << 31); /* one that was not offered */
	set_reg(&d, VIRTIO_MMIO_STATUS, 0xb);
	CHECK(!(reg(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK));

	/* Once agreed on, they stay. */
	start(UINT64_MAX);
	set_reg(&d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	set_reg(&d, VIRTIO_MMIO_DRIVER_FEATURES, 0);
	CHECK(virtio_has(&probe->dev, VIRTIO_RING_F_EVENT_IDX));
}

/* ---- saved state */

static void load_into_fresh(const struct buf *state, size_t len, int expect)
{
	const struct virtio_host host = driver_host(&d);
	struct reader r = reader_init(buf_bytes(state), len);
	struct probe *fresh = virtio_new(sizeof(*fresh), &probe_ops, &host, 0, NULL);
	struct err err = { 0 };
	int rc;

	CHECK(fresh);
	d.mmio.dev = &fresh->dev;
	rc = virtio_mmio_load(&d.mmio, &r, &err);
	CHECK(rc == expect && (!rc || err.text[0]));
	if (rc) {
		virtio_free(&fresh->dev);
		d.mmio.dev = &probe->dev;
		return;
	}
	virtio_free(&probe->dev);
	probe = fresh;
	virtio_loaded(&probe->dev);
}

static void test_state_survives(void)
{
	struct buf state = { 0 };
	size_t i;

	start(UINT64_MAX);
	for (i = 0; i < 21; i++) {
		put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
		kick(&d, 0);
	}
	/* One that is notified but not looked at. */
	probe->hold = true;
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	virtio_mmio_save(&d.mmio, &state);
	CHECK(!state.failed && reg(&d, VIRTIO_MMIO_INTERRUPT_STATUS));

	/* Anything cut off is refused. */
	for (i = 0; i < state.len; i++)
		load_into_fresh(&state, i, -EINVAL);

	interrupted(&d);
	load_into_fresh(&state, state.len, 0);
	CHECK(interrupted(&d)); /* the last may have been lost */
	while (!probe->taken)
		CHECK(!loop_once(loop, 2000));
	CHECK(d.q[0].used->idx == 22 && probe->taken == 1);
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	kick(&d, 0);
	CHECK(d.q[0].used->idx == 23 && !needs_reset(&d));
	buf_release(&state);
}

static void test_broken_state_survives(void)
{
	struct buf state = { 0 };

	start(UINT64_MAX);
	probe->keep = true;
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	put_avail(&d, 0, 99);
	kick(&d, 0);
	CHECK(probe->taken == 1 && needs_reset(&d));
	virtio_mmio_save(&d.mmio, &state);
	load_into_fresh(&state, state.len, 0);
	CHECK(needs_reset(&d));
	start(UINT64_MAX);
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	kick(&d, 0);
	CHECK(probe->taken == 1 && !needs_reset(&d));
	buf_release(&state);
}

static void test_bad_state(void)
{
	struct buf state = { 0 };
	uint8_t *p;
	size_t i;

	start(UINT64_MAX);
	virtio_mmio_save(&d.mmio, &state);
	p = buf_bytes(&state);
	/* After three selectors: version, id, features, status, isr, config generation, number of queues;
	 * then for each queue size, readiness, three addresses and two indices. */
	const struct {
		size_t offset;
		uint8_t value;
	} bad[] = { { 12, 99 },   { 13, 43 },   { 17, 0xff }, { 25, 0x04 }, { 26, 4 }, { 34, 3 },
		    { 36, 15 },   { 36, 0 },    { 37, 1 },    { 39, 1 },    { 46, 1 }, { 47, 1 },
		    { 54, 0xff }, { 62, 0xff }, { 63, 7 },    { 65, 7 } };

	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		const uint8_t was = p[bad[i].offset];

		CHECK(was != bad[i].value);
		p[bad[i].offset] = bad[i].value;
		load_into_fresh(&state, state.len, -EINVAL);
		p[bad[i].offset] = was;
	}
	load_into_fresh(&state, state.len, 0);
	buf_release(&state);
}

int main(void)
{
	loop = driver_init(&d);
	TEST(test_takes_chains);
	TEST(test_indirect);
	TEST(test_indices_wrap);
	TEST(test_interrupt_suppression);
	TEST(test_event_idx);
	TEST(test_reset_disowns_chains);
	TEST(test_nothing_before_driver_ok);
	TEST(test_bad_buffers);
	TEST(test_bad_chains);
	TEST(test_bad_indirect);
	TEST(test_bad_indices);
	TEST(test_bad_rings);
	TEST(test_registers);
	TEST(test_features);
	TEST(test_state_survives);
	TEST(test_broken_state_survives);
	TEST(test_bad_state);
	driver_release(&d);
	return 0;
}
