/* SPDX-License-Identifier: MIT */
/*
 * filter.c - the packet filter between a machine and the user-space stack
 *
 * A TCP flow begins with the guest's SYN, if the policy allows it, or with one of the stack's, when somebody
 * connected to a published port. A segment of no flow is answered as a host would that knows nothing of it:
 * that is how a fork learns of connections that are its origin's.
 *
 * libslirp's initial sequence numbers are the same in every instance. Each flow shifts them by a random number:
 * what the stack sends by adding it, what the guest acknowledges by taking it off. (Neither side negotiates
 * selective acknowledgements, which have sequence numbers in options: libslirp knows none.)
 */
#include "vm/net/filter.h"

#include <netinet/in.h>
#include <stddef.h>
#include <string.h>

#include "vm/net/link.h"

enum { DNS_PORT = 53, TFTP_PORT = 69 };

static bool own_all(const struct net_addr *addr)
{
	(void)addr;
	return true;
}

void filter_init(struct filter *filter, const struct filter_calls *calls, struct flow_board *board,
		 bool (*own)(const struct net_addr *addr))
{
	filter->calls = *calls;
	filter->policy = (struct policy){ .mode = NET_NONE, .own = own ? own : own_all };
	flows_init(&filter->flows, board);
}

void filter_release(struct filter *filter)
{
	rules_release(&filter->policy.rules);
}

/* ---- refusals */

static void deny(struct filter *filter, const struct packet *p, const char *why, const char *name,
		 uint64_t now_ns)
{
	unsigned at = 0;
	const struct denial denial = {
		.proto = p->proto,
		.to = p->to,
		.port = p->to_port,
		.name = name ? name : names_next(&filter->names, &p->to, now_ns, &at),
		.why = why,
	};

	filter->calls.denied(filter->calls.arg, &denial);
}

/* Tell the sender. */
static void refuse(struct filter *filter, const uint8_t *frame, const struct packet *p)
{
	uint8_t answer[PACKET_MADE_MAX];
	size_t n;

	if (p->kind == PACKET_TCP)
		n = p->flags & TCP_F_RST ? 0 : packet_reset(frame, p, answer);
	else
		n = packet_prohibited(frame, p, answer);
	if (n)
		filter->calls.to_guest(filter->calls.arg, answer, n);
}

/* May it begin? Otherwise it is refused, and that is told. */
static bool allowed(struct filter *filter, const uint8_t *frame, const struct packet *p, uint64_t now_ns)
{
	const char *why =
		policy_refuses(&filter->policy, &filter->names, p->proto, &p->to, p->to_port, now_ns);

	/* libslirp would take it for a question to its own server. */
	if (!why && p->proto == IPPROTO_UDP && p->to_port == TFTP_PORT && net_addr_is_gateway(&p->to))
		why = "never allowed";
	if (!why)
		return true;
	deny(filter, p, why, NULL, now_ns);
	refuse(filter, frame, p);
	return false;
}

static struct flow *open_flow(struct filter *filter, const uint8_t *frame, const struct packet *p,
			      uint64_t now_ns)
{
	struct flow *flow;

	if (!allowed(filter, frame, p, now_ns))
		return NULL;
	flow = flow_new(&filter->flows, p->proto, p->from_port, &p->to, p->to_port, now_ns);
	if (!flow) {
		deny(filter, p, "too many connections", NULL, now_ns);
		refuse(filter, frame, p);
	}
	return flow;
}

/* ---- TCP */

static void note_end(struct filter *filter, struct flow *flow, const struct packet *p)
{
	if (p->flags & TCP_F_RST)
		flow_free(&filter->flows, flow);
	else if (flow->fin_guest && flow->fin_peer)
		flow->state = FLOW_CLOSING;
}

static void count(struct filter *filter, struct flow *flow, const struct packet *p, bool sent,
		  uint64_t now_ns)
{
	const size_t n = p->end - p->payload;

	flow->used_ns = now_ns;
	if (sent) {
		flow->sent += n;
		filter->flows.board->sent += n;
	} else {
		flow->received += n;
		filter->flows.board->received += n;
	}
}

