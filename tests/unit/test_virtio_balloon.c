/* SPDX-License-Identifier: MIT */
/* test_virtio_balloon.c - reported pages are given back, and only those */
#include "tests/unit/virtio_driver.h"
#include "vm/vmm/virtio/balloon.h"

enum { INFLATE, DEFLATE, REPORTING };

static const uint64_t a = 0x100000;
static struct driver d;

static uint8_t first_of(uint64_t addr)
{
	return *(uint8_t *)at(&d, addr);
}

static void fill(void)
{
	memset(at(&d, a), 0xaa, 0x10000);
}

static void report(unsigned queue, uint16_t head)
{
	put_avail(&d, queue, head);
	kick(&d, queue);
	CHECK(wait_used(&d, queue).id == head);
}

static void test_reported_pages_are_given_back(void)
{
	uint16_t head;

	driver_start(&d, UINT64_MAX, 16);
	fill();
	head = put_desc(&d, REPORTING, a, 0x2000, true);
	put_next(&d, REPORTING, head, a + 0x4000, 0x1000, true);
	report(REPORTING, head);
	CHECK(!first_of(a) && !first_of(a + 0x1000) && !first_of(a + 0x4000));
	CHECK(first_of(a + 0x2000) == 0xaa && first_of(a + 0x3fff) == 0xaa && first_of(a + 0x5000) == 0xaa);
}

static void test_parts_of_pages_stay(void)
{
	driver_start(&d, UINT64_MAX, 16);
	fill();
	report(REPORTING, put_desc(&d, REPORTING, a + 1, 0x2000, true));
	CHECK(first_of(a) == 0xaa && !first_of(a + 0x1000) && first_of(a + 0x2000) == 0xaa);
	report(REPORTING, put_desc(&d, REPORTING, a + 0x3001, 0x10, true));
	CHECK(first_of(a + 0x3000) == 0xaa);
	/* Not to be written, so not to be given back. */
	report(REPORTING, put_desc(&d, REPORTING, a + 0x4000, 0x1000, false));
	CHECK(first_of(a + 0x4000) == 0xaa);
}

static void test_nothing_else_takes_memory(void)
{
	driver_start(&d, UINT64_MAX, 16);
	fill();
	report(INFLATE, put_desc(&d, INFLATE, a, 0x1000, true));
	report(DEFLATE, put_desc(&d, DEFLATE, a, 0x1000, true));
	CHECK(first_of(a) == 0xaa);
	CHECK(!reg(&d, VIRTIO_MMIO_CONFIG) && !reg(&d, VIRTIO_MMIO_CONFIG + 4));
	/* A driver that did not take the feature. */
	driver_start(&d, ~(UINT64_C(1) << 5), 16);
	fill();
	report(REPORTING, put_desc(&d, REPORTING, a, 0x1000, true));
	CHECK(first_of(a) == 0xaa);
}

int main(void)
{
	driver_init(&d);
	driver_attach_new(&d, virtio_balloon_new);
	TEST(test_reported_pages_are_given_back);
	TEST(test_parts_of_pages_stay);
	TEST(test_nothing_else_takes_memory);
	driver_release(&d);
	return 0;
}
