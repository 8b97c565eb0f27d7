/* SPDX-License-Identifier: MIT */
/*
 * policy.h - may this machine talk to that address?
 *
 *	none     nobody
 *	allow    what the rules list
 *	public   that, and every address that is globally reachable and not this host's own
 *	all      everything but this host's loopback
 *
 * A name is allowed through the addresses it was answered with (names.h), and only to those that `public` would
 * allow: who owns a name must not be able to point it at this host or its neighbours. Those are listed by
 * address.
 */
#ifndef SBX_VM_NET_POLICY_H
#define SBX_VM_NET_POLICY_H

#include "vm/net/names.h"
#include "vm/net/rules.h"

enum net_mode { NET_NONE, NET_ALLOW, NET_PUBLIC, NET_ALL, NET_MODES };

struct policy {
	enum net_mode mode;
	struct rules rules;
	/* Is it one of this host's own addresses? */
	bool (*own)(const struct net_addr *addr);
};

/* "none"...; false for another word. */
bool net_mode_parse(const char *word, enum net_mode *ret);
const char *net_mode_name(enum net_mode mode);

/* NULL: it may. Otherwise why not, a word or a few. proto and port as for rule_fits. */
const char *policy_refuses(const struct policy *policy, const struct names *names, uint8_t proto,
			   const struct net_addr *to, uint16_t port, uint64_t now_ns);
/* May the name be looked up? Likewise. */
const char *policy_refuses_name(const struct policy *policy, const char *name);

/* This machine's link. */
bool net_addr_is_gateway(const struct net_addr *addr);
bool net_addr_is_resolver(const struct net_addr *addr);
bool net_addr_is_guest(const struct net_addr *addr);

#endif
