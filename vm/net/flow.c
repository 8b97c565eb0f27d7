/* SPDX-License-Identifier: MIT */
/* flow.c - the connections of a machine to the outside */
#include "vm/net/flow.h"

#include <inttypes.h>
#include <netinet/in.h>
#include <string.h>

#include "util/buf.h"
#include "vm/net/link.h"

#define SECOND UINT64_C(1000000000)

/* Seconds without a packet after which it is over. libslirp forgets a UDP socket after 240. */
enum { OPENING_S = 180, CLOSING_S = 30, UDP_S = 240 };

void flows_init(struct flows *flows, struct flow_board *board)
{
	*flows = (struct flows){ .board = board };
}

static uint16_t *head(struct flows *flows, uint8_t proto, uint16_t guest_port, const struct net_addr *peer,
		      uint16_t peer_port)
{
	uint32_t h = 2166136261u ^ proto;
	size_t i;

	h = (h ^ guest_port) * 16777619u;
	h = (h ^ peer_port) * 16777619u;
	for (i = 0; i < sizeof(peer->bytes); i++)
		h = (h ^ peer->bytes[i]) * 16777619u;
	return &flows->chain[(h ^ h >> 16) % FLOW_HASH];
}

struct flow *flow_find(const struct flows *flows, uint8_t proto, uint16_t guest_port,
		       const struct net_addr *peer, uint16_t peer_port)
{
	struct flow *flow;
	uint16_t at = *head((struct flows *)flows, proto, guest_port, peer, peer_port);

	for (; at; at = flow->next) {
		flow = &flows->board->flow[at - 1];
		if (flow->proto == proto && flow->guest_port == guest_port && flow->peer_port == peer_port &&
		    net_addr_equal(&flow->peer, peer))
			return flow;
	}
	return NULL;
}

struct flow *flow_new(struct flows *flows, uint8_t proto, uint16_t guest_port, const struct net_addr *peer,
		      uint16_t peer_port, uint64_t now_ns)
{
	uint16_t *chain = head(flows, proto, guest_port, peer, peer_port);
	struct flow *flow;
	unsigned i;

	/* Counted, and not believed of a table that another helper left. */
	for (i = 0; i < FLOWS_MAX && flows->board->flow[flows->free_at].state != FLOW_FREE; i++)
		flows->free_at = (uint16_t)((flows->free_at + 1) % FLOWS_MAX);
	if (i == FLOWS_MAX)
		return NULL;
	if (flows->board->used <= flows->free_at)
		flows->board->used = flows->free_at + 1u;
	flow = &flows->board->flow[flows->free_at];
	*flow = (struct flow){ .proto = proto,
			       .guest_port = guest_port,
			       .peer_port = peer_port,
			       .peer = *peer,
			       .began_ns = now_ns,
			       .used_ns = now_ns,
			       .next = *chain };
	flow->state = proto == IPPROTO_TCP ? FLOW_OPENING : FLOW_OPEN;
	*chain = (uint16_t)(flows->free_at + 1);
	flows->n++;
	return flow;
}

void flow_free(struct flows *flows, struct flow *flow)
{
	const uint16_t index = (uint16_t)(flow - flows->board->flow + 1);
	uint16_t *at = head(flows, flow->proto, flow->guest_port, &flow->peer, flow->peer_port);

	while (*at && *at != index)
		at = &flows->board->flow[*at - 1].next;
	*at = flow->next;
	flow->state = FLOW_FREE;
	flows->free_at = (uint16_t)(index - 1);
	flows->n--;
}

bool flows_any(const struct flow_board *board)
{
	const struct flow *flow, *end = flows_end(board);

	for (flow = board->flow; flow < end; flow++)
		if (flow->state != FLOW_FREE && flow->proto == IPPROTO_TCP)
			return true;
	return false;
}

bool flows_open(const struct flow_board *board)
{
	const struct flow *flow, *end = flows_end(board);

	for (flow = board->flow; flow < end; flow++)
		if ((flow->state == FLOW_OPENING || flow->state == FLOW_OPEN) && flow->proto == IPPROTO_TCP)
			return true;
	return false;
}

static uint64_t lasts(const struct flow *flow)
{
	if (flow->proto != IPPROTO_TCP)
		return UDP_S * SECOND;
	if (flow->state == FLOW_OPENING)
		return OPENING_S * SECOND;
	return flow->state == FLOW_CLOSING ? CLOSING_S * SECOND : UINT64_MAX;
}

void flows_sweep(struct flows *flows, uint64_t now_ns)
{
	struct flow *flow;

	for (flow = flows->board->flow; flow < flows_end(flows->board); flow++)
		if (flow->state != FLOW_FREE && now_ns - flow->used_ns > lasts(flow))
			flow_free(flows, flow);
}

void flows_show(const struct flow_board *board, struct buf *text)
{
	static const char *const states[FLOW_STATES] = { "", "opening", "open", "closing" };
	char peer[NET_ADDR_TEXT];
	const struct flow *at, *end = flows_end(board);
	struct flow flow;
	bool v6;

	for (at = board->flow; at < end; at++) {
		if (at->state == FLOW_FREE || at->state >= FLOW_STATES)
			continue;
		memcpy(&flow, at, sizeof(flow));
		if (flow.state == FLOW_FREE || flow.state >= FLOW_STATES)
			continue;
		v6 = flow.peer.family == AF_INET6;
		net_addr_format(&flow.peer, peer);
		buf_printf(text, "%s %s%s%s:%u %c %s%s%s:%u %s sent %" PRIu64 " received %" PRIu64 "\n",
			   flow.proto == IPPROTO_TCP ? "tcp" : "udp", v6 ? "[" : "",
			   v6 ? LINK_GUEST6 : LINK_GUEST, v6 ? "]" : "", flow.guest_port,
			   flow.inbound ? '<' : '>', v6 ? "[" : "", peer, v6 ? "]" : "", flow.peer_port,
			   states[flow.state], flow.sent, flow.received);
	}
}