static void tcp_from_guest(struct filter *filter, uint8_t *frame, const struct packet *p, uint64_t now_ns)
{
	struct flow *flow = flow_find(&filter->flows, IPPROTO_TCP, p->from_port, &p->to, p->to_port);
	const bool begins = (p->flags & (TCP_F_SYN | TCP_F_ACK | TCP_F_RST)) == TCP_F_SYN;

	if (flow && begins && flow->state == FLOW_CLOSING) {
		/* The port is used again. */
		flow_free(&filter->flows, flow);
		flow = NULL;
	}
	if (!flow && !begins) {
		refuse(filter, frame, p);
		return;
	}
	if (!flow) {
		flow = open_flow(filter, frame, p, now_ns);
		if (!flow)
			return;
		flow->shift = filter->calls.random(filter->calls.arg);
	}
	count(filter, flow, p, true, now_ns);
	if ((int32_t)(p->seq + tcp_length(p) - flow->guest_next) > 0 || begins)
		flow->guest_next = p->seq + tcp_length(p);
	if (p->flags & TCP_F_ACK) {
		flow->guest_ack = p->ack;
		tcp_shift_ack(frame, p, -flow->shift);
	}
	if (p->flags & TCP_F_FIN)
		flow->fin_guest = true;
	filter->calls.to_stack(filter->calls.arg, frame, p->end);
	/* The stack may have answered, and ended it, meanwhile. */
	flow = flow_find(&filter->flows, IPPROTO_TCP, p->from_port, &p->to, p->to_port);
	if (flow)
		note_end(filter, flow, p);
}

static void tcp_from_stack(struct filter *filter, uint8_t *frame, const struct packet *p, uint64_t now_ns)
{
	struct flow *flow = flow_find(&filter->flows, IPPROTO_TCP, p->to_port, &p->from, p->from_port);
	const uint8_t begin = p->flags & (TCP_F_SYN | TCP_F_ACK | TCP_F_RST);

	if (!flow && begin == TCP_F_SYN) {
		flow = flow_new(&filter->flows, IPPROTO_TCP, p->to_port, &p->from, p->from_port, now_ns);
		if (!flow)
			return; /* the one who connects hears nothing, and tries again */
		flow->inbound = true;
		flow->shift = filter->calls.random(filter->calls.arg);
	}
	if (!flow) {
		/* Of one that has ended; there is nobody to confuse with it but by a reset. */
		if (p->flags & TCP_F_RST)
			filter->calls.to_guest(filter->calls.arg, frame, p->end);
		return;
	}
	count(filter, flow, p, false, now_ns);
	if (flow->state == FLOW_OPENING &&
	    (begin == (TCP_F_SYN | TCP_F_ACK) || (flow->inbound && p->flags & TCP_F_ACK)))
		flow->state = FLOW_OPEN;
	if (p->flags & TCP_F_FIN)
		flow->fin_peer = true;
	/* A reset in answer to a SYN has no number of the stack's. */
	if (!(p->flags & TCP_F_RST) || p->seq)
		tcp_shift_seq(frame, p, flow->shift);
	filter->calls.to_guest(filter->calls.arg, frame, p->end);
	note_end(filter, flow, p);
}

/* End a flow for the guest. */
static void reset_guest(struct filter *filter, const struct flow *flow)
{
	struct tcp_segment s = { .from = flow->peer,
				 .from_port = flow->peer_port,
				 .to_port = flow->guest_port,
				 .seq = flow->guest_ack,
				 .ack = flow->guest_next,
				 .flags = TCP_F_RST | TCP_F_ACK };
	uint8_t frame[PACKET_MADE_MAX];

	net_addr_parse(flow->peer.family == AF_INET ? LINK_GUEST : LINK_GUEST6, &s.to);
	/* If the guest has data that it has not acknowledged, it asks back, and is told again. */
	filter->calls.to_guest(filter->calls.arg, frame,
			       packet_tcp(filter->stack_mac, filter->guest_mac, &s, frame));
}

/* And at both ends. */
static void cut_tcp(struct filter *filter, const struct flow *flow)
{
	struct tcp_segment s = { .to = flow->peer,
				 .from_port = flow->guest_port,
				 .to_port = flow->peer_port,
				 .seq = flow->guest_next,
				 .ack = flow->guest_ack - flow->shift,
				 .flags = TCP_F_RST | TCP_F_ACK };
	uint8_t frame[PACKET_MADE_MAX];

	net_addr_parse(flow->peer.family == AF_INET ? LINK_GUEST : LINK_GUEST6, &s.from);
	filter->calls.to_stack(filter->calls.arg, frame,
			       packet_tcp(filter->guest_mac, filter->stack_mac, &s, frame));
	reset_guest(filter, flow);
}

