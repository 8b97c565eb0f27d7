/* SPDX-License-Identifier: MIT */
/*
 * names.h - which names the guest was told an address for
 *
 * A rule for a name holds for the addresses that its answers had, for as long as they said, but half a minute at
 * least; the guest's own cache may last longer than ours by that. Bounded: the entry that ends first gives
 * way.
 */
#ifndef SBX_VM_NET_NAMES_H
#define SBX_VM_NET_NAMES_H

#include "vm/net/address.h"
#include "vm/net/rules.h"

enum { NAMES_MAX = 512, NAMES_TTL_MIN = 30, NAMES_TTL_MAX = 86400 };

struct names {
	struct name_entry {
		struct net_addr addr; /* family 0: free */
		uint64_t until_ns;
		char name[NAME_TEXT_MAX + 1];
	} entry[NAMES_MAX];
};

void names_add(struct names *names, const char *name, const struct net_addr *addr, uint32_t ttl,
	       uint64_t now_ns);
/* The names of an address, one after the other: *at begins with 0. NULL: no more. */
const char *names_next(const struct names *names, const struct net_addr *addr, uint64_t now_ns, unsigned *at);

#endif
