/* SPDX-License-Identifier: MIT */
/*
 * console.c - one named port
 *
 * With the multiport feature the device has a pair of control queues, on which host and guest tell each
 * other about ports, and a pair of data queues for each port. We have one port, number 0. It is not a
 * console, for which guests would start a getty, but a plain channel.
 *
 *   guest                      host
 *   DEVICE_READY  ->
 *                 <-           PORT_ADD
 *   PORT_READY    ->
 *                 <-           PORT_NAME, PORT_OPEN
 *   PORT_OPEN     ->           when a program opens or closes the port
 *
 * Back-pressure: a buffer the socket does not take stays in the queue, with a note how much of it is already
 * sent, and the guest's write blocks. Linux throws away what arrives at a port nobody has open, so the socket
 * is only read while the port is open and the guest has given us buffers.
 */
#include "vm/vmm/virtio/console.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <string.h>
#include <sys/socket.h>

#include "vm/vmm/virtio/socket.h"

enum { RX, TX, CONTROL_RX, CONTROL_TX, NQUEUES };
enum { CHAINS_A_TURN = 32 };

/* Messages to the guest that wait for a buffer, in the order in which they are sent. */
enum { SAY_ADD = 1 << 0, SAY_NAME = 1 << 1, SAY_OPEN = 1 << 2, SAY_ALL = 7 };

struct virtio_console {
	struct virtio_device dev;
	const char *name;
	struct socket socket;
	bool guest_open; /* a program in the guest has the port open */
	uint8_t say;
	uint32_t tx_sent; /* bytes of the first chain in TX that are sent */
	struct virtq_chain chain;
};

static struct virtio_console *console_of(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_console, dev);
}

/* ---- data */

/* Socket to guest. */
static void receive(void *device)
{
	struct virtio_console *con = device;
	struct virtqueue *vq = &con->dev.queues[RX];
	struct virtq_chain *chain = &con->chain;
	unsigned i;
	ssize_t n;

	con->socket.want_in = false;
	for (i = 0; i < CHAINS_A_TURN && con->socket.fd >= 0 && con->guest_open && !con->socket.held; i++) {
		if (!virtq_pop(vq, chain))
			return;
		if (!chain->nin) {
			virtio_break(&con->dev, "a receive buffer that cannot be written");
			return;
		}
		n = readv(con->socket.fd, virtq_in(chain), (int)chain->nin);
		if (n > 0) {
			virtq_push(vq, chain->head, chain->epoch, (uint32_t)n);
			continue;
		}
		virtq_unpop(vq);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			con->socket.want_in = true;
		else
			socket_hang_up(&con->socket);
		return;
	}
	/* It is another's turn, and the socket may have more. */
	con->socket.want_in = con->socket.fd >= 0 && con->guest_open;
}

/* Send what is left of a chain. True: all of it is gone. */
static bool send_chain(struct virtio_console *con, const struct virtq_chain *chain)
{
	struct iovec iov[VIRTQ_NUM_MAX];
	struct msghdr msg = { .msg_iov = iov };
	ssize_t n;

	/* The driver may have made the chain shorter meanwhile. */
	if (con->socket.fd < 0 || con->tx_sent >= chain->out_len)
		return true;
	msg.msg_iovlen = iov_slice(chain->iov, chain->nout, con->tx_sent, chain->out_len - con->tx_sent, iov);
	n = sendmsg(con->socket.fd, &msg, MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		socket_hang_up(&con->socket);
		return true;
	}
	if (n > 0)
		con->tx_sent += (uint32_t)n;
	return con->tx_sent == chain->out_len;
}

/* Guest to socket. Nobody at the other end: then the bytes have nowhere to go, and the guest need not
 * wait. */
static void transmit(void *device)
{
	struct virtio_console *con = device;
	struct virtqueue *vq = &con->dev.queues[TX];
	struct virtq_chain *chain = &con->chain;
	unsigned i;

	con->socket.want_out = false;
	for (i = 0; i < CHAINS_A_TURN; i++) {
		if (!virtq_pop(vq, chain))
			return;
		if (chain->out_len > UINT32_MAX) {
			virtio_break(&con->dev, "more bytes at once than a message can have");
			return;
		}
		if (!send_chain(con, chain)) {
			virtq_unpop(vq);
			con->socket.want_out = true;
			return;
		}
		con->tx_sent = 0;
		virtq_push(vq, chain->head, chain->epoch, 0);
	}
	virtio_ring_doorbell(&con->dev);
}

void virtio_console_hold(struct virtio_device *dev, bool held)
{
	struct virtio_console *con = console_of(dev);

	con->socket.held = held;
	if (con->socket.want_in && !held)
		receive(con);
	socket_watch(&con->socket);
}

/* ---- control */

