/* SPDX-License-Identifier: MIT */
/* test_net_filter.c - frames: what goes on, what is answered, what is told */
#include <netinet/in.h>
#include <string.h>

#include "tests/unit/unit.h"
#include "vm/net/filter.h"
#include "vm/net/link.h"

enum { KEEP = 8 };

/* What the filter did with the last frames. */
static struct {
	uint8_t guest[KEEP][LINK_FRAME_MAX], stack[KEEP][LINK_FRAME_MAX];
	size_t guest_len[KEEP], stack_len[KEEP];
	unsigned to_guest, to_stack, denied, queries;
	struct denial denial;
	char name[64];
	struct dns_client client;
} seen;

static struct filter filter;
static struct flow_board board;
static uint64_t now = 1000;
static const uint8_t guest_mac[6] = LINK_MAC_BYTES, stack_mac[6] = { 0x52, 0x55, 10, 0, 2, 2 };

static void on_guest(void *arg, const uint8_t *frame, size_t n)
{
	(void)arg;
	memcpy(seen.guest[seen.to_guest % KEEP], frame, n);
	seen.guest_len[seen.to_guest++ % KEEP] = n;
}

static void on_stack(void *arg, const uint8_t *frame, size_t n)
{
	(void)arg;
	memcpy(seen.stack[seen.to_stack % KEEP], frame, n);
	seen.stack_len[seen.to_stack++ % KEEP] = n;
}

static void on_denied(void *arg, const struct denial *denial)
{
	(void)arg;
	seen.denied++;
	seen.denial = *denial;
	snprintf(seen.name, sizeof(seen.name), "%s", denial->name ? denial->name : "");
}

static void on_query(void *arg, const struct dns_client *client, const uint8_t *msg, size_t n)
{
	(void)arg;
	(void)msg;
	CHECK(n >= client->question.end);
	seen.queries++;
	seen.client = *client;
}

static uint32_t shift(void *arg)
{
	(void)arg;
	return 0xfffffff0u; /* so that sums wrap around */
}

static bool nobody(const struct net_addr *addr)
{
	(void)addr;
	return false;
}

static void policy(enum net_mode mode, const char *text)
{
	struct rules rules;

	CHECK(!rules_parse(text, strlen(text), &rules, NULL));
	filter_set_policy(&filter, mode, &rules, now);
}

static void begin(enum net_mode mode, const char *text)
{
	static const struct filter_calls calls = { on_guest, on_stack, on_denied, on_query, shift, NULL };

	filter_release(&filter);
	memset(&filter, 0, sizeof(filter));
	memset(&board, 0, sizeof(board));
	memset(&seen, 0, sizeof(seen));
	filter_init(&filter, &calls, &board, nobody);
	policy(mode, text);
}

static struct net_addr addr(const char *text)
{
	struct net_addr ret;

	CHECK(net_addr_parse(text, &ret));
	return ret;
}

/* ---- frames of the test's */

static uint8_t frame[LINK_FRAME_MAX];

static uint32_t add16(const uint8_t *p, size_t n)
{
	uint32_t s = 0;

	for (; n > 1; p += 2, n -= 2)
		s += (uint32_t)(p[0] << 8 | p[1]);
	return n ? s + (uint32_t)(*p << 8) : s;
}

/* Is the checksum of a TCP or UDP packet right? */
static bool sum_is_right(const uint8_t *f)
{
	struct packet p;
	uint32_t s;

	packet_parse(f, LINK_FRAME_MAX, &p);
	s = add16(p.from.bytes, 16) + add16(p.to.bytes, 16) + p.proto + (uint32_t)(p.end - p.transport) +
	    add16(f + p.transport, p.end - p.transport);
	s = (s & 0xffff) + (s >> 16);
	return ((s & 0xffff) + (s >> 16)) == 0xffff;
}

static size_t tcp(const char *from, uint16_t from_port, const char *to, uint16_t to_port, uint8_t flags,
		  uint32_t seq, uint32_t ack)
{
	const struct tcp_segment s = { addr(from), addr(to), from_port, to_port, seq, ack, flags };
	const bool out = !strcmp(from, LINK_GUEST) || !strcmp(from, LINK_GUEST6);

	return packet_tcp(out ? guest_mac : stack_mac, out ? stack_mac : guest_mac, &s, frame);
}

