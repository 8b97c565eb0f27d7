/* SPDX-License-Identifier: MIT */
/* messages.c - what sbxfs and sbx-net say to each other */
#include "vm/net/messages.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union fd_space {
	struct cmsghdr header;
	char space[CMSG_SPACE(NET_FDS_MAX * sizeof(int))];
};

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
	struct iovec iov = { buf_bytes(message), message->len };
	union fd_space space = { 0 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (message->failed || message->len > NET_MESSAGE_MAX)
		return message->failed ? -ENOMEM : -E2BIG;
	if (nfds) {
		msg.msg_control = space.space;
		msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		space.header.cmsg_level = SOL_SOCKET;
		space.header.cmsg_type = SCM_RIGHTS;
		space.header.cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(&space.header), fds, nfds * sizeof(int));
	}
	do
		n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

static void take_fds(struct msghdr *msg, int fds[NET_FDS_MAX])
{
	struct cmsghdr *header = CMSG_FIRSTHDR(msg);
	size_t n;

	/* The kernel has closed what did not fit. */
	if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
		return;
	n = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(fds, CMSG_DATA(header), (n < NET_FDS_MAX ? n : NET_FDS_MAX) * sizeof(int));
}

int net_recv(int fd, uint8_t message[NET_MESSAGE_MAX], int fds[NET_FDS_MAX])
{
	struct iovec iov = { message, NET_MESSAGE_MAX };
	union fd_space space = { 0 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = space.space,
			      .msg_controllen = sizeof(space.space) };
	unsigned i;
	ssize_t n;

	for (i = 0; i < NET_FDS_MAX; i++)
		fds[i] = -1;
	do
		n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	take_fds(&msg, fds);
	if (!(msg.msg_flags & MSG_TRUNC))
		return (int)n;
	for (i = 0; i < NET_FDS_MAX; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return -EPROTO;
}
