/* SPDX-License-Identifier: MIT */
/*
 * net.c - the guest's network device: frames between two queues and a socket
 *
 * No offloads: who has the socket's other end wants whole packets with true checksums. Large packets do what
 * offloads would (VIRTIO_NET_F_MTU), and are spread over several buffers of the driver's
 * (VIRTIO_NET_F_MRG_RXBUF). All buffers of one packet are given back in one step: the driver, which runs
 * meanwhile, takes them together.
 *
 * The device has no state of its own. A frame that was read from the socket and found no buffers waits in
 * `frame`; it belongs to this machine, and a capture does not take it along.
 */
#include "vm/vmm/virtio/net.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/socket.h>

#include "vm/net/link.h"
#include "vm/vmm/virtio/socket.h"

enum { RX, TX, NQUEUES };
enum { CHAINS_A_TURN = 64, HEADER = sizeof(struct virtio_net_hdr_mrg_rxbuf) };

/* A frame in buffers of one page; smaller ones are not worth more entries here. */
enum { BUFFERS_MAX = 64 };

struct virtio_net {
	struct virtio_device dev;
	struct socket socket; /* decides when to go on */
	size_t frame_len;     /* of a frame that waits for buffers; 0: none does */
	struct virtq_chain chain, first;
	uint8_t frame[LINK_FRAME_MAX];
};

static struct virtio_net *net_of(struct virtio_device *dev)
{
	return container_of(dev, struct virtio_net, dev);
}

/* ---- socket to guest */

/* Put the frame into the driver's buffers. False: there are not enough; none is used then. */
static bool deliver(struct virtio_net *net)
{
	struct virtio_net_hdr_mrg_rxbuf header = { .hdr = { .gso_type = VIRTIO_NET_HDR_GSO_NONE } };
	struct virtqueue *vq = &net->dev.queues[RX];
	struct virtq_chain *chain = &net->chain;
	const bool merge = virtio_has(&net->dev, VIRTIO_NET_F_MRG_RXBUF);
	size_t done = 0, room;
	uint16_t n = 0;

	while (done < net->frame_len) {
		if (n == BUFFERS_MAX || (n && !merge)) {
			/* Buffers of a few bytes, or one that cannot hold what it must: the frame is lost. */
			while (n--)
				virtq_unpop(vq);
			return true;
		}
		if (!virtq_pop(vq, chain)) {
			while (n--)
				virtq_unpop(vq);
			return false;
		}
		if (chain->in_len <= HEADER) {
			virtio_break(&net->dev, "a receive buffer without room");
			return true;
		}
		if (!n)
			net->first = *chain;
		room = iov_write(virtq_in(chain), chain->nin, n ? 0 : HEADER, net->frame + done,
				 net->frame_len - done);
		virtq_fill(vq, chain->head, chain->epoch, (uint32_t)(room + (n ? 0 : HEADER)), n);
		done += room;
		n++;
	}
	header.num_buffers = htole16(n);
	iov_write(virtq_in(&net->first), net->first.nin, 0, &header, sizeof(header));
	virtq_flush(vq, net->first.epoch, n);
	return true;
}

