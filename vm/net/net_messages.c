/* SPDX-License-Identifier: MIT */
/* net_messages.c - what sbxfs and sbx-net say to each other */
#include "vm/net/net_messages.h"

#include <errno.h>
#include <sys/socket.h>

#include "util/message.h"

void net_put_addr(struct buf *buf, const struct net_addr *addr)
{
	buf_put_u8(buf, addr->family);
	buf_add(buf, addr->bytes, sizeof(addr->bytes));
}

void net_get_addr(struct reader *r, struct net_addr *ret)
{
	size_t i;

	ret->family = get_u8(r);
	for (i = 0; i < sizeof(ret->bytes); i++)
		ret->bytes[i] = get_u8(r);
	if (ret->family && ret->family != AF_INET && ret->family != AF_INET6)
		r->bad = true;
}

int net_send(int fd, const struct buf *message, const int *fds, unsigned nfds)
{
	if (message->failed || message->len > NET_MESSAGE_MAX)
		return message->failed ? -ENOMEM : -E2BIG;
	return message_send(fd, buf_bytes(message), message->len, fds, nfds);
}

int net_recv(int fd, uint8_t message[NET_MESSAGE_MAX], int fds[NET_FDS_MAX])
{
	size_t size;
	unsigned i;
	int rc;

	for (i = 0; i < NET_FDS_MAX; i++)
		fds[i] = -1;
	rc = message_recv(fd, message, NET_MESSAGE_MAX, &size, fds, NET_FDS_MAX, MSG_DONTWAIT);
	if (rc == -EPIPE)
		return 0;
	return rc < 0 ? rc : (int)size;
}
