/* SPDX-License-Identifier: MIT */
/* test_virtio_blk.c - disk requests, from the ring to the file */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "tests/unit/virtio_driver.h"
#include "vm/vmm/virtio/blk.h"

enum { HEADER = 0x100000, DATA = 0x110000, STATUS = 0x300000, DISK_SECTORS = 20000 };

static char dir[] = "/tmp/sbx-blk-XXXXXX";
static const char *file = "disk.qcow2";
static struct loop *loop;
static struct driver d;
static struct qcow2 *disk;

#define sh(...) sh_in(dir, __VA_ARGS__)

static void open_disk(bool writable)
{
	struct chain *chain = NULL;
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	CHECK(!chain_open_path(path, writable, &chain, NULL) && !qcow2_open(loop, chain, &disk, NULL));
}

static void attach(bool writable)
{
	const struct virtio_host host = driver_host(&d);
	struct virtio_device *dev;

	open_disk(writable);
	CHECK(!virtio_blk_new(&host, disk, "root", &dev, NULL));
	driver_attach(&d, dev);
	driver_start(&d, UINT64_MAX, 128);
}

static void detach(void)
{
	virtio_free(d.mmio.dev);
	d.mmio.dev = NULL;
	qcow2_close(disk);
}

/* Put a request with one data buffer into the ring; returns its head. */
static uint16_t put_request(uint32_t type, uint64_t sector, uint64_t data, uint32_t len, bool write)
{
	struct virtio_blk_outhdr *header;
	uint16_t head, n;
	uint64_t gpa;

	gpa = HEADER + 16 * (d.q[0].next_desc % 1024u);
	header = at(&d, gpa);
	*header = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
	*(uint8_t *)at(&d, STATUS) = 0xff;
	head = n = put_desc(&d, 0, gpa, sizeof(*header), false);
	if (len)
		n = put_next(&d, 0, n, data, len, write);
	put_next(&d, 0, n, STATUS, 1, true);
	put_avail(&d, 0, head);
	return head;
}

static uint8_t request(uint32_t type, uint64_t sector, uint64_t data, uint32_t len, bool write)
{
	const uint16_t head = put_request(type, sector, data, len, write);
	struct vring_used_elem elem;
	uint8_t status;

	kick(&d, 0);
	elem = wait_used(&d, 0);
	CHECK(elem.id == head);
	status = *(uint8_t *)at(&d, STATUS);
	CHECK(elem.len == (status == VIRTIO_BLK_S_OK && write ? len : 0) + 1);
	return status;
}

static void fill(uint64_t gpa, size_t len, unsigned key)
{
	uint8_t *p = at(&d, gpa);
	size_t i;

	for (i = 0; i < len; i++)
		p[i] = (uint8_t)((i / 512 + 1) * key + i);
}

static void test_writes_and_reads(void)
{
	attach(true);
	fill(DATA, 100 * 512, 3);
	CHECK(request(VIRTIO_BLK_T_OUT, 1000, DATA, 100 * 512, false) == VIRTIO_BLK_S_OK);
	CHECK(interrupted(&d));
	CHECK(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0, false) == VIRTIO_BLK_S_OK);
	CHECK(request(VIRTIO_BLK_T_IN, 1010, DATA + 0x100000, 90 * 512, true) == VIRTIO_BLK_S_OK);
	CHECK(!memcmp(at(&d, DATA + 0x100000), at(&d, DATA + 10 * 512), 90 * 512));
	detach();
	sh("qemu-img check -q disk.qcow2");
}

static void test_configuration(void)
{
	struct virtio_blk_config config;
	uint64_t offered;
	size_t i;

	attach(true);
	for (i = 0; i < sizeof(config); i++)
		((uint8_t *)&config)[i] = (uint8_t)d.regs.read(d.regs.opaque, VIRTIO_MMIO_CONFIG + i, 1);
	CHECK(config.capacity == DISK_SECTORS && config.blk_size == 512 && config.max_discard_seg == 1);
	CHECK(d.regs.read(d.regs.opaque, VIRTIO_MMIO_CONFIG, 8) == DISK_SECTORS);
	CHECK(d.regs.read(d.regs.opaque, VIRTIO_MMIO_CONFIG + sizeof(config) - 1, 4) == 0);
	offered = d.mmio.dev->offered;
	CHECK(offered >> VIRTIO_BLK_F_DISCARD & 1 && !(offered >> VIRTIO_BLK_F_RO & 1));
	CHECK(request(VIRTIO_BLK_T_GET_ID, 0, DATA, 20, true) == VIRTIO_BLK_S_OK);
	CHECK(!strcmp(at(&d, DATA), "root"));
	detach();

	attach(false);
	CHECK(d.mmio.dev->offered >> VIRTIO_BLK_F_RO & 1);
	CHECK(request(VIRTIO_BLK_T_OUT, 0, DATA, 512, false) == VIRTIO_BLK_S_IOERR);
	CHECK(request(VIRTIO_BLK_T_IN, 0, DATA, 512, true) == VIRTIO_BLK_S_OK);
	detach();
}

