/* SPDX-License-Identifier: MIT */
/* names.c - which names the guest was told an address for */
#include "vm/net/names.h"

#include <stdio.h>
#include <string.h>

/* The one for it, or the one to give up. */
static struct name_entry *place(struct names *names, const char *name, const struct net_addr *addr)
{
	struct name_entry *entry, *best = names->entry;

	for (entry = names->entry; entry < names->entry + NAMES_MAX; entry++) {
		if (net_addr_equal(&entry->addr, addr) && !strcmp(entry->name, name))
			return entry;
		if (entry->until_ns < best->until_ns)
			best = entry;
	}
	return best;
}

void names_add(struct names *names, const char *name, const struct net_addr *addr, uint32_t ttl,
	       uint64_t now_ns)
{
	struct name_entry *entry = place(names, name, addr);

	if (ttl < NAMES_TTL_MIN)
		ttl = NAMES_TTL_MIN;
	if (ttl > NAMES_TTL_MAX)
		ttl = NAMES_TTL_MAX;
	entry->addr = *addr;
	entry->until_ns = now_ns + ttl * UINT64_C(1000000000);
	snprintf(entry->name, sizeof(entry->name), "%s", name);
}

const char *names_next(const struct names *names, const struct net_addr *addr, uint64_t now_ns, unsigned *at)
{
	const struct name_entry *entry;

	while (*at < NAMES_MAX) {
		entry = &names->entry[(*at)++];
		if (entry->until_ns > now_ns && net_addr_equal(&entry->addr, addr))
			return entry->name;
	}
	return NULL;
}
