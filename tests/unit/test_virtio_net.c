/* SPDX-License-Identifier: MIT */
/* test_virtio_net.c - frames arrive whole, in however many buffers, and wait where there is no room */
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/virtio_driver.h"
#include "vm/net/link.h"
#include "vm/vmm/virtio/net.h"

enum { RX, TX, HEADER = sizeof(struct virtio_net_hdr_mrg_rxbuf), BUFFERS = 0x100000 };

static struct driver d;
static int peer;

static void fill(uint8_t *frame, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		frame[i] = (uint8_t)(i * 7 + n);
}

static void offer(uint64_t gpa, uint32_t len)
{
	put_avail(&d, RX, put_desc(&d, RX, gpa, len, true));
}

static void run_loop(void)
{
	while (loop_once(d.loop, 20) > 0)
		;
}

static void test_configuration(void)
{
	static const uint8_t mac[] = LINK_MAC_BYTES;
	unsigned i;

	driver_start(&d, UINT64_MAX, 16);
	CHECK(reg(&d, VIRTIO_MMIO_DEVICE_ID) == VIRTIO_ID_NET);
	for (i = 0; i < 6; i++)
		CHECK(d.regs.read(d.regs.opaque, VIRTIO_MMIO_CONFIG + i, 1) == mac[i]);
	CHECK(d.regs.read(d.regs.opaque, VIRTIO_MMIO_CONFIG + offsetof(struct virtio_net_config, mtu), 2) ==
	      LINK_MTU);
	CHECK(!virtio_has(d.mmio.dev, VIRTIO_NET_F_CSUM) && virtio_has(d.mmio.dev, VIRTIO_NET_F_MRG_RXBUF));
}

static void test_sends(void)
{
	uint8_t frame[100], got[LINK_FRAME_MAX];
	uint16_t head;

	driver_start(&d, UINT64_MAX, 16);
	fill(frame, sizeof(frame));
	/* The header and the frame cut at odd places. */
	memcpy(at(&d, BUFFERS + HEADER), frame, 30);
	memcpy(at(&d, BUFFERS + 0x1000), frame + 30, 70);
	head = put_desc(&d, TX, BUFFERS, HEADER + 30, false);
	put_next(&d, TX, head, BUFFERS + 0x1000, 70, false);
	put_avail(&d, TX, head);
	kick(&d, TX);
	CHECK(wait_used(&d, TX).id == head);
	CHECK(recv(peer, got, sizeof(got), MSG_DONTWAIT) == sizeof(frame));
	CHECK(!memcmp(got, frame, sizeof(frame)));
	/* Too short for a frame, or too long: lost, and the buffers come back. */
	put_avail(&d, TX, put_desc(&d, TX, BUFFERS, HEADER + 13, false));
	put_avail(&d, TX, put_desc(&d, TX, BUFFERS, HEADER + LINK_FRAME_MAX + 1, false));
	put_avail(&d, TX, put_desc(&d, TX, BUFFERS, HEADER - 1, false));
	kick(&d, TX);
	wait_used(&d, TX);
	wait_used(&d, TX);
	wait_used(&d, TX);
	CHECK(recv(peer, got, sizeof(got), MSG_DONTWAIT) < 0);
}

static void test_full_socket_stops_the_queue(void)
{
	static uint8_t got[LINK_FRAME_MAX];
	struct vring_used_elem elem;
	unsigned sent = 0, received = 0, i;

	driver_start(&d, UINT64_MAX, 256);
	for (i = 0; i < 256; i++)
		put_avail(&d, TX, put_desc(&d, TX, BUFFERS, HEADER + LINK_FRAME_MAX, false));
	kick(&d, TX);
	run_loop();
	while (take_used(&d, TX, &elem))
		sent++;
	CHECK(sent > 0 && sent < 256);
	while (received < 256) {
		if (recv(peer, got, sizeof(got), MSG_DONTWAIT) > 0)
			received++;
		else
			CHECK(!loop_once(d.loop, 2000));
	}
	while (take_used(&d, TX, &elem))
		sent++;
	CHECK(sent == 256);
}

