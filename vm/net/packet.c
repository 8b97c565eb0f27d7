/* SPDX-License-Identifier: MIT */
/* packet.c - Ethernet frames: what is in them, and the few that we make */
#include "vm/net/packet.h"

#include <netinet/in.h>
#include <string.h>

#include "vm/net/bytes.h"
#include "vm/net/link.h"

enum {
	TYPE_IP4 = 0x0800,
	TYPE_ARP = 0x0806,
	TYPE_IP6 = 0x86dd,
	ARP_SIZE = 28,
	ICMP_HEADER = 8,
	ICMP_ECHO = 8,
	ICMP_UNREACHABLE = 3,
	ICMP_PROHIBITED = 13,
	ICMP6_UNREACHABLE = 1,
	ICMP6_PROHIBITED = 1,
	ICMP6_ECHO = 128,
	ICMP6_SOLICITATION = 135,
	ICMP6_ADVERTISEMENT = 136,
	ICMP6_NEIGHBOUR_SIZE = 24,
	TTL = 64,
};

/* ---- reading */

static void bad(struct packet *p, const char *why)
{
	p->kind = PACKET_BAD;
	p->why = why;
}

static void parse_arp(const uint8_t *frame, size_t n, struct packet *p)
{
	static const uint8_t ethernet_ip4[] = { 0, 1, 8, 0, 6, 4 };

	p->end = ETH_HEADER + ARP_SIZE;
	if (n < p->end || memcmp(frame + ETH_HEADER, ethernet_ip4, sizeof(ethernet_ip4)) != 0) {
		bad(p, "malformed ARP");
		return;
	}
	p->kind = PACKET_ARP;
	p->from = net_addr_v4(frame + ETH_HEADER + 14);
	p->to = net_addr_v4(frame + ETH_HEADER + 24);
}

static void parse_tcp(const uint8_t *frame, struct packet *p)
{
	const uint8_t *tcp = frame + p->transport;
	size_t header;

	if (p->end - p->transport < TCP_HEADER) {
		bad(p, "malformed TCP");
		return;
	}
	header = (size_t)(tcp[12] >> 4) * 4;
	if (header < TCP_HEADER || header > p->end - p->transport) {
		bad(p, "malformed TCP");
		return;
	}
	p->kind = PACKET_TCP;
	p->from_port = get16(tcp);
	p->to_port = get16(tcp + 2);
	p->seq = get32(tcp + 4);
	p->ack = get32(tcp + 8);
	p->flags = tcp[13];
	p->payload = p->transport + header;
}

static void parse_udp(const uint8_t *frame, struct packet *p)
{
	const uint8_t *udp = frame + p->transport;

	if (p->end - p->transport < UDP_HEADER || get16(udp + 4) != p->end - p->transport) {
		bad(p, "malformed UDP");
		return;
	}
	p->kind = PACKET_UDP;
	p->from_port = get16(udp);
	p->to_port = get16(udp + 2);
	p->payload = p->transport + UDP_HEADER;
}

static void parse_icmp(const uint8_t *frame, struct packet *p)
{
	const size_t size = p->end - p->transport;
	const bool v6 = p->proto == IPPROTO_ICMPV6;
	const uint8_t type = size >= ICMP_HEADER ? frame[p->transport] : 0;

	p->payload = p->transport + ICMP_HEADER;
	if (size < ICMP_HEADER)
		bad(p, "malformed ICMP");
	else if (type == (v6 ? ICMP6_ECHO : ICMP_ECHO))
		p->kind = PACKET_ECHO;
	else if (v6 && (type == ICMP6_SOLICITATION || type == ICMP6_ADVERTISEMENT))
		p->kind = size < ICMP6_NEIGHBOUR_SIZE ? PACKET_BAD : PACKET_NEIGHBOUR;
	else
		p->kind = PACKET_ICMP;
	if (p->kind == PACKET_BAD && !p->why)
		p->why = "malformed ICMP";
}

