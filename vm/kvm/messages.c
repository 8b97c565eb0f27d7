/* SPDX-License-Identifier: MIT */
/* messages.c - messages with descriptors over a SOCK_SEQPACKET socket, for both ends */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vm/vmm/control.h"

union fd_space {
	struct cmsghdr header;
	char space[CMSG_SPACE(CONTROL_FDS_MAX * sizeof(int))];
};

int control_send(int fd, const void *message, size_t size, const int *fds, unsigned nfds)
{
	struct iovec iov = { (void *)message, size };
	union fd_space space = { 0 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *header;
	ssize_t n;

	if (nfds) {
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

static unsigned take_fds(struct msghdr *msg, int *fds)
{
	struct cmsghdr *header;
	unsigned n = 0;

	for (header = CMSG_FIRSTHDR(msg); header; header = CMSG_NXTHDR(msg, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		/* The kernel has closed what did not fit into the space. */
		n = (unsigned)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(header), n * sizeof(int));
	}
	return n;
}

int control_recv(int fd, void *message, size_t size, int *fds, unsigned max)
{
	struct iovec iov = { message, size };
	union fd_space space = { 0 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = space.space,
			      .msg_controllen = CMSG_SPACE(max * sizeof(int)) };
	unsigned i, got;
	ssize_t n;

	for (i = 0; i < max; i++)
		fds[i] = -1;
	do
		n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	got = take_fds(&msg, fds);
	if ((size_t)n == size && !(msg.msg_flags & MSG_TRUNC))
		return (int)got;
	for (i = 0; i < got; i++)
		close(fds[i]);
	return n ? -EPROTO : -EPIPE;
}
