/* SPDX-License-Identifier: MIT */
/*
 * socket.h - the socket behind a device: what it is watched for, and its end
 *
 * The device says what it waits for in want_in and want_out, and calls socket_watch when it has done what there
 * was to do. When that comes its receive and transmit are called. While it is held, nothing is read.
 */
#ifndef SBX_VM_VMM_VIRTIO_SOCKET_H
#define SBX_VM_VMM_VIRTIO_SOCKET_H

#include <stdbool.h>

#include "util/loop.h"

struct socket {
	int fd; /* -1: the other end is gone */
	struct watch *watch;
	bool want_in, want_out;
	bool held;
	void (*receive)(void *device), (*transmit)(void *device);
	void *device;
};

/* -ENOMEM, and fd stays the caller's. */
int socket_open(struct socket *socket, struct loop *loop, int fd, void (*receive)(void *device),
		void (*transmit)(void *device), void *device);
/* Nobody is there any more; harmless where that was so. */
void socket_hang_up(struct socket *socket);
void socket_watch(const struct socket *socket);

#endif