void filter_end_former(struct filter *filter)
{
	static const uint8_t guest_mac[6] = LINK_MAC_BYTES;
	struct flow_board *board = filter->flows.board;
	const size_t used = (size_t)(flows_end(board) - board->flow);
	struct flow former;
	size_t i;

	memcpy(filter->guest_mac, guest_mac, sizeof(guest_mac));
	for (i = 0; i < used; i++) {
		memcpy(&former, &board->flow[i], sizeof(former));
		if (former.state != FLOW_FREE && former.proto == IPPROTO_TCP &&
		    (former.peer.family == AF_INET || former.peer.family == AF_INET6))
			reset_guest(filter, &former);
	}
	memset(board, 0, offsetof(struct flow_board, flow) + used * sizeof(board->flow[0]));
}

void filter_set_policy(struct filter *filter, enum net_mode mode, struct rules *rules, uint64_t now_ns)
{
	struct flow_board *board = filter->flows.board;
	struct flow *flow, cut;

	rules_release(&filter->policy.rules);
	filter->policy.mode = mode;
	filter->policy.rules = *rules;
	*rules = (struct rules){ 0 };
	for (flow = board->flow; flow < flows_end(board); flow++) {
		if (flow->state == FLOW_FREE || flow->inbound ||
		    !policy_refuses(&filter->policy, &filter->names, flow->proto, &flow->peer,
				    flow->peer_port, now_ns))
			continue;
		memcpy(&cut, flow, sizeof(cut));
		flow_free(&filter->flows, flow);
		if (cut.proto == IPPROTO_TCP)
			cut_tcp(filter, &cut);
	}
}

/* ---- UDP and names */

static void answer_query(struct filter *filter, const struct dns_client *client, const uint8_t *msg, size_t n)
{
	static uint8_t frame[ETH_HEADER + IP6_HEADER + UDP_HEADER + DNS_MESSAGE_MAX];

	n = packet_udp_answer(client->headers, &client->packet, msg, n, frame, sizeof(frame));
	if (n)
		filter->calls.to_guest(filter->calls.arg, frame, n);
}

static void refuse_query(struct filter *filter, const struct dns_client *client, const uint8_t *msg,
			 unsigned code)
{
	uint8_t answer[DNS_HEADER + NAME_TEXT_MAX + 8];

	answer_query(filter, client, answer,
		     dns_refusal(msg, &client->question, code, answer, sizeof(answer)));
}

static void query(struct filter *filter, const uint8_t *frame, const struct packet *p, uint64_t now_ns)
{
	const uint8_t *msg = frame + p->payload;
	const size_t n = p->end - p->payload;
	struct dns_client client = { .packet = *p };
	const char *why;

	memcpy(client.headers, frame, p->payload);
	if (!dns_parse_query(msg, n, &client.question)) {
		deny(filter, p, "not a question for a name", NULL, now_ns);
		return;
	}
	why = policy_refuses_name(&filter->policy, client.question.name);
	if (!why) {
		filter->calls.query(filter->calls.arg, &client, msg, n);
		return;
	}
	deny(filter, p, why, client.question.name, now_ns);
	refuse_query(filter, &client, msg, DNS_REFUSED);
}

struct name_pin {
	struct filter *filter;
	const char *name;
	uint64_t now_ns;
};

static void pin_address(void *arg, const struct net_addr *addr, uint32_t ttl)
{
	const struct name_pin *pin = arg;

	names_add(&pin->filter->names, pin->name, addr, ttl, pin->now_ns);
}

void filter_answer(struct filter *filter, const struct dns_client *client, const uint8_t *msg, size_t n,
		   uint64_t now_ns)
{
	struct name_pin pin = { filter, client->question.name, now_ns };

	if (!dns_is_answer(msg, n, &client->question) || policy_refuses_name(&filter->policy, pin.name))
		return; /* the rules may have changed while it was on its way */
	dns_each_address(msg, n, pin_address, &pin);
	answer_query(filter, client, msg, n);
}

void filter_no_answer(struct filter *filter, const struct dns_client *client)
{
	uint8_t msg[DNS_HEADER + NAME_TEXT_MAX + 8] = { 0 };
	const char *label = client->question.name, *dot;
	size_t at = DNS_HEADER, n;

	/* The question anew: all of it is known but flags that do not matter. */
	dns_set_id(msg, client->question.id);
	while (*label) {
		dot = strchrnul(label, '.');
		n = (size_t)(dot - label);
		msg[at++] = (uint8_t)n;
		memcpy(msg + at, label, n);
		at += n;
		label = *dot ? dot + 1 : dot;
	}
	msg[at++] = 0;
	msg[at++] = (uint8_t)(client->question.type >> 8);
	msg[at++] = (uint8_t)client->question.type;
	msg[at++] = 0;
	msg[at++] = 1;
	if (at == client->question.end)
		refuse_query(filter, client, msg, DNS_SERVFAIL);
}