static size_t udp(const char *to, uint16_t port, const void *payload, size_t n)
{
	struct packet p = { .from = addr(to),
			    .to = addr(strchr(to, ':') ? LINK_GUEST6 : LINK_GUEST),
			    .from_port = port,
			    .to_port = 40000 };
	uint8_t headers[ETH_HEADER];

	memcpy(headers, guest_mac, 6);
	memcpy(headers + 6, stack_mac, 6);
	return packet_udp_answer(headers, &p, payload, n, frame, sizeof(frame));
}

static void guest(size_t n)
{
	filter_from_guest(&filter, frame, n, now);
}

static struct packet last_to_guest(void)
{
	struct packet p;
	const unsigned at = (seen.to_guest - 1) % KEEP;

	CHECK(seen.to_guest);
	packet_parse(seen.guest[at], seen.guest_len[at], &p);
	return p;
}

static struct packet last_to_stack(void)
{
	struct packet p;
	const unsigned at = (seen.to_stack - 1) % KEEP;

	CHECK(seen.to_stack && sum_is_right(seen.stack[at]));
	packet_parse(seen.stack[at], seen.stack_len[at], &p);
	return p;
}

/* ---- tests */

static void a_refused_connection_is_reset(void)
{
	struct packet p;

	begin(NET_PUBLIC, "");
	guest(tcp(LINK_GUEST, 40000, "10.1.1.1", 22, TCP_F_SYN, 77, 0));
	CHECK(!seen.to_stack && seen.to_guest == 1 && seen.denied == 1 && !board.flow[0].state);
	p = last_to_guest();
	CHECK(p.flags == (TCP_F_RST | TCP_F_ACK) && p.ack == 78 && p.from_port == 22 && p.to_port == 40000);
	CHECK(sum_is_right(seen.guest[0]) && !memcmp(seen.guest[0], guest_mac, 6));
	CHECK(!strcmp(seen.denial.why, "private") && seen.denial.port == 22 &&
	      seen.denial.proto == IPPROTO_TCP);
	guest(tcp(LINK_GUEST6, 40000, "fd12::1", 22, TCP_F_SYN, 77, 0));
	CHECK(last_to_guest().flags == (TCP_F_RST | TCP_F_ACK) && sum_is_right(seen.guest[1]) &&
	      seen.denied == 2);
}

static void a_connection_opens_and_closes(void)
{
	const uint32_t by = shift(NULL);
	struct packet p;

	begin(NET_PUBLIC, "");
	guest(tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_SYN, 100, 0));
	p = last_to_stack();
	CHECK(p.seq == 100 && board.flow[0].state == FLOW_OPENING && !board.flow[0].inbound);
	filter_from_stack(&filter, frame,
			  tcp("1.1.1.1", 443, LINK_GUEST, 40000, TCP_F_SYN | TCP_F_ACK, 64001, 101), now);
	p = last_to_guest();
	CHECK(p.seq == 64001 + by && p.ack == 101 && sum_is_right(seen.guest[0]) &&
	      board.flow[0].state == FLOW_OPEN);
	guest(tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_ACK, 101, 64002 + by));
	p = last_to_stack();
	CHECK(p.ack == 64002 && p.seq == 101);
	guest(tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_ACK | TCP_F_FIN, 101, 64002 + by));
	filter_from_stack(&filter, frame,
			  tcp("1.1.1.1", 443, LINK_GUEST, 40000, TCP_F_FIN | TCP_F_ACK, 64002, 102), now);
	CHECK(board.flow[0].state == FLOW_CLOSING);
	flows_sweep(&filter.flows, now + UINT64_C(31000000000));
	CHECK(!board.flow[0].state && !filter.flows.n && !seen.denied);
}

static void segments_of_no_connection_are_reset(void)
{
	begin(NET_ALL, "");
	guest(tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_ACK, 5, 1234));
	CHECK(!seen.to_stack && last_to_guest().flags == TCP_F_RST && last_to_guest().seq == 1234 &&
	      !seen.denied);
	guest(tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_RST, 5, 0));
	CHECK(seen.to_guest == 1 && !seen.to_stack);
}

