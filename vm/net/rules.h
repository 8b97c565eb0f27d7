/* SPDX-License-Identifier: MIT */
/*
 * rules.h - what `allow` lists: one rule a line
 *
 *	HOST[:PORT]          a name as it is looked up
 *	*.DOMAIN[:PORT]      every name below it, not itself
 *	CIDR[:PORT]          an address or a range; an IPv6 one with a port stands in [ ]
 *	host:PORT            a service on this host's loopback, which the guest finds at the gateway's address
 *
 * each with /tcp or /udp at its end if it is for one of them only. Empty lines and lines that begin with # say
 * nothing. Pure functions on text; errors are -EINVAL with the line.
 */
#ifndef SBX_VM_NET_RULES_H
#define SBX_VM_NET_RULES_H

#include "util/err.h"
#include "vm/net/address.h"

enum { NAME_TEXT_MAX = 253 };

enum rule_kind { RULE_NAME, RULE_BELOW, RULE_NET, RULE_HOST };

struct rule {
	enum rule_kind kind;
	const char *name; /* RULE_NAME; RULE_BELOW: with its dot in front. Lower case */
	struct net_addr net;
	unsigned prefix;
	uint16_t port; /* 0: any */
	uint8_t proto; /* IPPROTO_TCP or _UDP; 0: any, ICMP too where the port is any */
};

struct rules {
	struct rule *rule;
	unsigned n;
	char *text; /* what the names point into */
};

/* The text, NULL where n is 0, need not end with a newline. rules_release frees what is in *ret, after a failure too. */
int rules_parse(const char *text, size_t n, struct rules *ret, struct err *err);
void rules_release(struct rules *rules);

/* Is it for this protocol (IPPROTO_TCP, _UDP, _ICMP or _ICMPV6, whose port is 0) and port? */
bool rule_fits(const struct rule *rule, uint8_t proto, uint16_t port);
/* Is it for this name, which is in lower case and without a dot at its end? */
bool rule_names(const struct rule *rule, const char *name);

/* "HOST:PORT/udp", "PORT" and so on are cut into their parts by these, which others have a use for too. */
/* Cut /tcp or /udp off; false: there is a / with something else. */
bool cut_proto(char *text, uint8_t *ret);
/* A port: 1 to 65535, digits only. */
bool parse_port(const char *text, uint16_t *ret);

#endif
