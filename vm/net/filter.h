/* SPDX-License-Identifier: MIT */
/*
 * filter.h - the packet filter between a machine and the user-space stack
 *
 * Every frame passes here, both ways. What comes from the guest is hostile: only what was parsed whole, has the
 * guest's addresses, and belongs to a flow that the policy allows, goes on, cut to its true length. A refusal is
 * an answer at once (RST, ICMP) and a word to `denied`. Names are looked up through here too: `query` gets what
 * may be asked, filter_answer what was answered.
 *
 * No system calls but through the calls below: the whole of it runs in a fuzzer. One thread.
 */
#ifndef SBX_VM_NET_FILTER_H
#define SBX_VM_NET_FILTER_H

#include "vm/net/dns.h"
#include "vm/net/flow.h"
#include "vm/net/policy.h"

struct denial {
	uint8_t proto; /* IPPROTO_*; 0: none that is known */
	struct net_addr to;
	uint16_t port;
	const char *name; /* that the address was an answer for, or that was asked for; NULL: not known */
	const char *why;
};

/* Where an answer belongs: the headers of the guest's query. */
struct dns_client {
	uint8_t headers[ETH_HEADER + IP6_HEADER + UDP_HEADER];
	struct packet packet;
	struct dns_question question;
};

struct filter_calls {
	void (*to_guest)(void *arg, const uint8_t *frame, size_t n);
	void (*to_stack)(void *arg, const uint8_t *frame, size_t n);
	void (*denied)(void *arg, const struct denial *denial);
	/* Ask a resolver, and then call filter_answer, or not. Valid during the call. */
	void (*query)(void *arg, const struct dns_client *client, const uint8_t *msg, size_t n);
	uint32_t (*random)(void *arg);
	void *arg;
};

struct filter {
	struct filter_calls calls;
	struct policy policy;
	struct names names;
	struct flows flows;
	uint8_t guest_mac[6], stack_mac[6]; /* as seen last */
};

/* In zeroed memory, of which most stays untouched. The policy refuses everything until it is set. The board is zeroed,
 * and the caller's. */
void filter_init(struct filter *filter, const struct filter_calls *calls, struct flow_board *board,
		 bool (*own)(const struct net_addr *addr));
void filter_release(struct filter *filter);
/*
 * In place of filter_init's zeroed board: one that another helper of this machine has left. What was open there
 * ends for the guest, who would wait for ever where it only reads, and the board is zeroed.
 */
void filter_end_former(struct filter *filter);
/* Takes the rules over. Flows that it no longer allows end. */
void filter_set_policy(struct filter *filter, enum net_mode mode, struct rules *rules, uint64_t now_ns);

/* A frame of the guest's, which may be changed. */
void filter_from_guest(struct filter *filter, uint8_t *frame, size_t n, uint64_t now_ns);
/* A frame of the stack's, likewise. */
void filter_from_stack(struct filter *filter, uint8_t *frame, size_t n, uint64_t now_ns);
/* The answer to a query; msg has the query's id. */
void filter_answer(struct filter *filter, const struct dns_client *client, const uint8_t *msg, size_t n,
		   uint64_t now_ns);
/* No resolver answered. */
void filter_no_answer(struct filter *filter, const struct dns_client *client);

#endif
