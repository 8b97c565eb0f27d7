/* SPDX-License-Identifier: MIT */
/*
 * link.h - the link between a machine and its network: the same for every machine (docs/network.md)
 *
 * Every guest has the same addresses on a link of its own, so a fork reconfigures nothing. A frame is one
 * message on a SOCK_SEQPACKET socket pair: an Ethernet frame without a checksum at its end.
 */
#ifndef SBX_VM_NET_LINK_H
#define SBX_VM_NET_LINK_H

#define LINK_MAC "52:54:00:12:34:56"
#define LINK_MAC_BYTES                                                                                       \
	{                                                                                                    \
		0x52, 0x54, 0x00, 0x12, 0x34, 0x56                                                           \
	}

/* 10.0.2.0/24 and fd00::/64; the gateway is also this host's loopback, the resolver is the helper. */
#define LINK_GUEST "10.0.2.15"
#define LINK_GATEWAY "10.0.2.2"
#define LINK_RESOLVER "10.0.2.3"
#define LINK_NETMASK "255.255.255.0"
#define LINK_GUEST6 "fd00::15"
#define LINK_GATEWAY6 "fd00::2"
#define LINK_RESOLVER6 "fd00::3"
#define LINK_PREFIX6 64

enum {
	/* What an order-3 allocation of the guest's holds with its sk_buff: without checksum offload its
	 * kernel makes every packet one piece. */
	LINK_MTU = 32000,
	LINK_FRAME_MIN = 14,
	LINK_FRAME_MAX = LINK_MTU + LINK_FRAME_MIN,
};

#endif
