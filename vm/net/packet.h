/* SPDX-License-Identifier: MIT */
/*
 * packet.h - Ethernet frames: what is in them, and the few that we make
 *
 * Pure functions on untrusted bytes. packet_parse believes nothing it has not checked: lengths fit into each
 * other, nothing is a fragment, has options or extension headers. (RFC 791, 8200, 9293, 768, 792, 4443.)
 */
#ifndef SBX_VM_NET_PACKET_H
#define SBX_VM_NET_PACKET_H

#include "vm/net/address.h"

enum { ETH_HEADER = 14, IP4_HEADER = 20, IP6_HEADER = 40, UDP_HEADER = 8, TCP_HEADER = 20 };
enum { TCP_F_FIN = 1, TCP_F_SYN = 2, TCP_F_RST = 4, TCP_F_ACK = 16 };

enum packet_kind {
	PACKET_BAD,   /* malformed, or something that is let through nowhere: `why` */
	PACKET_NOISE, /* to be dropped without a word: what hosts tell everybody */
	PACKET_ARP,
	PACKET_NEIGHBOUR, /* an ICMPv6 neighbour solicitation or advertisement */
	PACKET_ECHO,      /* ICMP or ICMPv6 echo request */
	PACKET_TCP,
	PACKET_UDP,
	PACKET_ICMP, /* another ICMP message */
};

struct packet {
	enum packet_kind kind;
	const char *why;
	uint8_t proto; /* IPPROTO_* */
	struct net_addr from, to;
	uint16_t from_port, to_port;
	size_t ip, transport, payload; /* offsets in the frame */
	size_t end;                    /* of the packet: behind it is padding */
	/* TCP */
	uint8_t flags;
	uint32_t seq, ack;
};

/* It looks at no more than the first PACKET_LOOK bytes, whatever n is. */
enum { PACKET_LOOK = 96 };
void packet_parse(const uint8_t *frame, size_t n, struct packet *ret);

/* How much of the sequence space a TCP segment takes. */
uint32_t tcp_length(const struct packet *p);
/* Add to the sequence or acknowledgement number, and make the checksum fit again. */
void tcp_shift_seq(uint8_t *frame, const struct packet *p, uint32_t by);
void tcp_shift_ack(uint8_t *frame, const struct packet *p, uint32_t by);

/* What is made fits into this, a UDP payload apart. */
enum { PACKET_MADE_MAX = 128 };

/* The answer to a segment of no connection (RFC 9293, 3.10.7.1); its length. The frame is an IP packet of the
 * guest's. */
size_t packet_reset(const uint8_t *frame, const struct packet *p, uint8_t ret[PACKET_MADE_MAX]);
/* ICMP: administratively prohibited, in answer to a packet. */
size_t packet_prohibited(const uint8_t *frame, const struct packet *p, uint8_t ret[PACKET_MADE_MAX]);
/* A UDP packet in answer to one; 0: it does not fit into `size`. */
size_t packet_udp_answer(const uint8_t *frame, const struct packet *p, const void *payload, size_t n,
			 uint8_t *ret, size_t size);

/* A TCP segment without data, either way of a connection. */
struct tcp_segment {
	struct net_addr from, to;
	uint16_t from_port, to_port;
	uint32_t seq, ack;
	uint8_t flags;
};
size_t packet_tcp(const uint8_t eth_from[6], const uint8_t eth_to[6], const struct tcp_segment *segment,
		  uint8_t ret[PACKET_MADE_MAX]);

/*
 * Does a frame of the guest's need nobody? What a machine says by itself when it starts, and the resets of
 * connections that another machine has.
 */
bool packet_needs_nobody(const uint8_t *frame, size_t n);

#endif
