/* SPDX-License-Identifier: MIT */
/* resolvers.h - the resolvers this host asks (resolv.conf(5)) */
#ifndef SBX_VM_NET_RESOLVERS_H
#define SBX_VM_NET_RESOLVERS_H

#include "vm/net/address.h"

struct net_resolver {
	struct net_addr addr;
	uint16_t port;
};

/* Ask this one instead, for the rest of the process's life: "192.0.2.1", "192.0.2.1:5353", "[::1]:53". False: it is
 * none. */
bool net_resolvers_use(const char *text);
/* Those that /etc/resolv.conf lists, at most `max`; none listed is this host itself, as for resolv.conf(5). */
unsigned net_resolvers(struct net_resolver *ret, unsigned max);
/* Of a file's text, which is changed. */
unsigned net_resolvers_parse(char *text, struct net_resolver *ret, unsigned max);

#endif
