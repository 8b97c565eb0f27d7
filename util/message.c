/* SPDX-License-Identifier: MIT */
/* message.c - one struct a message, with descriptors, over a SOCK_SEQPACKET socket */
#include "util/message.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/closer.h"
#include "util/io.h"

union fd_space {
	struct cmsghdr header;
	char space[CMSG_SPACE(MESSAGE_FDS_MAX * sizeof(int))];
};

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* linux/include/uapi/asm-generic/socket.h */
#endif

int message_pair(int type, bool takes_fds, int ends[2])
{
	const int passes = 0;

	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
		return -errno;
	if (!takes_fds)
		(void)setsockopt(ends[0], SOL_SOCKET, SO_PASSRIGHTS, &passes, sizeof(passes));
	return 0;
}

int message_send(int fd, const void *data, size_t size, const int *fds, unsigned nfds)
{
	struct iovec iov = { (void *)data, size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	union fd_space space;
	struct cmsghdr *header;
	ssize_t n;

	if (nfds > MESSAGE_FDS_MAX)
		return -E2BIG;
	if (nfds) {
		memset(&space, 0, CMSG_SPACE(nfds * sizeof(int)));
		msg.msg_control = space.space;
		msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		header = CMSG_FIRSTHDR(&msg);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(header), fds, nfds * sizeof(int));
	}
	do
		n = sendmsg(fd, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

/* All descriptors of a message; those beyond max are closed, and counted. */
static unsigned take_fds(struct msghdr *msg, int *fds, unsigned max)
{
	struct cmsghdr *header;
	unsigned n = 0, i, here;
	int fd;

	for (header = CMSG_FIRSTHDR(msg); header; header = CMSG_NXTHDR(msg, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		here = (unsigned)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		for (i = 0; i < here; i++, n++) {
			memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
			if (n < max)
				fds[n] = fd;
			else
				close(fd);
		}
	}
	return n;
}

int message_recv(int fd, void *data, size_t size, size_t *ret_size, int *fds, unsigned max, int flags)
{
	struct iovec iov = { data, size };
	union fd_space space;
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = space.space,
			      .msg_controllen = sizeof(space.space) };
	unsigned i, got;
	ssize_t n;

	for (i = 0; i < max; i++)
		fds[i] = -1;
	do
		n = recvmsg(fd, &msg, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	got = take_fds(&msg, fds, max);
	if (ret_size)
		*ret_size = (size_t)n;
	if (n && (ret_size || (size_t)n == size) && got <= max && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return (int)got;
	for (i = 0; i < got && i < max; i++)
		close(fds[i]);
	return n ? -EPROTO : -EPIPE;
}

void message_hang_up(int *fd)
{
	char byte;

	/* From here on there are no more. */
	if (*fd >= 0 && !shutdown(*fd, SHUT_RDWR) &&
	    recv(*fd, &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT) > 0)
		close_elsewhere(fd);
	close_fd(fd);
}
