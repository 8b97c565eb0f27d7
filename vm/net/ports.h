/* SPDX-License-Identifier: MIT */
/*
 * ports.h - what `publish` lists: [ADDRESS:]PORT[:GUESTPORT][/tcp|/udp], one a line
 *
 * This host listens at the port, on the sandbox's own address unless another is given, and whoever connects
 * reaches the guest's. Without a protocol it is TCP. Pure functions, but the last.
 */
#ifndef SBX_VM_NET_PORTS_H
#define SBX_VM_NET_PORTS_H

#include "util/err.h"
#include "vm/net/address.h"

enum { NET_PORTS_MAX = 64 };

struct net_port {
	uint8_t proto; /* IPPROTO_TCP or _UDP */
	struct net_addr addr;
	uint16_t port, guest_port;
};

struct net_ports {
	struct net_port port[NET_PORTS_MAX];
	unsigned n;
};

/* -EINVAL with the line, -E2BIG: too many. */
int net_ports_parse(const char *text, size_t n, const struct net_addr *own, struct net_ports *ret,
		    struct err *err);
bool net_ports_have(const struct net_ports *ports, const struct net_port *port);
/* The same place of this host, whatever the guest's port. */
bool net_port_same(const struct net_port *a, const struct net_port *b);
/* Listen there: a socket that does not block, the caller's to close. -EADDRINUSE and others, with the reason. */
int net_port_open(const struct net_port *port, int *ret, struct err *err);

#endif