/* Header, data and status in buffers of any size. */
static void test_any_layout(void)
{
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_OUT, .sector = 77 };
	uint16_t head, n;

	attach(true);
	fill(DATA, 1024, 9);
	memcpy(at(&d, DATA - sizeof(header)), &header, sizeof(header));
	head = put_desc(&d, 0, DATA - sizeof(header), 5, false);
	n = put_next(&d, 0, head, DATA - sizeof(header) + 5, 611, false);
	n = put_next(&d, 0, n, DATA + 600, 424, false);
	put_next(&d, 0, n, STATUS, 1, true);
	put_avail(&d, 0, head);
	kick(&d, 0);
	wait_used(&d, 0);
	CHECK(*(uint8_t *)at(&d, STATUS) == VIRTIO_BLK_S_OK);

	header.type = VIRTIO_BLK_T_IN;
	memcpy(at(&d, HEADER), &header, sizeof(header));
	head = put_desc(&d, 0, HEADER, sizeof(header), false);
	n = put_next(&d, 0, head, DATA + 0x100000, 1, true);
	put_next(&d, 0, n, DATA + 0x100001, 1024, true); /* and the status */
	put_avail(&d, 0, head);
	kick(&d, 0);
	CHECK(wait_used(&d, 0).len == 1025);
	CHECK(!memcmp(at(&d, DATA), at(&d, DATA + 0x100000), 1024));
	CHECK(*(uint8_t *)at(&d, DATA + 0x100000 + 1024) == VIRTIO_BLK_S_OK);
	detach();
}

static void test_bad_requests(void)
{
	attach(true);
	CHECK(request(VIRTIO_BLK_T_IN, DISK_SECTORS, DATA, 512, true) == VIRTIO_BLK_S_IOERR);
	CHECK(request(VIRTIO_BLK_T_IN, DISK_SECTORS - 1, DATA, 1024, true) == VIRTIO_BLK_S_IOERR);
	CHECK(request(VIRTIO_BLK_T_OUT, UINT64_MAX, DATA, 512, false) == VIRTIO_BLK_S_IOERR);
	CHECK(request(VIRTIO_BLK_T_OUT, 1ull << 55, DATA, 512, false) == VIRTIO_BLK_S_IOERR);
	CHECK(request(VIRTIO_BLK_T_IN, 0, DATA, 513, true) == VIRTIO_BLK_S_IOERR);
	CHECK(request(VIRTIO_BLK_T_OUT, 0, DATA, 100, false) == VIRTIO_BLK_S_IOERR);
	CHECK(request(99, 0, DATA, 512, true) == VIRTIO_BLK_S_UNSUPP);
	CHECK(request(VIRTIO_BLK_T_SCSI_CMD, 0, DATA, 512, false) == VIRTIO_BLK_S_UNSUPP);
	CHECK(!needs_reset(&d));
	/* No place for an answer: the device breaks. */
	put_avail(&d, 0, put_desc(&d, 0, HEADER, 16, false));
	kick(&d, 0);
	CHECK(needs_reset(&d));
	driver_start(&d, UINT64_MAX, 128);
	put_avail(&d, 0, put_desc(&d, 0, STATUS, 1, true));
	kick(&d, 0);
	CHECK(needs_reset(&d));
	detach();
}

static uint8_t range_request(uint32_t type, uint64_t sector, uint32_t n, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes *range = at(&d, DATA);

	*range = (struct virtio_blk_discard_write_zeroes){ .sector = sector,
							   .num_sectors = n,
							   .flags = flags };
	return request(type, 0, DATA, sizeof(*range), false);
}

static void expect_sectors(uint64_t sector, uint32_t n, bool zero)
{
	const uint8_t *p = at(&d, DATA);
	size_t i;

	CHECK(request(VIRTIO_BLK_T_IN, sector, DATA, n * 512, true) == VIRTIO_BLK_S_OK);
	for (i = 0; i < n; i++)
		CHECK(zero ? !p[i * 512] && !memcmp(p + i * 512, p + i * 512 + 1, 511) : p[i * 512] == 0x55);
}