static void a_changed_rule_ends_connections(void)
{
	const uint32_t by = shift(NULL);

	begin(NET_ALLOW, "1.1.1.1:443\n2.2.2.2");
	guest(tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_SYN, 100, 0));
	filter_from_stack(&filter, frame,
			  tcp("1.1.1.1", 443, LINK_GUEST, 40000, TCP_F_SYN | TCP_F_ACK, 64001, 101), now);
	guest(tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_ACK, 101, 64002 + by));
	guest(tcp(LINK_GUEST, 40001, "2.2.2.2", 80, TCP_F_SYN, 100, 0));
	CHECK(filter.flows.n == 2);
	policy(NET_ALLOW, "2.2.2.2");
	CHECK(filter.flows.n == 1);
	CHECK(last_to_guest().flags & TCP_F_RST && last_to_guest().seq == 64002 + by &&
	      sum_is_right(seen.guest[1]));
	CHECK(last_to_stack().flags & TCP_F_RST && last_to_stack().seq == 101 &&
	      last_to_stack().ack == 64002);
	policy(NET_NONE, "2.2.2.2");
	CHECK(!filter.flows.n);
}

/* A helper has ended with what was open; another takes its board. */
static void what_a_former_helper_left_ends(void)
{
	static const struct filter_calls calls = { on_guest, on_stack, on_denied, on_query, shift, NULL };
	struct packet p;

	begin(NET_PUBLIC, "");
	guest(tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_SYN, 100, 0));
	filter_from_stack(&filter, frame,
			  tcp("1.1.1.1", 443, LINK_GUEST, 40000, TCP_F_SYN | TCP_F_ACK, 64001, 101), now);
	guest(tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_ACK, 101, 64002 + shift(NULL)));
	guest(tcp(LINK_GUEST6, 40001, "2606:4700::1", 443, TCP_F_SYN, 500, 0));
	guest(udp("1.1.1.1", 123, "ntp", 3));
	CHECK(flows_any(&board) && board.flow[2].state);
	CHECK(board.used == 3);
	/* A helper may have written anything there, and it need not say where. */
	board.used = UINT32_MAX;
	board.flow[3] = (struct flow){ .state = FLOW_OPEN, .proto = IPPROTO_TCP, .peer.family = 77 };
	memset(&seen, 0, sizeof(seen));
	filter_release(&filter);
	memset(&filter, 0, sizeof(filter));
	filter_init(&filter, &calls, &board, nobody);
	filter_end_former(&filter);
	CHECK(seen.to_guest == 2 && !seen.to_stack && !flows_any(&board) && !board.flow[2].state);
	packet_parse(seen.guest[0], seen.guest_len[0], &p);
	CHECK(p.flags == (TCP_F_RST | TCP_F_ACK) && p.seq == 64002 + shift(NULL) && p.ack == 101 &&
	      p.from_port == 443 && p.to_port == 40000 && sum_is_right(seen.guest[0]));
	/* One that has not opened yet believes a reset for its SYN. */
	p = last_to_guest();
	CHECK(p.ack == 501 && p.to_port == 40001 && p.from.family == AF_INET6 &&
	      sum_is_right(seen.guest[1]) && !memcmp(seen.guest[1], guest_mac, 6));
	/* Who has more to say is told as well. */
	guest(tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_ACK, 101, 64002));
	CHECK(last_to_guest().flags == TCP_F_RST && !seen.to_stack);
}

static void names_have_no_tcp(void)
{
	begin(NET_ALL, "");
	guest(tcp(LINK_GUEST, 40000, LINK_RESOLVER, 53, TCP_F_SYN, 77, 0));
	CHECK(last_to_guest().flags & TCP_F_RST && !seen.to_stack && seen.denied == 1);
	CHECK(!strcmp(seen.denial.why, "names are answered over UDP only"));
}

static void somebody_connects_to_the_guest(void)
{
	begin(NET_NONE, "");
	filter_from_stack(&filter, frame, tcp(LINK_GATEWAY, 5000, LINK_GUEST, 80, TCP_F_SYN, 64001, 0), now);
	CHECK(seen.to_guest == 1 && board.flow[0].inbound);
	guest(tcp(LINK_GUEST, 80, LINK_GATEWAY, 5000, TCP_F_SYN | TCP_F_ACK, 9, 64002 + shift(NULL)));
	CHECK(last_to_stack().ack == 64002 && !seen.denied);
	policy(NET_NONE, "");
	CHECK(filter.flows.n == 1);
	/* But it opens nothing the other way. */
	guest(tcp(LINK_GUEST, 81, LINK_GATEWAY, 5000, TCP_F_SYN, 9, 0));
	CHECK(seen.denied == 1 && seen.to_stack == 1);
}

