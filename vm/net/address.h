/* SPDX-License-Identifier: MIT */
/*
 * address.h - addresses of both families, and what the registries say of them
 *
 * Pure functions. An IPv4 address is in the first four bytes, the rest is zero.
 */
#ifndef SBX_VM_NET_ADDRESS_H
#define SBX_VM_NET_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct net_addr {
	uint8_t family; /* AF_INET or AF_INET6 */
	uint8_t bytes[16];
};

enum { NET_ADDR_TEXT = 48 };

struct net_addr net_addr_v4(const uint8_t bytes[4]);
struct net_addr net_addr_v6(const uint8_t bytes[16]);
/* False: it is none. */
bool net_addr_parse(const char *text, struct net_addr *ret);
void net_addr_format(const struct net_addr *addr, char ret[NET_ADDR_TEXT]);
bool net_addr_equal(const struct net_addr *a, const struct net_addr *b);
bool net_addr_in(const struct net_addr *addr, const struct net_addr *net, unsigned prefix);
/* Bits of an address of this family. */
unsigned net_addr_bits(const struct net_addr *addr);

/*
 * What the registries of special-purpose addresses say (IANA, RFC 6890 and its updates): NULL for one that is
 * globally reachable, else what it is for. Multicast is none that is.
 */
const char *net_addr_special(const struct net_addr *addr);
/* This host's own stack would take it for itself, or it is for more than one: 0.0.0.0/8, 127.0.0.0/8,
 * broadcast, multicast, ::, ::1, and IPv4 addresses in IPv6's clothes. */
bool net_addr_never(const struct net_addr *addr);

/* Returns the address's size. */
socklen_t net_addr_socket(const struct net_addr *addr, uint16_t port, struct sockaddr_storage *ret);

#endif
