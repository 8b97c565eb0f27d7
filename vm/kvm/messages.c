/* SPDX-License-Identifier: MIT */
/* messages.c - messages with descriptors over a SOCK_SEQPACKET socket, for both ends */
#include <sys/socket.h>

#include "util/message.h"
#include "vm/vmm/control.h"

int control_send(int fd, const void *message, size_t size, const int *fds, unsigned nfds)
{
	return message_send(fd, message, size, fds, nfds);
}

int control_recv(int fd, void *message, size_t size, int *fds, unsigned max)
{
	unsigned i;

	for (i = 0; i < max; i++)
		fds[i] = -1;
	return message_recv(fd, message, size, NULL, fds, max, MSG_DONTWAIT);
}
