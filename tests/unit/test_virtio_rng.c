/* SPDX-License-Identifier: MIT */
/* test_virtio_rng.c - entropy arrives, and differs */
#include "tests/unit/virtio_driver.h"
#include "vm/vmm/virtio/rng.h"

static struct driver d;

static void test_fills_buffers(void)
{
	const uint64_t a = 0x100000, b = 0x101000;
	struct vring_used_elem elem;
	uint16_t head;

	driver_start(&d, UINT64_MAX, 16);
	head = put_desc(&d, 0, a, 64, true);
	put_next(&d, 0, head, b, 64, true);
	put_avail(&d, 0, head);
	kick(&d, 0);
	elem = wait_used(&d, 0);
	CHECK(elem.id == head && elem.len == 128);
	CHECK(memcmp(at(&d, a), at(&d, b), 64) != 0);
	CHECK(!((uint8_t *)at(&d, a))[64] && !((uint8_t *)at(&d, b))[64]);
}

static void test_limits(void)
{
	unsigned i;

	driver_start(&d, UINT64_MAX, 16);
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 0x200000, true));
	kick(&d, 0);
	CHECK(wait_used(&d, 0).len == 4096);
	/* A buffer it may only read gets nothing; that is the driver's loss. */
	put_avail(&d, 0, put_desc(&d, 0, 0x100000, 64, false));
	kick(&d, 0);
	CHECK(wait_used(&d, 0).len == 0);
	for (i = 0; i < 16; i++)
		put_avail(&d, 0, put_desc(&d, 0, 0x100000, 1, true));
	kick(&d, 0);
	for (i = 0; i < 16; i++)
		CHECK(wait_used(&d, 0).len == 1);
}

int main(void)
{
	driver_init(&d);
	driver_attach_new(&d, virtio_rng_new);
	TEST(test_fills_buffers);
	TEST(test_limits);
	driver_release(&d);
	return 0;
}