/* The next frame of the socket's into `frame`; false: none is there. */
static bool take_frame(struct virtio_net *net)
{
	const ssize_t n = recv(net->socket.fd, net->frame, sizeof(net->frame), MSG_TRUNC);

	if (n > 0) {
		net->frame_len = (size_t)n <= sizeof(net->frame) ? (size_t)n : 0;
		return true;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		net->socket.want_in = true;
	else
		socket_hang_up(&net->socket);
	return false;
}

static void receive(void *device)
{
	struct virtio_net *net = device;
	unsigned i;

	net->socket.want_in = false;
	for (i = 0; i < CHAINS_A_TURN && net->socket.fd >= 0 && !net->socket.held; i++) {
		if (!net->frame_len && !take_frame(net))
			return;
		if (net->frame_len && !deliver(net))
			return; /* the driver says when it has more buffers */
		net->frame_len = 0;
	}
	/* It is another's turn, and the socket may have more. */
	net->socket.want_in = net->socket.fd >= 0;
}

/* ---- guest to socket */

/* False: the socket is full. What cannot be sent otherwise is lost, as on any link. */
static bool send_frame(struct virtio_net *net, const struct virtq_chain *chain)
{
	struct iovec iov[VIRTQ_NUM_MAX];
	struct msghdr msg = { .msg_iov = iov };
	const uint64_t len = chain->out_len > HEADER ? chain->out_len - HEADER : 0;

	if (net->socket.fd < 0 || len < LINK_FRAME_MIN || len > LINK_FRAME_MAX)
		return true;
	msg.msg_iovlen = iov_slice(chain->iov, chain->nout, HEADER, len, iov);
	if (sendmsg(net->socket.fd, &msg, MSG_NOSIGNAL) >= 0)
		return true;
	if (errno == EPIPE || errno == ECONNRESET)
		socket_hang_up(&net->socket);
	return errno != EAGAIN && errno != EINTR;
}

static void transmit(void *device)
{
	struct virtio_net *net = device;
	struct virtqueue *vq = &net->dev.queues[TX];
	struct virtq_chain *chain = &net->chain;
	unsigned i;

	net->socket.want_out = false;
	for (i = 0; i < CHAINS_A_TURN; i++) {
		if (!virtq_pop(vq, chain))
			return;
		if (!send_frame(net, chain)) {
			virtq_unpop(vq);
			net->socket.want_out = true;
			return;
		}
		virtq_push(vq, chain->head, chain->epoch, 0);
	}
	virtio_ring_doorbell(&net->dev);
}

void virtio_net_hold(struct virtio_device *dev, bool held)
{
	struct virtio_net *net = net_of(dev);

	net->socket.held = held;
	if (!held && virtio_running(dev) && dev->queues[RX].ready)
		receive(net);
	socket_watch(&net->socket);
}

/* ---- the device */

static void net_notify(struct virtio_device *dev, unsigned queue)
{
	struct virtio_net *net = net_of(dev);

	if (queue == RX)
		receive(net);
	else
		transmit(net);
	socket_watch(&net->socket);
}

static void net_config(struct virtio_device *dev, uint8_t *ret, size_t size)
{
	const struct virtio_net_config config = {
		.mac = LINK_MAC_BYTES,
		.status = htole16(VIRTIO_NET_S_LINK_UP),
		.max_virtqueue_pairs = htole16(1),
		.mtu = htole16(LINK_MTU),
	};

	(void)dev;
	memcpy(ret, &config, sizeof(config) < size ? sizeof(config) : size);
}

static void net_reset(struct virtio_device *dev)
{
	struct virtio_net *net = net_of(dev);

	net->socket.want_in = net->socket.want_out = false;
	net->frame_len = 0;
	socket_watch(&net->socket);
}

static void net_release(struct virtio_device *dev)
{
	socket_hang_up(&net_of(dev)->socket);
}

static const struct virtio_ops net_ops = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.nqueues = NQUEUES,
	.queue_size = VIRTQ_NUM_MAX,
	.config = net_config,
	.config_size = sizeof(struct virtio_net_config),
	.notify = net_notify,
	.reset = net_reset,
	.release = net_release,
};

int virtio_net_new(const struct virtio_host *host, int fd, struct virtio_device **ret, struct err *err)
{
	static const uint64_t features =
		1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_MTU | 1ull << VIRTIO_NET_F_MRG_RXBUF;
	struct virtio_net *net = virtio_new(sizeof(*net), &net_ops, host, features, err);

	if (!net)
		return -ENOMEM;
	if (socket_open(&net->socket, host->loop, fd, receive, transmit, net)) {
		virtio_free(&net->dev);
		return err_set(err, -ENOMEM, "no memory or descriptors for device virtio-net");
	}
	*ret = &net->dev;
	return 0;
}