static void udp_and_ping(void)
{
	struct packet p;
	size_t n;

	begin(NET_PUBLIC, "");
	guest(udp("1.1.1.1", 123, "time", 4));
	CHECK(seen.to_stack == 1 && board.flow[0].state == FLOW_OPEN && board.flow[0].sent == 4);
	guest(udp("192.168.0.1", 123, "time", 4));
	CHECK(seen.to_stack == 1 && seen.denied == 1);
	p = last_to_guest();
	CHECK(p.kind == PACKET_ICMP && seen.guest[0][p.transport] == 3 &&
	      seen.guest[0][p.transport + 1] == 13);
	guest(udp("fd77::1", 123, "time", 4));
	p = last_to_guest();
	CHECK(p.proto == IPPROTO_ICMPV6 && seen.guest[1][p.transport] == 1 && sum_is_right(seen.guest[1]));
	n = udp("10.3.3.3", 0x0800, "ping", 4);
	frame[ETH_HEADER + 9] = IPPROTO_ICMP;
	frame[ETH_HEADER + IP4_HEADER] = 8;
	guest(n);
	CHECK(seen.denied == 3 && seen.denial.proto == IPPROTO_ICMP);
	policy(NET_ALL, "");
	guest(n);
	CHECK(seen.to_stack == 2);
}

static void tftp_is_never_allowed(void)
{
	begin(NET_ALLOW, "host:69");
	guest(udp(LINK_GATEWAY, 69, "\0\1x\0octet", 10));
	CHECK(!seen.to_stack && seen.denied == 1);
}

static void hostile_frames_go_nowhere(void)
{
	static const uint8_t junk[64];
	size_t n, i;

	begin(NET_ALL, "0.0.0.0/0\n::/0\nhost:80");
	/* Every cut of a good frame, with and without lengths that say so. */
	n = tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_SYN, 100, 0);
	for (i = 0; i < n; i++)
		guest(i);
	n = tcp(LINK_GUEST6, 40000, "2606::1", 443, TCP_F_SYN, 100, 0);
	for (i = 0; i < n; i++)
		guest(i);
	CHECK(!seen.to_stack);
	/* Another's address. */
	guest(tcp("10.0.2.16", 40000, "1.1.1.1", 443, TCP_F_SYN, 100, 0));
	CHECK(seen.denied && !strcmp(seen.denial.why, "not the machine's address"));
	guest(tcp("127.0.0.1", 40000, "1.1.1.1", 443, TCP_F_SYN, 100, 0));
	guest(tcp("fd00::16", 40000, "2606::1", 443, TCP_F_SYN, 100, 0));
	guest(tcp("fe80::1", 40000, "2606::1", 443, TCP_F_SYN, 100, 0));
	/* Fragments, options. */
	n = tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_SYN, 100, 0);
	frame[ETH_HEADER + 6] = 0x20;
	guest(n);
	CHECK(!strcmp(seen.denial.why, "fragment"));
	frame[ETH_HEADER + 6] = 0;
	frame[ETH_HEADER + 7] = 1;
	guest(n);
	frame[ETH_HEADER + 7] = 0;
	frame[ETH_HEADER] = 0x46;
	guest(n);
	CHECK(!strcmp(seen.denial.why, "IP options"));
	/* Extension headers: hop-by-hop, routing, fragment, destination, and no next header. */
	for (i = 0; i < 6; i++) {
		n = tcp(LINK_GUEST6, 40000, "2606::1", 443, TCP_F_SYN, 100, 0);
		frame[ETH_HEADER + 6] = (const uint8_t[]){ 0, 43, 44, 60, 59, 51 }[i];
		guest(n);
		CHECK(!strcmp(seen.denial.why, "extension header or unknown protocol"));
	}
	/* A TCP header that is longer than the packet, or shorter than a header. */
	n = tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_SYN, 100, 0);
	frame[ETH_HEADER + IP4_HEADER + 12] = 0xf0;
	guest(n);
	frame[ETH_HEADER + IP4_HEADER + 12] = 0x40;
	guest(n);
	/* UDP whose length is another than the packet's. */
	n = udp("1.1.1.1", 123, junk, 64);
	frame[ETH_HEADER + IP4_HEADER + 5]--;
	guest(n);
	/* ARP in another's name. */
	memset(frame, 0, 60);
	memcpy(frame + 12, (const uint8_t[]){ 8, 6, 0, 1, 8, 0, 6, 4, 0, 1 }, 10);
	memcpy(frame + 28, (const uint8_t[]){ 10, 0, 2, 2 }, 4);
	guest(60);
	CHECK(!seen.to_stack && !filter.flows.n);
	memcpy(frame + 28, (const uint8_t[]){ 10, 0, 2, 15 }, 4);
	guest(60);
	CHECK(seen.to_stack == 1 && seen.stack_len[0] == ETH_HEADER + 28);
	/* To everybody, of protocols nobody has: dropped without a word. */
	seen.denied = 0;
	guest(udp("255.255.255.255", 67, "dhcp", 4));
	guest(udp("10.0.2.255", 137, "name", 4));
	guest(udp("224.0.0.251", 5353, "mdns", 4));
	guest(udp("ff02::1:2", 547, "dhcp", 4));
	frame[12] = 0x80;
	frame[13] = 0x35;
	guest(60);
	CHECK(!seen.denied && seen.to_stack == 1);
}