static void send_messages(struct virtio_console *con)
{
	struct virtqueue *vq = &con->dev.queues[CONTROL_RX];
	struct virtq_chain *chain = &con->chain;
	struct {
		struct virtio_console_control control;
		char name[64];
	} msg;
	size_t len;
	uint8_t what;

	while (con->say && virtq_pop(vq, chain)) {
		what = con->say & (uint8_t)-con->say; /* the lowest bit */
		msg.control = (struct virtio_console_control){ 0 };
		len = sizeof(msg.control);
		if (what == SAY_ADD) {
			msg.control.event = htole16(VIRTIO_CONSOLE_PORT_ADD);
		} else if (what == SAY_NAME) {
			msg.control.event = htole16(VIRTIO_CONSOLE_PORT_NAME);
			len += strlen(con->name);
			memcpy(msg.name, con->name, strlen(con->name));
		} else {
			msg.control.event = htole16(VIRTIO_CONSOLE_PORT_OPEN);
			msg.control.value = htole16(1);
		}
		if (iov_write(virtq_in(chain), chain->nin, 0, &msg, len) < len) {
			virtio_break(&con->dev, "a control buffer that is too small");
			return;
		}
		con->say &= (uint8_t)~what;
		virtq_push(vq, chain->head, chain->epoch, (uint32_t)len);
	}
}

static void take_message(struct virtio_console *con, const struct virtio_console_control *msg)
{
	switch (le16toh(msg->event)) {
	case VIRTIO_CONSOLE_DEVICE_READY:
		/* With 0 the driver says that it has failed. */
		if (le16toh(msg->value))
			con->say |= SAY_ADD;
		break;
	case VIRTIO_CONSOLE_PORT_READY:
		if (!le32toh(msg->id) && le16toh(msg->value))
			con->say |= SAY_NAME | SAY_OPEN;
		break;
	case VIRTIO_CONSOLE_PORT_OPEN:
		if (!le32toh(msg->id))
			con->guest_open = le16toh(msg->value);
		break;
	default:
		break;
	}
}

static void take_messages(struct virtio_console *con)
{
	struct virtqueue *vq = &con->dev.queues[CONTROL_TX];
	struct virtq_chain *chain = &con->chain;
	struct virtio_console_control msg;
	unsigned i;

	for (i = 0; i < CHAINS_A_TURN; i++) {
		if (!virtq_pop(vq, chain))
			return;
		if (iov_read(chain->iov, chain->nout, 0, &msg, sizeof(msg)) < sizeof(msg)) {
			virtio_break(&con->dev, "a control message that is too short");
			return;
		}
		take_message(con, &msg);
		virtq_push(vq, chain->head, chain->epoch, 0);
	}
	virtio_ring_doorbell(&con->dev);
}

/* ---- the device */

static void console_notify(struct virtio_device *dev, unsigned queue)
{
	struct virtio_console *con = console_of(dev);

	switch (queue) {
	case RX:
		receive(con);
		break;
	case TX:
		transmit(con);
		break;
	case CONTROL_RX:
		send_messages(con);
		break;
	case CONTROL_TX:
		take_messages(con);
		/* What was said may need an answer, or open the way for data. */
		send_messages(con);
		receive(con);
		break;
	}
	socket_watch(&con->socket);
}

static void console_config(struct virtio_device *dev, uint8_t *ret, size_t size)
{
	const struct virtio_console_config config = { .max_nr_ports = htole32(1) };

	(void)dev;
	memcpy(ret, &config, sizeof(config) < size ? sizeof(config) : size);
}

static void console_reset(struct virtio_device *dev)
{
	struct virtio_console *con = console_of(dev);

	con->guest_open = false;
	con->say = 0;
	con->tx_sent = 0;
	con->socket.want_in = con->socket.want_out = false;
	socket_watch(&con->socket);
}

static void console_save(const struct virtio_device *dev, struct buf *buf)
{
	const struct virtio_console *con = container_of(dev, const struct virtio_console, dev);

	buf_put_u8(buf, con->guest_open);
	buf_put_u8(buf, con->say);
	buf_put_u32(buf, con->tx_sent);
}

static int console_load(struct virtio_device *dev, struct reader *r, struct err *err)
{
	struct virtio_console *con = console_of(dev);

	con->guest_open = get_u8(r);
	con->say = get_u8(r);
	con->tx_sent = get_u32(r); /* any: compared with the chain when that is read again */
	if (con->say & ~SAY_ALL)
		return err_set(err, -EINVAL, "the state of device %s has unknown messages", dev->ops->name);
	return 0;
}

static void console_release(struct virtio_device *dev)
{
	socket_hang_up(&console_of(dev)->socket);
}

static const struct virtio_ops console_ops = {
	.name = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.nqueues = NQUEUES,
	.queue_size = 128,
	.config = console_config,
	.config_size = sizeof(struct virtio_console_config),
	.notify = console_notify,
	.reset = console_reset,
	.save = console_save,
	.load = console_load,
	.release = console_release,
};

int virtio_console_new(const struct virtio_host *host, int fd, const char *name, struct virtio_device **ret,
		       struct err *err)
{
	struct virtio_console *con =
		virtio_new(sizeof(*con), &console_ops, host, 1u << VIRTIO_CONSOLE_F_MULTIPORT, err);

	if (!con)
		return -ENOMEM;
	con->name = name;
	if (socket_open(&con->socket, host->loop, fd, receive, transmit, con)) {
		virtio_free(&con->dev);
		return err_set(err, -ENOMEM, "no memory or descriptors for device virtio-console");
	}
	*ret = &con->dev;
	return 0;
}