static void parse_transport(const uint8_t *frame, struct packet *p)
{
	if (p->proto == IPPROTO_TCP)
		parse_tcp(frame, p);
	else if (p->proto == IPPROTO_UDP)
		parse_udp(frame, p);
	else if (p->proto == (p->to.family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		parse_icmp(frame, p);
	else if (p->to.family == AF_INET6 && p->to.bytes[0] == 0xff)
		p->kind = PACKET_NOISE; /* group membership, behind an extension header */
	else
		bad(p,
		    p->to.family == AF_INET6 ? "extension header or unknown protocol" : "unknown protocol");
}

static void parse_ip4(const uint8_t *frame, size_t n, struct packet *p)
{
	const uint8_t *ip = frame + ETH_HEADER;
	size_t total;

	if (n < ETH_HEADER + IP4_HEADER || ip[0] >> 4 != 4) {
		bad(p, "malformed IPv4");
		return;
	}
	p->from = net_addr_v4(ip + 12);
	p->to = net_addr_v4(ip + 16);
	p->proto = ip[9];
	total = get16(ip + 2);
	if (total < IP4_HEADER || total > n - ETH_HEADER)
		bad(p, "malformed IPv4");
	else if (ip[0] != 0x45)
		bad(p, "IP options");
	else if (get16(ip + 6) & 0x3fff)
		bad(p, "fragment");
	if (p->why)
		return;
	p->end = ETH_HEADER + total;
	p->transport = ETH_HEADER + IP4_HEADER;
	parse_transport(frame, p);
}

static void parse_ip6(const uint8_t *frame, size_t n, struct packet *p)
{
	const uint8_t *ip = frame + ETH_HEADER;
	size_t size;

	if (n < ETH_HEADER + IP6_HEADER || ip[0] >> 4 != 6) {
		bad(p, "malformed IPv6");
		return;
	}
	p->from = net_addr_v6(ip + 8);
	p->to = net_addr_v6(ip + 24);
	p->proto = ip[6];
	size = get16(ip + 4);
	if (size > n - ETH_HEADER - IP6_HEADER) {
		bad(p, "malformed IPv6");
		return;
	}
	p->end = ETH_HEADER + IP6_HEADER + size;
	p->transport = ETH_HEADER + IP6_HEADER;
	parse_transport(frame, p);
}

void packet_parse(const uint8_t *frame, size_t n, struct packet *ret)
{
	*ret = (struct packet){ .kind = PACKET_NOISE, .ip = ETH_HEADER };
	if (n < ETH_HEADER || n > LINK_FRAME_MAX)
		return;
	switch (get16(frame + 12)) {
	case TYPE_ARP:
		parse_arp(frame, n, ret);
		break;
	case TYPE_IP4:
		parse_ip4(frame, n, ret);
		break;
	case TYPE_IP6:
		parse_ip6(frame, n, ret);
		break;
	default: /* no protocol that anything here speaks */
		break;
	}
}

uint32_t tcp_length(const struct packet *p)
{
	return (uint32_t)(p->end - p->payload) + !!(p->flags & TCP_F_SYN) + !!(p->flags & TCP_F_FIN);
}

/* ---- checksums (RFC 1071, 1624) */

static uint32_t sum(const uint8_t *p, size_t n, uint32_t start)
{
	for (; n > 1; p += 2, n -= 2)
		start += get16(p);
	return n ? start + ((uint32_t)*p << 8) : start;
}

static uint16_t fold(uint32_t s)
{
	s = (s & 0xffff) + (s >> 16);
	return (uint16_t) ~((s & 0xffff) + (s >> 16));
}

/* Of what is behind the IP header, with the addresses, as TCP, UDP and ICMPv6 want it. */
static uint16_t transport_sum(const uint8_t *frame, const struct net_addr *from, const struct net_addr *to,
			      uint8_t proto, size_t at, size_t end)
{
	const size_t size = net_addr_bits(from) / 8;
	uint32_t s = sum(from->bytes, size, sum(to->bytes, size, proto + (uint32_t)(end - at)));

	/* At most 32 KiB of it: it cannot overflow. */
	return fold(sum(frame + at, end - at, s));
}

static void shift(uint8_t *frame, const struct packet *p, size_t field, uint32_t by)
{
	uint8_t *at = frame + p->transport + field, *check = frame + p->transport + 16;
	uint32_t s = (uint16_t)~get16(check);

	s += (uint16_t)~get16(at) + (uint32_t)(uint16_t)~get16(at + 2);
	put32(at, get32(at) + by);
	s += get16(at) + (uint32_t)get16(at + 2);
	put16(check, fold(s));
}

void tcp_shift_seq(uint8_t *frame, const struct packet *p, uint32_t by)
{
	shift(frame, p, 4, by);
}

void tcp_shift_ack(uint8_t *frame, const struct packet *p, uint32_t by)
{
	shift(frame, p, 8, by);
}

/* ---- making */

/* Ethernet and IP headers of a packet with `size` bytes behind them; where those begin. */
static size_t put_headers(uint8_t *ret, const uint8_t *eth_from, const uint8_t *eth_to,
			  const struct net_addr *from, const struct net_addr *to, uint8_t proto, size_t size)
{
	uint8_t *ip = ret + ETH_HEADER;

	memcpy(ret, eth_to, 6);
	memcpy(ret + 6, eth_from, 6);
	put16(ret + 12, from->family == AF_INET ? TYPE_IP4 : TYPE_IP6);
	if (from->family == AF_INET6) {
		put32(ip, 6u << 28);
		put16(ip + 4, (uint32_t)size);
		ip[6] = proto;
		ip[7] = TTL;
		memcpy(ip + 8, from->bytes, 16);
		memcpy(ip + 24, to->bytes, 16);
		return ETH_HEADER + IP6_HEADER;
	}
	memset(ip, 0, IP4_HEADER);
	ip[0] = 0x45;
	put16(ip + 2, (uint32_t)(IP4_HEADER + size));
	ip[6] = 0x40; /* do not fragment */
	ip[8] = TTL;
	ip[9] = proto;
	memcpy(ip + 12, from->bytes, 4);
	memcpy(ip + 16, to->bytes, 4);
	put16(ip + 10, fold(sum(ip, IP4_HEADER, 0)));
	return ETH_HEADER + IP4_HEADER;
}

size_t packet_tcp(const uint8_t eth_from[6], const uint8_t eth_to[6], const struct tcp_segment *s,
		  uint8_t ret[PACKET_MADE_MAX])
{
	const size_t at = put_headers(ret, eth_from, eth_to, &s->from, &s->to, IPPROTO_TCP, TCP_HEADER);
	uint8_t *tcp = ret + at;

	memset(tcp, 0, TCP_HEADER);
	put16(tcp, s->from_port);
	put16(tcp + 2, s->to_port);
	put32(tcp + 4, s->seq);
	put32(tcp + 8, s->ack);
	tcp[12] = TCP_HEADER / 4 << 4;
	tcp[13] = s->flags;
	put16(tcp + 16, transport_sum(ret, &s->from, &s->to, IPPROTO_TCP, at, at + TCP_HEADER));
	return at + TCP_HEADER;
}

size_t packet_reset(const uint8_t *frame, const struct packet *p, uint8_t ret[PACKET_MADE_MAX])
{
	struct tcp_segment s = { .from = p->to,
				 .to = p->from,
				 .from_port = p->to_port,
				 .to_port = p->from_port,
				 .flags = TCP_F_RST };

	if (p->flags & TCP_F_ACK) {
		s.seq = p->ack;
	} else {
		s.flags |= TCP_F_ACK;
		s.ack = p->seq + tcp_length(p);
	}
	return packet_tcp(frame, frame + 6, &s, ret);
}

size_t packet_prohibited(const uint8_t *frame, const struct packet *p, uint8_t ret[PACKET_MADE_MAX])
{
	const bool v6 = p->to.family == AF_INET6;
	/* The header and eight bytes, as RFC 792 has it, are enough for whoever sent it. */
	const size_t header = (v6 ? IP6_HEADER : IP4_HEADER) + 8;
	const size_t quoted = p->end - p->ip < header ? p->end - p->ip : header;
	const size_t size = ICMP_HEADER + quoted;
	const uint8_t proto = v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	const size_t at = put_headers(ret, frame, frame + 6, &p->to, &p->from, proto, size);
	uint8_t *icmp = ret + at;

	memset(icmp, 0, ICMP_HEADER);
	icmp[0] = v6 ? ICMP6_UNREACHABLE : ICMP_UNREACHABLE;
	icmp[1] = v6 ? ICMP6_PROHIBITED : ICMP_PROHIBITED;
	memcpy(icmp + ICMP_HEADER, frame + p->ip, quoted);
	put16(icmp + 2,
	      v6 ? transport_sum(ret, &p->to, &p->from, proto, at, at + size) : fold(sum(icmp, size, 0)));
	return at + size;
}

size_t packet_udp_answer(const uint8_t *frame, const struct packet *p, const void *payload, size_t n,
			 uint8_t *ret, size_t size)
{
	const size_t at = ETH_HEADER + (p->to.family == AF_INET6 ? IP6_HEADER : IP4_HEADER);
	uint8_t *udp = ret + at;
	uint16_t check;

	if (n > LINK_MTU - IP6_HEADER - UDP_HEADER || at + UDP_HEADER + n > size)
		return 0;
	put_headers(ret, frame, frame + 6, &p->to, &p->from, IPPROTO_UDP, UDP_HEADER + n);
	put16(udp, p->to_port);
	put16(udp + 2, p->from_port);
	put16(udp + 4, (uint32_t)(UDP_HEADER + n));
	put16(udp + 6, 0);
	memcpy(udp + UDP_HEADER, payload, n);
	check = transport_sum(ret, &p->to, &p->from, IPPROTO_UDP, at, at + UDP_HEADER + n);
	put16(udp + 6, check ? check : 0xffff);
	return at + UDP_HEADER + n;
}

bool packet_needs_nobody(const uint8_t *frame, size_t n)
{
	struct packet p;

	packet_parse(frame, n, &p);
	switch (p.kind) {
	case PACKET_NOISE:
	case PACKET_BAD: /* what is not let through needs no other word if nobody listens yet */
		return true;
	case PACKET_TCP:
		return p.flags & TCP_F_RST;
	case PACKET_ICMP: /* to everybody: router solicitations and the like */
		return p.to.family == AF_INET6 && p.to.bytes[0] == 0xff;
	case PACKET_NEIGHBOUR: /* an announcement, or a look for somebody by an address of no use here */
		return frame[p.transport] == ICMP6_ADVERTISEMENT || p.from.bytes[0] != 0xfd;
	case PACKET_ARP:
		return net_addr_equal(&p.from, &p.to); /* an announcement */
	default:
		return false;
	}
}
