/* SPDX-License-Identifier: MIT */
/* socket.c - the socket behind a device: what it is watched for, and its end */
#include "vm/vmm/virtio/socket.h"

#include <errno.h>
#include <sys/epoll.h>

#include "util/io.h"

void socket_hang_up(struct socket *socket)
{
	watch_free(socket->watch);
	socket->watch = NULL;
	close_fd(&socket->fd);
	socket->want_in = socket->want_out = false;
}

void socket_watch(const struct socket *socket)
{
	const uint32_t in = socket->want_in && !socket->held ? EPOLLIN : 0;
	const uint32_t out = socket->want_out ? EPOLLOUT : 0;

	if (socket->watch)
		watch_set(socket->watch, in | out);
}

static void on_ready(void *arg, uint32_t events)
{
	struct socket *socket = arg;

	if (socket->want_in)
		socket->receive(socket->device);
	if (socket->want_out)
		socket->transmit(socket->device);
	/* A hang-up is reported whether or not it is asked for; while the guest does not read, the bytes that
	 * came before it would be reported for ever. */
	if (events & (EPOLLHUP | EPOLLERR) && (!socket->want_in || socket->held))
		socket_hang_up(socket);
	socket_watch(socket);
}

int socket_open(struct socket *socket, struct loop *loop, int fd, void (*receive)(void *device),
		void (*transmit)(void *device), void *device)
{
	*socket = (struct socket){ .receive = receive, .transmit = transmit, .device = device };
	socket->watch = watch_new(loop, fd, 0, on_ready, socket);
	socket->fd = socket->watch ? fd : -1;
	return socket->watch ? 0 : -ENOMEM;
}
