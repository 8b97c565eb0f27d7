/* SPDX-License-Identifier: MIT */
/*
 * flow.h - the connections of a machine to the outside
 *
 * The table is in memory that the daemon reads at any time, for `connections`: it may see an entry half
 * written, and checks what it shows. Only the helper writes, and it believes what it wrote: the daemon is
 * trusted.
 */
#ifndef SBX_VM_NET_FLOW_H
#define SBX_VM_NET_FLOW_H

#include <stdatomic.h>

#include "vm/net/packet.h"

enum { FLOWS_MAX = 2048, FLOW_HASH = 1024 };

enum flow_state { FLOW_FREE, FLOW_OPENING, FLOW_OPEN, FLOW_CLOSING, FLOW_STATES };

struct flow {
	_Atomic uint8_t state; /* enum flow_state */
	uint8_t proto;
	bool inbound; /* somebody connected to the guest */
	bool fin_guest, fin_peer;
	uint16_t guest_port, peer_port;
	struct net_addr peer;
	uint64_t began_ns, used_ns; /* CLOCK_MONOTONIC */
	uint64_t sent, received;    /* bytes of the guest's and for it, without headers */
	/* TCP, in the guest's numbers */
	uint32_t shift;      /* what is added to the stack's sequence numbers */
	uint32_t guest_next; /* what the guest will send next */
	uint32_t guest_ack;  /* what it expects next */
	uint16_t next;       /* in its chain, plus 1 */
};

struct flow_board {
	_Atomic uint64_t sent, received; /* bytes of all, ended ones too */
	_Atomic uint64_t turns;          /* of the helper's loop: one that stands still has stalled */
	_Atomic uint32_t used; /* entries behind these are zero, and no page of theirs was touched */
	struct flow flow[FLOWS_MAX];
};

struct flows {
	struct flow_board *board;
	uint16_t chain[FLOW_HASH]; /* index plus 1; 0: none */
	uint16_t free_at;          /* where to look for a free one first */
	unsigned n;
};

/* Behind the last entry that may be in use, whatever the other process wrote. */
static inline const struct flow *flows_end(const struct flow_board *board)
{
	const uint32_t used = board->used;

	return board->flow + (used < FLOWS_MAX ? used : FLOWS_MAX);
}

/* A fresh table over zeroed memory. */
void flows_init(struct flows *flows, struct flow_board *board);
struct flow *flow_find(const struct flows *flows, uint8_t proto, uint16_t guest_port,
		       const struct net_addr *peer, uint16_t peer_port);
/* NULL: the table is full. */
struct flow *flow_new(struct flows *flows, uint8_t proto, uint16_t guest_port, const struct net_addr *peer,
		      uint16_t peer_port, uint64_t now_ns);
void flow_free(struct flows *flows, struct flow *flow);
/* Forget what nobody has used for longer than its kind lasts. */
void flows_sweep(struct flows *flows, uint64_t now_ns);

/* Has a connection begun that has not ended, as far as the guest can know? */
bool flows_any(const struct flow_board *board);
/* Has one begun that neither side has ended? */
bool flows_open(const struct flow_board *board);
/* One line for each that is open: "tcp 10.0.2.15:40000 > 192.0.2.1:443 open sent 10 received 20". The board may
 * be written meanwhile. */
struct buf;
void flows_show(const struct flow_board *board, struct buf *text);

#endif