static void test_discard_and_zeroes(void)
{
	attach(true);
	memset(at(&d, DATA), 0x55, 1000 * 512);
	CHECK(request(VIRTIO_BLK_T_OUT, 0, DATA, 1000 * 512, false) == VIRTIO_BLK_S_OK);
	CHECK(range_request(VIRTIO_BLK_T_DISCARD, 128, 256, 0) == VIRTIO_BLK_S_OK);
	expect_sectors(0, 128, false);
	expect_sectors(128, 256, true);
	CHECK(range_request(VIRTIO_BLK_T_WRITE_ZEROES, 401, 333, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) ==
	      VIRTIO_BLK_S_OK);
	expect_sectors(384, 17, false);
	expect_sectors(401, 333, true);
	expect_sectors(734, 266, false);
	CHECK(range_request(VIRTIO_BLK_T_DISCARD, 0, 8, 1) == VIRTIO_BLK_S_UNSUPP);
	CHECK(range_request(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2) == VIRTIO_BLK_S_UNSUPP);
	CHECK(range_request(VIRTIO_BLK_T_DISCARD, 0, UINT32_MAX, 0) == VIRTIO_BLK_S_IOERR);
	CHECK(range_request(VIRTIO_BLK_T_DISCARD, DISK_SECTORS - 1, 2, 0) == VIRTIO_BLK_S_IOERR);
	CHECK(request(VIRTIO_BLK_T_DISCARD, 0, DATA, 32, false) == VIRTIO_BLK_S_IOERR);
	detach();
	sh("qemu-img check -q disk.qcow2");
}

static void test_many_in_flight(void)
{
	struct vring_used_elem elem;
	unsigned i, n = 0;

	attach(true);
	fill(DATA, 40 * 8 * 512, 5);
	for (i = 0; i < 40; i++)
		put_request(VIRTIO_BLK_T_OUT, 5000 + i * 8, DATA + i * 8 * 512, 8 * 512, false);
	kick(&d, 0);
	/* A capture: the answers are there when the drain returns. */
	virtio_blk_drain(d.mmio.dev);
	while (take_used(&d, 0, &elem))
		n++;
	CHECK(n == 40);
	CHECK(request(VIRTIO_BLK_T_IN, 5000, DATA + 0x100000, 40 * 8 * 512, true) == VIRTIO_BLK_S_OK);
	CHECK(!memcmp(at(&d, DATA), at(&d, DATA + 0x100000), 40 * 8 * 512));
	detach();
}

/* A capture with requests under way: each is answered before the state is saved, or not yet taken. */
static void test_state_survives(void)
{
	const struct virtio_host host = driver_host(&d);
	struct buf state = { 0 };
	struct vring_used_elem elem;
	struct virtio_device *dev;
	struct reader r;
	unsigned i, n = 0;

	attach(true);
	for (i = 0; i < 40; i++)
		put_request(VIRTIO_BLK_T_IN, 5000, DATA + i * 0x4000, 0x4000, true);
	kick(&d, 0);
	virtio_mmio_save(&d.mmio, &state);
	CHECK(!state.failed);
	virtio_free(d.mmio.dev);
	CHECK(!virtio_blk_new(&host, disk, "root", &dev, NULL));
	d.mmio = (struct virtio_mmio){ .dev = dev };
	r = reader_init(buf_bytes(&state), state.len);
	CHECK(!virtio_mmio_load(&d.mmio, &r, NULL) && !reader_left(&r));
	virtio_loaded(dev);
	while (n < 40) {
		CHECK(!loop_once(loop, 2000));
		while (take_used(&d, 0, &elem))
			n++;
	}
	CHECK(request(VIRTIO_BLK_T_IN, 5000, DATA, 512, true) == VIRTIO_BLK_S_OK);
	buf_release(&state);
	detach();
}

/* A reset with requests under way: afterwards nobody touches the guest's memory. */
static void test_reset_in_flight(void)
{
	uint8_t *before;
	unsigned i;

	attach(true);
	for (i = 0; i < 40; i++)
		put_request(VIRTIO_BLK_T_IN, 5000, DATA + i * 0x4000, 0x4000, true);
	kick(&d, 0);
	driver_start(&d, UINT64_MAX, 128);
	before = malloc(RAM_SIZE);
	memcpy(before, d.ram.host, RAM_SIZE);
	qcow2_drain(disk);
	for (i = 0; i < 10; i++)
		CHECK(!loop_once(loop, 10));
	CHECK(!memcmp(before, d.ram.host, RAM_SIZE));
	free(before);
	CHECK(request(VIRTIO_BLK_T_IN, 5000, DATA, 512, true) == VIRTIO_BLK_S_OK);
	detach();
}

/* Freed with requests under way. */
static void test_freed_in_flight(void)
{
	unsigned i;

	attach(true);
	for (i = 0; i < 40; i++)
		put_request(VIRTIO_BLK_T_IN, 5000, DATA + i * 0x4000, 0x4000, true);
	kick(&d, 0);
	detach();
	CHECK(!loop_once(loop, 10));
}

