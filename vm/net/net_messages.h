/* SPDX-License-Identifier: MIT */
/*
 * net_messages.h - what sbxfs and sbx-net say to each other
 *
 * A SOCK_SEQPACKET socket pair; a message is a u8 type and what follows, as util/buf.h writes it, with up to two
 * descriptors. Both ends are built together. The helper reads frames that a guest made: what it says is checked
 * as a stranger's words. A helper whose daemon closes the socket ends; a daemon that cannot get a message
 * through ends its helper.
 */
#ifndef SBX_VM_NET_NET_MESSAGES_H
#define SBX_VM_NET_NET_MESSAGES_H

#include "util/buf.h"
#include "vm/net/address.h"

enum net_message {
	/* To the helper */
	NET_LINK = 1, /* once, the first: descriptors of the link and the board (flow.h): zeroed, or
			* that of a helper before this one */
	NET_POLICY,   /* u8 mode, bytes rules as text, u8 count and that many resolvers: address, u16 port */
	NET_PUBLISH, /* u32 tag, u8 protocol, u16 the guest's port; a descriptor of the socket to listen at */
	NET_UNPUBLISH, /* u8 protocol, address, u16 port */
	/* From the helper */
	NET_PUBLISHED, /* u32 tag, u32 errno */
	NET_DENIED, /* u8 protocol, address, u16 port, str name, str why, u32 how many were not told before it */
};

enum { NET_MESSAGE_MAX = 8192, NET_FDS_MAX = 2, NET_RESOLVERS_MAX = 3, NET_WHY_MAX = 64 };

/* Family 0 is none. */
void net_put_addr(struct buf *buf, const struct net_addr *addr);
/* One of another family is bad. */
void net_get_addr(struct reader *r, struct net_addr *ret);

/* 0 or a negative errno, -EAGAIN where the other end does not read. */
int net_send(int fd, const struct buf *message, const int *fds, unsigned nfds);
/* Length of a message; 0 at the end; -EAGAIN, -EPROTO. Descriptors that did not come are -1. */
int net_recv(int fd, uint8_t message[NET_MESSAGE_MAX], int fds[NET_FDS_MAX]);

#endif