static void test_receives_into_several_buffers(void)
{
	static uint8_t frame[5000];
	const struct virtio_net_hdr_mrg_rxbuf *header = at(&d, BUFFERS);
	unsigned i;

	driver_start(&d, UINT64_MAX, 16);
	fill(frame, sizeof(frame));
	for (i = 0; i < 2; i++)
		offer(BUFFERS + i * 0x1000, 2048);
	kick(&d, RX);
	CHECK(send(peer, frame, sizeof(frame), 0) == sizeof(frame));
	run_loop();
	/* Two are not enough, and none is used. */
	CHECK(d.q[RX].used->idx == 0);
	offer(BUFFERS + 0x2000, 2048);
	kick(&d, RX);
	CHECK(d.q[RX].used->idx == 3 && header->num_buffers == 3);
	CHECK(wait_used(&d, RX).len == 2048 && wait_used(&d, RX).len == 2048);
	CHECK(wait_used(&d, RX).len == HEADER + 5000 - 2 * 2048);
	CHECK(!memcmp(at(&d, BUFFERS + HEADER), frame, 2048 - HEADER));
	CHECK(!memcmp(at(&d, BUFFERS + 0x1000), frame + 2048 - HEADER, 2048));
	CHECK(!memcmp(at(&d, BUFFERS + 0x2000), frame + 2 * 2048 - HEADER, 5000 + HEADER - 2 * 2048));
	CHECK(interrupted(&d));
}

static void test_without_merging(void)
{
	uint8_t frame[3000];

	driver_start(&d, ~(1ull << VIRTIO_NET_F_MRG_RXBUF), 16);
	fill(frame, sizeof(frame));
	offer(BUFFERS, 2048);
	offer(BUFFERS + 0x1000, 2048);
	kick(&d, RX);
	CHECK(send(peer, frame, sizeof(frame), 0) > 0 && send(peer, frame, 1000, 0) == 1000);
	CHECK(wait_used(&d, RX).len == HEADER + 1000);
	CHECK(!memcmp(at(&d, BUFFERS + HEADER), frame, 1000));
}

static void test_a_buffer_without_room_breaks_it(void)
{
	driver_start(&d, UINT64_MAX, 16);
	offer(BUFFERS, HEADER);
	kick(&d, RX);
	CHECK(send(peer, "frame of more than", 18, 0) == 18);
	run_loop();
	CHECK(needs_reset(&d));
}

static void test_held_frames_wait(void)
{
	driver_start(&d, UINT64_MAX, 16);
	virtio_net_hold(d.mmio.dev, true);
	offer(BUFFERS, 2048);
	kick(&d, RX);
	CHECK(send(peer, "frame of more than", 18, 0) == 18);
	run_loop();
	CHECK(d.q[RX].used->idx == 0);
	virtio_net_hold(d.mmio.dev, false);
	CHECK(wait_used(&d, RX).len == HEADER + 18);
}

static void test_goes_on_without_the_other_end(void)
{
	driver_start(&d, UINT64_MAX, 16);
	close(peer);
	put_avail(&d, TX, put_desc(&d, TX, BUFFERS, HEADER + 64, false));
	kick(&d, TX);
	wait_used(&d, TX);
	run_loop();
	CHECK(!needs_reset(&d));
}

int main(void)
{
	struct virtio_device *dev;
	struct virtio_host host;
	int fds[2];

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
	peer = fds[0];
	driver_init(&d);
	host = driver_host(&d);
	CHECK(!virtio_net_new(&host, fds[1], &dev, NULL));
	driver_attach(&d, dev);
	TEST(test_configuration);
	TEST(test_sends);
	TEST(test_full_socket_stops_the_queue);
	TEST(test_receives_into_several_buffers);
	TEST(test_without_merging);
	TEST(test_a_buffer_without_room_breaks_it);
	TEST(test_held_frames_wait);
	TEST(test_goes_on_without_the_other_end);
	driver_release(&d);
	return 0;
}