/* ---- a disk of the host's that is full */

static unsigned nfull;

static void on_full(void *arg)
{
	(void)arg;
	nfull++;
}

/* Write 64 KiB, each time elsewhere, until there is no room; returns how many were written. */
static unsigned write_until_full(void)
{
	struct vring_used_elem elem;
	unsigned n;

	for (n = 0;; n++) {
		put_request(VIRTIO_BLK_T_OUT, n * 128, DATA, 0x10000, false);
		kick(&d, 0);
		while (!take_used(&d, 0, &elem)) {
			CHECK(!needs_reset(&d) && !loop_once(loop, 2000));
			if (nfull)
				return n;
		}
		CHECK(*(uint8_t *)at(&d, STATUS) == VIRTIO_BLK_S_OK);
	}
}

static void attach_small(void)
{
	file = "small/disk.qcow2";
	nfull = 0;
	sh("rm -f small/*; qemu-img create -q -f qcow2 small/disk.qcow2 %d", DISK_SECTORS * 512);
	attach(true);
	fill(DATA, 0x10000, 5);
}

static void test_full_writes_fail(void)
{
	unsigned n = 0;

	attach_small();
	while (request(VIRTIO_BLK_T_OUT, n * 128, DATA, 0x10000, false) == VIRTIO_BLK_S_OK)
		n++;
	CHECK(n > 4 && n < 40);
	detach();
}

static void test_full_writes_are_kept(void)
{
	unsigned n, i;

	attach_small();
	virtio_blk_on_full(d.mmio.dev, on_full, NULL);
	sh("head -c 1000000 /dev/zero > small/ballast");
	n = write_until_full();
	CHECK(n > 4 && n < 40);
	/* Still none: kept once more. */
	nfull = 0;
	virtio_blk_retry(d.mmio.dev);
	while (!nfull)
		CHECK(!loop_once(loop, 2000));
	/* A drain has nothing to wait for, and does not answer it. */
	virtio_blk_drain(d.mmio.dev);
	sh("rm small/ballast");
	virtio_blk_retry(d.mmio.dev);
	wait_used(&d, 0);
	CHECK(*(uint8_t *)at(&d, STATUS) == VIRTIO_BLK_S_OK);
	for (i = 0; i <= n; i++) {
		CHECK(request(VIRTIO_BLK_T_IN, i * 128, DATA + 0x100000, 0x10000, true) == VIRTIO_BLK_S_OK);
		CHECK(!memcmp(at(&d, DATA), at(&d, DATA + 0x100000), 0x10000));
	}
	detach();
	sh("qemu-img check -q small/disk.qcow2 || [ $? -eq 3 ]"); /* 3: clusters that nothing uses */
}

/* The ring they came from is no more. */
static void test_a_reset_forgets_kept_writes(void)
{
	attach_small();
	virtio_blk_on_full(d.mmio.dev, on_full, NULL);
	write_until_full();
	driver_start(&d, UINT64_MAX, 128);
	virtio_blk_retry(d.mmio.dev);
	CHECK(request(VIRTIO_BLK_T_IN, 0, DATA + 0x100000, 512, true) == VIRTIO_BLK_S_OK);
	nfull = 0;
	put_request(VIRTIO_BLK_T_OUT, 15000, DATA, 0x10000, false);
	kick(&d, 0);
	while (!nfull)
		CHECK(!loop_once(loop, 2000));
	detach(); /* with one kept */
}

/* A tmpfs of 2 MiB that only we see; false: not allowed here. */
static bool mount_small(void)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/small", dir);
	return !unshare(CLONE_NEWNS) && !mkdir(path, 0700) &&
	       !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
	       !mount("small", path, "tmpfs", 0, "size=2m");
}

int main(void)
{
	scratch_dir(dir);
	const bool small = mount_small(); /* before there are threads */
	sh("qemu-img create -q -f qcow2 disk.qcow2 %d", DISK_SECTORS * 512);
	loop = driver_init(&d);
	TEST(test_writes_and_reads);
	TEST(test_configuration);
	TEST(test_any_layout);
	TEST(test_bad_requests);
	TEST(test_discard_and_zeroes);
	TEST(test_many_in_flight);
	TEST(test_state_survives);
	TEST(test_reset_in_flight);
	TEST(test_freed_in_flight);
	if (small) {
		TEST(test_full_writes_fail);
		TEST(test_full_writes_are_kept);
		TEST(test_a_reset_forgets_kept_writes);
		sh("umount small");
	}
	driver_release(&d);
	return 0;
}