static void padding_is_cut(void)
{
	size_t n;

	begin(NET_ALL, "");
	n = tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_SYN, 100, 0);
	memset(frame + n, 0xee, 100);
	guest(n + 100);
	CHECK(seen.to_stack == 1 && seen.stack_len[0] == n);
}

static void the_table_has_an_end(void)
{
	unsigned i;

	begin(NET_ALL, "");
	for (i = 0; i < FLOWS_MAX; i++)
		guest(tcp(LINK_GUEST, (uint16_t)(1000 + i), "1.1.1.1", 443, TCP_F_SYN, 100, 0));
	CHECK(seen.to_stack == FLOWS_MAX && !seen.denied);
	guest(tcp(LINK_GUEST, 999, "1.1.1.1", 443, TCP_F_SYN, 100, 0));
	CHECK(seen.denied == 1 && !strcmp(seen.denial.why, "too many connections"));
	filter_from_stack(&filter, frame, tcp("1.1.1.1", 443, LINK_GUEST, 1000, TCP_F_RST, 0, 101), now);
	guest(tcp(LINK_GUEST, 999, "1.1.1.1", 443, TCP_F_SYN, 100, 0));
	CHECK(seen.denied == 1 && filter.flows.n == FLOWS_MAX);
	flows_sweep(&filter.flows, now + UINT64_C(181000000000));
	CHECK(!filter.flows.n);
	/* One that another helper filled, and says that nothing is in it. */
	for (i = 0; i < FLOWS_MAX; i++)
		board.flow[i].state = FLOW_OPEN;
	board.used = 0;
	memset(&seen, 0, sizeof(seen));
	filter_end_former(&filter);
	guest(tcp(LINK_GUEST, 999, "1.1.1.1", 443, TCP_F_SYN, 100, 0));
	CHECK(seen.denied == 1 && !filter.flows.n);
}

/* ---- names */

static const uint8_t question[] = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07"
				  "ExAmple\x03org\x00\x00\x01\x00\x01";

static size_t answer(uint8_t *msg, const uint8_t address[4])
{
	static const uint8_t record[] = "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04";
	size_t n = sizeof(question) - 1;

	memcpy(msg, question, n);
	msg[2] |= 0x80;
	msg[7] = 1;
	memcpy(msg + n, record, sizeof(record) - 1);
	memcpy(msg + n + sizeof(record) - 1, address, 4);
	return n + sizeof(record) - 1 + 4;
}

static void names_are_asked_and_pinned(void)
{
	uint8_t msg[512];
	struct packet p;
	size_t n;

	begin(NET_ALLOW, "example.org:443");
	guest(udp(LINK_RESOLVER, 53, question, sizeof(question) - 1));
	CHECK(seen.queries == 1 && !strcmp(seen.client.question.name, "example.org") && !filter.flows.n);
	guest(tcp(LINK_GUEST, 40000, "1.2.3.4", 443, TCP_F_SYN, 100, 0));
	CHECK(seen.denied == 1);
	n = answer(msg, (const uint8_t[]){ 1, 2, 3, 4 });
	filter_answer(&filter, &seen.client, msg, n, now);
	p = last_to_guest();
	CHECK(p.kind == PACKET_UDP && p.from_port == 53 && p.to_port == 40000 && p.end - p.payload == n);
	CHECK(sum_is_right(seen.guest[1]) && !memcmp(seen.guest[1] + p.payload, msg, n));
	guest(tcp(LINK_GUEST, 40000, "1.2.3.4", 443, TCP_F_SYN, 100, 0));
	CHECK(seen.to_stack == 1);
	guest(tcp(LINK_GUEST, 40000, "1.2.3.4", 80, TCP_F_SYN, 100, 0));
	CHECK(seen.to_stack == 1 && seen.denied == 2 && !strcmp(seen.name, "example.org"));
	/* The same name, pointed at a neighbour. */
	filter_answer(&filter, &seen.client, msg, answer(msg, (const uint8_t[]){ 192, 168, 0, 1 }), now);
	guest(tcp(LINK_GUEST, 40000, "192.168.0.1", 443, TCP_F_SYN, 100, 0));
	CHECK(seen.to_stack == 1 && seen.denied == 3 && !strcmp(seen.denial.why, "private"));
	/* An answer to something else. */
	n = seen.to_guest;
	msg[14] = 'y';
	filter_answer(&filter, &seen.client, msg, answer(msg, (const uint8_t[]){ 9, 9, 9, 9 }) - 1, now);
	CHECK(seen.to_guest == n + 1); /* its record is cut short: relayed, not pinned */
	guest(tcp(LINK_GUEST, 40000, "9.9.9.9", 443, TCP_F_SYN, 100, 0));
	CHECK(seen.to_stack == 1);
}

