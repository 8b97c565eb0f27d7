/* SPDX-License-Identifier: MIT */
/* message.h - one struct a message, with descriptors, over a SOCK_SEQPACKET socket */
#ifndef SBX_UTIL_MESSAGE_H
#define SBX_UTIL_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>

enum { MESSAGE_FDS_MAX = 253 }; /* the kernel's SCM_MAX_FD */

/*
 * Two ends of a socket of this type, which do not block: ends[0] is ours, the other somebody's who may be hostile. If
 * not `takes_fds`, nobody can send descriptors to ours (Linux 6.16: SO_PASSRIGHTS; before, what is sent is closed when
 * the message that it came with is read, by whoever reads it). 0 or a negative errno.
 */
int message_pair(int type, bool takes_fds, int ends[2]);

/* `size` bytes and nfds descriptors, which stay the caller's. 0 or a negative errno; -EAGAIN as the socket's.
 */
int message_send(int fd, const void *data, size_t size, const int *fds, unsigned nfds);
/*
 * One message of exactly `size` bytes, or with ret_size of at most so many, and at most `max` descriptors,
 * which are close-on-exec; those of fds that did not come are -1. flags as recvmsg(2) has them. Returns how many came, -EPIPE at the end, -EPROTO
 * for a message of another size, of which nothing is kept.
 */
int message_recv(int fd, void *data, size_t size, size_t *ret_size, int *fds, unsigned max, int flags);
/* Close *fd, a socket or -1, and forget it: on a thread of its own, if there are messages that nobody has received, as
 * descriptors may be with them. */
void message_hang_up(int *fd);

#endif
