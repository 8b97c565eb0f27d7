/* SPDX-License-Identifier: MIT */
/* test_virtio_console.c - the named port: its handshake, and bytes under back-pressure in both directions */
#include <errno.h>
#include <linux/virtio_console.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/virtio_driver.h"
#include "vm/vmm/virtio/console.h"

enum { RX, TX, CONTROL_RX, CONTROL_TX, NUM = 64, BUFS = 0x100000 };

static struct loop *loop;
static struct driver d;
static int peer; /* the host's end of the socket */

static void attach(void)
{
	const struct virtio_host host = driver_host(&d);
	struct virtio_device *dev;
	int fds[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
	peer = fds[0];
	CHECK(!virtio_console_new(&host, fds[1], "sbx.agent", &dev, NULL));
	driver_attach(&d, dev);
	driver_start(&d, UINT64_MAX, NUM);
}

static void detach(void)
{
	virtio_free(d.mmio.dev);
	d.mmio.dev = NULL;
	close(peer);
}

static void turn(void)
{
	CHECK(!loop_once(loop, 0));
}

static void say(uint32_t id, uint16_t event, uint16_t value)
{
	struct virtio_console_control *msg = at(&d, BUFS);

	*msg = (struct virtio_console_control){ .id = id, .event = event, .value = value };
	put_avail(&d, CONTROL_TX, put_desc(&d, CONTROL_TX, BUFS, sizeof(*msg), false));
	kick(&d, CONTROL_TX);
	wait_used(&d, CONTROL_TX);
}

/* Offer a buffer for a control message. */
static void offer_control(uint32_t len)
{
	put_avail(&d, CONTROL_RX, put_desc(&d, CONTROL_RX, BUFS + 0x1000, len, true));
	kick(&d, CONTROL_RX);
}

static void expect_control(uint16_t event, uint16_t value, const char *text)
{
	const struct virtio_console_control *msg = at(&d, BUFS + 0x1000);
	struct vring_used_elem elem;

	offer_control(128);
	elem = wait_used(&d, CONTROL_RX);
	CHECK(elem.len == sizeof(*msg) + strlen(text));
	CHECK(msg->id == 0 && msg->event == event && msg->value == value);
	CHECK(!memcmp(msg + 1, text, strlen(text)));
}

static void open_port(void)
{
	say(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	expect_control(VIRTIO_CONSOLE_PORT_ADD, 0, "");
	say(0, VIRTIO_CONSOLE_PORT_READY, 1);
	expect_control(VIRTIO_CONSOLE_PORT_NAME, 0, "sbx.agent");
	expect_control(VIRTIO_CONSOLE_PORT_OPEN, 1, "");
	say(0, VIRTIO_CONSOLE_PORT_OPEN, 1);
}

static void test_handshake(void)
{
	struct vring_used_elem elem;

	attach();
	CHECK(d.regs.read(d.regs.opaque, VIRTIO_MMIO_CONFIG + 4, 4) == 1); /* max_nr_ports */
	open_port();
	/* Nothing more to say. */
	offer_control(128);
	turn();
	CHECK(!take_used(&d, CONTROL_RX, &elem));
	/* Of other ports and events it knows nothing. */
	say(7, VIRTIO_CONSOLE_PORT_READY, 1);
	say(0, VIRTIO_CONSOLE_RESIZE, 1);
	say(0, 999, 1);
	CHECK(!take_used(&d, CONTROL_RX, &elem) && !needs_reset(&d));
	detach();
}

static void send_text(const char *text)
{
	memcpy(at(&d, BUFS + 0x2000), text, strlen(text));
	put_avail(&d, TX, put_desc(&d, TX, BUFS + 0x2000, (uint32_t)strlen(text), false));
	kick(&d, TX);
}

static void test_guest_to_host(void)
{
	char buf[64];

	attach();
	open_port();
	send_text("hello");
	wait_used(&d, TX);
	CHECK(read(peer, buf, sizeof(buf)) == 5 && !memcmp(buf, "hello", 5));
	detach();
}

static void offer(uint64_t gpa, uint32_t len)
{
	put_avail(&d, RX, put_desc(&d, RX, gpa, len, true));
	kick(&d, RX);
}

static void test_host_to_guest(void)
{
	struct vring_used_elem elem;

	attach();
	/* Before a program has opened the port, bytes wait. */
	CHECK(write(peer, "early", 5) == 5);
	offer(BUFS + 0x3000, 100);
	turn();
	CHECK(!take_used(&d, RX, &elem));
	open_port();
	elem = wait_used(&d, RX);
	CHECK(elem.len == 5 && !memcmp(at(&d, BUFS + 0x3000), "early", 5));
	/* Without buffers they wait as well. */
	CHECK(write(peer, "later", 5) == 5);
	turn();
	offer(BUFS + 0x3000, 3);
	offer(BUFS + 0x4000, 3);
	CHECK(wait_used(&d, RX).len == 3);
	CHECK(wait_used(&d, RX).len == 2);
	CHECK(!memcmp(at(&d, BUFS + 0x3000), "lat", 3) && !memcmp(at(&d, BUFS + 0x4000), "er", 2));
	/* And when the program has closed it. */
	say(0, VIRTIO_CONSOLE_PORT_OPEN, 0);
	CHECK(write(peer, "last", 4) == 4);
	offer(BUFS + 0x3000, 100);
	turn();
	CHECK(!take_used(&d, RX, &elem));
	say(0, VIRTIO_CONSOLE_PORT_OPEN, 1);
	CHECK(wait_used(&d, RX).len == 4);
	detach();
}

static uint8_t pattern(uint64_t i)
{
	return (uint8_t)(i * 7 + i / 251);
}

/* Many bytes each way at once, both ends slow. */
static void test_back_pressure(void)
{
	const uint64_t total = 8 << 20, chunk = 3000;
	uint64_t sent = 0, got = 0, put = 0, received = 0, i;
	struct vring_used_elem elem;
	unsigned in_tx = 0, in_rx = 0, k;
	uint16_t tx = 0, rx = 0;
	uint8_t buf[5000];
	ssize_t n;

	attach();
	open_port();
	while (got < total || received < total) {
		/* Guest: keep both queues full. */
		for (; in_tx < 16 && sent < total; in_tx++, tx++) {
			const uint64_t len = total - sent < chunk ? total - sent : chunk;
			uint8_t *p = at(&d, BUFS + 0x10000 + tx % 16 * 0x1000u);

			for (i = 0; i < len; i++)
				p[i] = pattern(sent + i);
			put_avail(&d, TX,
				  put_desc(&d, TX, BUFS + 0x10000 + tx % 16 * 0x1000u, (uint32_t)len, false));
			sent += len;
		}
		kick(&d, TX);
		for (; in_rx < 8; in_rx++, rx++)
			put_avail(&d, RX, put_desc(&d, RX, BUFS + 0x80000 + rx % 8 * 0x1000u, 1777, true));
		kick(&d, RX);
		/* Host: read a little now and then, write as much as fits. */
		for (k = 0; k < 3; k++) {
			n = read(peer, buf, sizeof(buf));
			for (i = 0; n > 0 && i < (uint64_t)n; i++)
				CHECK(buf[i] == pattern(got + i));
			got += n > 0 ? (uint64_t)n : 0;
		}
		for (i = 0; i < sizeof(buf); i++)
			buf[i] = pattern(put + i);
		n = put < total ? write(peer, buf, total - put < sizeof(buf) ? total - put : sizeof(buf)) : 0;
		put += n > 0 ? (uint64_t)n : 0;
		turn();
		while (take_used(&d, TX, &elem))
			in_tx--;
		while (take_used(&d, RX, &elem)) {
			const uint8_t *p =
				at(&d, BUFS + 0x80000 + (uint16_t)(d.q[RX].used_taken - 1) % 8 * 0x1000u);

			for (i = 0; i < elem.len; i++)
				CHECK(p[i] == pattern(received + i));
			received += elem.len;
			in_rx--;
		}
		CHECK(!needs_reset(&d));
	}
	CHECK(got == total && received == total);
	detach();
}

/* Of a machine that stands: its memory stays as it is, and nobody is woken up again and again. */
static void test_held(void)
{
	struct vring_used_elem elem;

	attach();
	open_port();
	offer(BUFS + 0x3000, 100);
	virtio_console_hold(d.mmio.dev, true);
	CHECK(write(peer, "while held", 10) == 10);
	turn();
	kick(&d, RX);
	CHECK(!take_used(&d, RX, &elem));
	virtio_console_hold(d.mmio.dev, false);
	CHECK(take_used(&d, RX, &elem) && elem.len == 10 && !memcmp(at(&d, BUFS + 0x3000), "while held", 10));
	/* The other end may go meanwhile. */
	offer(BUFS + 0x3000, 100);
	virtio_console_hold(d.mmio.dev, true);
	shutdown(peer, SHUT_RDWR);
	turn();
	virtio_console_hold(d.mmio.dev, false);
	turn();
	CHECK(!take_used(&d, RX, &elem) && !needs_reset(&d));
	detach();
}

static void test_peer_gone(void)
{
	uint64_t start;
	unsigned i;

	attach();
	open_port();
	close(peer);
	peer = dup(0);
	/* The guest's writes end, instead of blocking for ever. */
	for (i = 0; i < 10; i++) {
		send_text("to nobody");
		wait_used(&d, TX);
	}
	offer(BUFS + 0x3000, 100);
	turn();
	/* And the loop comes to rest: a hang-up is not reported over and over. */
	start = now_mono_ns();
	CHECK(!loop_once(loop, 50));
	CHECK(now_mono_ns() - start >= 50000000);
	CHECK(!needs_reset(&d));
	detach();
}

static void test_bad_messages(void)
{
	attach();
	put_avail(&d, CONTROL_TX, put_desc(&d, CONTROL_TX, BUFS, 3, false));
	kick(&d, CONTROL_TX);
	CHECK(needs_reset(&d));
	driver_start(&d, UINT64_MAX, NUM);
	say(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	offer_control(4);
	CHECK(needs_reset(&d));
	driver_start(&d, UINT64_MAX, NUM);
	open_port();
	CHECK(write(peer, "x", 1) == 1);
	put_avail(&d, RX, put_desc(&d, RX, BUFS, 100, false));
	kick(&d, RX);
	CHECK(needs_reset(&d));
	/* What the guest broke, the next driver finds whole: not even the byte is lost. */
	driver_start(&d, UINT64_MAX, NUM);
	open_port();
	offer(BUFS + 0x3000, 100);
	CHECK(wait_used(&d, RX).len == 1);
	detach();
}

/* A capture while the socket is full: the rest of the buffer is sent after the load. */
static void test_state_survives(void)
{
	const struct virtio_host host = driver_host(&d);
	struct virtio_device *dev;
	struct buf state = { 0 };
	struct reader r;
	static uint8_t got[2 << 20];
	uint64_t n = 0, i;
	ssize_t rc;
	int fds[2];
	size_t k;

	attach();
	open_port();
	for (i = 0; i < 1 << 20; i++)
		((uint8_t *)at(&d, BUFS + 0x10000))[i] = pattern(i);
	put_avail(&d, TX, put_desc(&d, TX, BUFS + 0x10000, 1 << 20, false));
	kick(&d, TX);
	CHECK(d.q[TX].used->idx == 0);
	virtio_mmio_save(&d.mmio, &state);
	while ((rc = read(peer, got + n, sizeof(got) - n)) > 0)
		n += (uint64_t)rc;
	virtio_free(d.mmio.dev);
	close(peer);

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
	peer = fds[0];
	for (k = 0; k <= state.len; k++) {
		if (k)
			virtio_free(dev);
		CHECK(!virtio_console_new(&host, k == state.len ? fds[1] : dup(fds[1]), "sbx.agent", &dev,
					  NULL));
		d.mmio = (struct virtio_mmio){ .dev = dev };
		r = reader_init(buf_bytes(&state), k);
		CHECK(virtio_mmio_load(&d.mmio, &r, NULL) == (k == state.len ? 0 : -EINVAL));
	}
	virtio_loaded(dev);
	while (n < 1 << 20) {
		turn();
		while ((rc = read(peer, got + n, sizeof(got) - n)) > 0)
			n += (uint64_t)rc;
	}
	turn();
	CHECK(n == 1 << 20 && d.q[TX].used->idx == 1);
	for (i = 0; i < n; i++)
		CHECK(got[i] == pattern(i));
	/* The port is still open. */
	CHECK(write(peer, "on", 2) == 2);
	offer(BUFS + 0x3000, 100);
	CHECK(wait_used(&d, RX).len == 2);
	buf_release(&state);
	detach();
}

int main(void)
{
	loop = driver_init(&d);
	TEST(test_handshake);
	TEST(test_guest_to_host);
	TEST(test_host_to_guest);
	TEST(test_back_pressure);
	TEST(test_held);
	TEST(test_peer_gone);
	TEST(test_bad_messages);
	TEST(test_state_survives);
	driver_release(&d);
	return 0;
}