static void other_names_are_refused(void)
{
	struct packet p;
	uint8_t other[sizeof(question)];

	begin(NET_ALLOW, "example.com");
	guest(udp(LINK_RESOLVER, 53, question, sizeof(question) - 1));
	CHECK(!seen.queries && seen.denied == 1 && !strcmp(seen.name, "example.org"));
	p = last_to_guest();
	CHECK(p.kind == PACKET_UDP && (seen.guest[0][p.payload + 3] & 15) == DNS_REFUSED);
	CHECK(seen.guest[0][p.payload] == 0x12 && seen.guest[0][p.payload + 1] == 0x34);
	policy(NET_PUBLIC, "");
	guest(udp(LINK_RESOLVER6, 53, question, sizeof(question) - 1));
	CHECK(seen.queries == 1);
	filter_no_answer(&filter, &seen.client);
	p = last_to_guest();
	CHECK(p.to.family == AF_INET6 && (seen.guest[1][p.payload + 3] & 15) == DNS_SERVFAIL);
	/* What is no question: two of them, an answer, a name with a pointer, and none at all. */
	memcpy(other, question, sizeof(other));
	other[5] = 2;
	guest(udp(LINK_RESOLVER, 53, other, sizeof(other) - 1));
	other[5] = 1;
	other[2] = 0x80;
	guest(udp(LINK_RESOLVER, 53, other, sizeof(other) - 1));
	other[2] = 0;
	other[12] = 0xc0;
	guest(udp(LINK_RESOLVER, 53, other, sizeof(other) - 1));
	guest(udp(LINK_RESOLVER, 53, other, 5));
	CHECK(seen.queries == 1 && seen.denied == 5);
	/* Over TCP nobody listens. */
	guest(tcp(LINK_GUEST, 40000, LINK_RESOLVER, 53, TCP_F_SYN, 100, 0));
	CHECK(seen.denied == 6 && !seen.to_stack);
}

static void some_frames_need_nobody(void)
{
	size_t n = tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_RST, 5, 0);

	CHECK(packet_needs_nobody(frame, n));
	n = tcp(LINK_GUEST, 40000, "1.1.1.1", 443, TCP_F_SYN, 5, 0);
	CHECK(!packet_needs_nobody(frame, n));
	n = udp("1.1.1.1", 53, "x", 1);
	CHECK(!packet_needs_nobody(frame, n));
	frame[12] = 0x80; /* RARP, by which QEMU says that a machine has moved */
	frame[13] = 0x35;
	CHECK(packet_needs_nobody(frame, 60));
}

int main(void)
{
	TEST(a_refused_connection_is_reset);
	TEST(a_connection_opens_and_closes);
	TEST(segments_of_no_connection_are_reset);
	TEST(a_changed_rule_ends_connections);
	TEST(what_a_former_helper_left_ends);
	TEST(names_have_no_tcp);
	TEST(somebody_connects_to_the_guest);
	TEST(udp_and_ping);
	TEST(tftp_is_never_allowed);
	TEST(hostile_frames_go_nowhere);
	TEST(padding_is_cut);
	TEST(the_table_has_an_end);
	TEST(names_are_asked_and_pinned);
	TEST(other_names_are_refused);
	TEST(some_frames_need_nobody);
	filter_release(&filter);
	return 0;
}