static void udp_from_guest(struct filter *filter, const uint8_t *frame, const struct packet *p,
			   uint64_t now_ns)
{
	struct flow *flow;

	if (net_addr_is_resolver(&p->to) && p->to_port == DNS_PORT) {
		query(filter, frame, p, now_ns);
		return;
	}
	flow = flow_find(&filter->flows, IPPROTO_UDP, p->from_port, &p->to, p->to_port);
	if (!flow)
		flow = open_flow(filter, frame, p, now_ns);
	if (!flow)
		return;
	count(filter, flow, p, true, now_ns);
	filter->calls.to_stack(filter->calls.arg, frame, p->end);
}

static void udp_from_stack(struct filter *filter, const uint8_t *frame, const struct packet *p,
			   uint64_t now_ns)
{
	struct flow *flow = flow_find(&filter->flows, IPPROTO_UDP, p->to_port, &p->from, p->from_port);

	if (!flow) {
		/* To a published port: the stack has no other reason. */
		flow = flow_new(&filter->flows, IPPROTO_UDP, p->to_port, &p->from, p->from_port, now_ns);
		if (!flow)
			return;
		flow->inbound = true;
	}
	count(filter, flow, p, false, now_ns);
	filter->calls.to_guest(filter->calls.arg, frame, p->end);
}

/* ---- frames */

static bool is_multicast(const struct net_addr *addr)
{
	return addr->family == AF_INET ? addr->bytes[0] >= 224 : addr->bytes[0] == 0xff;
}

static bool is_link_local(const struct net_addr *addr)
{
	return addr->family == AF_INET6 && addr->bytes[0] == 0xfe && (addr->bytes[1] & 0xc0) == 0x80;
}

/* What hosts say to everybody: there is nobody. */
static bool to_everybody(const struct packet *p)
{
	static const uint8_t link_broadcast[] = { 10, 0, 2, 255 };

	return is_multicast(&p->to) || (p->to.family == AF_INET && !memcmp(p->to.bytes, link_broadcast, 4));
}

void filter_from_guest(struct filter *filter, uint8_t *frame, size_t n, uint64_t now_ns)
{
	struct packet p;

	packet_parse(frame, n, &p);
	if (p.kind == PACKET_NOISE)
		return;
	if (p.kind == PACKET_ARP || p.kind == PACKET_NEIGHBOUR) {
		/* The stack learns the guest's hardware address from it: only of the guest's own. */
		if (net_addr_is_guest(&p.from) || (p.kind == PACKET_NEIGHBOUR && is_link_local(&p.from)))
			filter->calls.to_stack(filter->calls.arg, frame, p.end);
		return;
	}
	if (p.kind == PACKET_BAD) {
		deny(filter, &p, p.why, NULL, now_ns);
		return;
	}
	if (to_everybody(&p) || is_link_local(&p.from) || p.kind == PACKET_ICMP)
		return;
	if (!net_addr_is_guest(&p.from)) {
		deny(filter, &p, "not the machine's address", NULL, now_ns);
		return;
	}
	memcpy(filter->guest_mac, frame + 6, 6);
	memcpy(filter->stack_mac, frame, 6);
	if (p.kind == PACKET_TCP)
		tcp_from_guest(filter, frame, &p, now_ns);
	else if (p.kind == PACKET_UDP)
		udp_from_guest(filter, frame, &p, now_ns);
	else if (allowed(filter, frame, &p, now_ns))
		filter->calls.to_stack(filter->calls.arg, frame, p.end);
}

void filter_from_stack(struct filter *filter, uint8_t *frame, size_t n, uint64_t now_ns)
{
	struct packet p;

	packet_parse(frame, n, &p);
	switch (p.kind) {
	case PACKET_TCP:
		tcp_from_stack(filter, frame, &p, now_ns);
		break;
	case PACKET_UDP:
		udp_from_stack(filter, frame, &p, now_ns);
		break;
	case PACKET_ICMP:
		/* Router advertisements: the guest has its addresses. */
		if (is_multicast(&p.to))
			break;
		filter->calls.to_guest(filter->calls.arg, frame, p.end);
		break;
	case PACKET_ARP:
	case PACKET_NEIGHBOUR:
		filter->calls.to_guest(filter->calls.arg, frame, p.end);
		break;
	case PACKET_ECHO:
	case PACKET_NOISE:
	case PACKET_BAD:
		break;
	}
}
