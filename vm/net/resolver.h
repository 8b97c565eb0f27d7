/* SPDX-License-Identifier: MIT */
/*
 * resolver.h - asks this host's resolvers what guests ask
 *
 * Each query has a socket of its own, and so a port of its own, and an id of its own: who wants to forge an answer
 * has to guess both. Servers are asked in turn until one answers, then the guest hears that none did.
 */
#ifndef SBX_VM_NET_RESOLVER_H
#define SBX_VM_NET_RESOLVER_H

#include <poll.h>

#include "vm/net/filter.h"
#include "vm/net/net_messages.h"

enum { QUERIES_MAX = 64 };

struct resolver {
	struct {
		struct net_addr addr;
		uint16_t port;
	} server[NET_RESOLVERS_MAX];
	unsigned nservers;
	struct query {
		int fd;            /* -1: free */
		unsigned tries;    /* how many servers were asked */
		uint64_t until_ns; /* of this try */
		uint16_t id;       /* ours */
		struct dns_client client;
		size_t n;
		uint8_t msg[512]; /* the question; longer ones are none that is relayed */
	} query[QUERIES_MAX];
};

void resolver_init(struct resolver *resolver);
/* Ask. One too many, or too long, is dropped: the guest asks again. */
void resolver_ask(struct resolver *resolver, struct filter *filter, const struct dns_client *client,
		  const uint8_t *msg, size_t n, uint64_t now_ns);
/* Fill in up to QUERIES_MAX descriptors; returns how many. *timeout_ms is lowered to when resolver_work is due. */
unsigned resolver_poll(const struct resolver *resolver, struct pollfd *fds, int *timeout_ms, uint64_t now_ns);
/* Take answers, and go on where none came in time. */
void resolver_work(struct resolver *resolver, struct filter *filter, uint64_t now_ns);

#endif
