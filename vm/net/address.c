/* SPDX-License-Identifier: MIT */
/* address.c - addresses of both families, and what the registries say of them */
#include "vm/net/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

struct special {
	const char *net;
	unsigned prefix;
	const char *what; /* NULL: an exception that is global, before the range it is in */
};

/* iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry: all that is not "globally
 * reachable", and what belongs to no host. */
static const struct special special4[] = {
	{ "0.0.0.0", 8, "this network" },
	{ "10.0.0.0", 8, "private" },
	{ "100.64.0.0", 10, "shared by carriers" },
	{ "127.0.0.0", 8, "loopback" },
	{ "169.254.0.0", 16, "link-local" },
	{ "172.16.0.0", 12, "private" },
	{ "192.0.0.9", 32, NULL },
	{ "192.0.0.10", 32, NULL },
	{ "192.0.0.0", 24, "for protocols" },
	{ "192.0.2.0", 24, "for documentation" },
	{ "192.88.99.0", 24, "6to4 relay" },
	{ "192.168.0.0", 16, "private" },
	{ "198.18.0.0", 15, "for benchmarks" },
	{ "198.51.100.0", 24, "for documentation" },
	{ "203.0.113.0", 24, "for documentation" },
	{ "224.0.0.0", 4, "multicast" },
	{ "240.0.0.0", 4, "reserved" },
};

/* Global unicast is 2000::/3 only, with these exceptions. */
static const struct special special6[] = {
	{ "2001:1::1", 128, NULL },
	{ "2001:1::2", 128, NULL },
	{ "2001:1::3", 128, NULL },
	{ "2001:3::", 32, NULL },
	{ "2001:4:112::", 48, NULL },
	{ "2001:20::", 28, NULL },
	{ "2001:30::", 28, NULL },
	{ "2001::", 23, "for protocols" },
	{ "2001:db8::", 32, "for documentation" },
	{ "2002::", 16, "6to4" },
	{ "3fff::", 20, "for documentation" },
	{ "2000::", 3, NULL },
	{ "::1", 128, "loopback" },
	{ "::", 128, "unspecified" },
	{ "::ffff:0:0", 96, "mapped" },
	{ "64:ff9b::", 96, "translated" },
	{ "64:ff9b:1::", 48, "translated" },
	{ "100::", 64, "discarded" },
	{ "5f00::", 16, "segment routing" },
	{ "fc00::", 7, "private" },
	{ "fe80::", 10, "link-local" },
	{ "ff00::", 8, "multicast" },
	{ "::", 0, "reserved" },
};

struct net_addr net_addr_v4(const uint8_t bytes[4])
{
	struct net_addr addr = { .family = AF_INET };

	memcpy(addr.bytes, bytes, 4);
	return addr;
}

struct net_addr net_addr_v6(const uint8_t bytes[16])
{
	struct net_addr addr = { .family = AF_INET6 };

	memcpy(addr.bytes, bytes, 16);
	return addr;
}

bool net_addr_parse(const char *text, struct net_addr *ret)
{
	*ret = (struct net_addr){ .family = strchr(text, ':') ? AF_INET6 : AF_INET };
	return inet_pton(ret->family, text, ret->bytes) == 1;
}

void net_addr_format(const struct net_addr *addr, char ret[NET_ADDR_TEXT])
{
	if (!inet_ntop(addr->family, addr->bytes, ret, NET_ADDR_TEXT))
		memcpy(ret, "?", 2);
}

bool net_addr_equal(const struct net_addr *a, const struct net_addr *b)
{
	return a->family == b->family && !memcmp(a->bytes, b->bytes, sizeof(a->bytes));
}

unsigned net_addr_bits(const struct net_addr *addr)
{
	return addr->family == AF_INET ? 32 : 128;
}

bool net_addr_in(const struct net_addr *addr, const struct net_addr *net, unsigned prefix)
{
	const unsigned whole = prefix / 8, rest = prefix % 8;

	if (addr->family != net->family || memcmp(addr->bytes, net->bytes, whole) != 0)
		return false;
	return !rest || !((addr->bytes[whole] ^ net->bytes[whole]) >> (8 - rest));
}

const char *net_addr_special(const struct net_addr *addr)
{
	const bool v4 = addr->family == AF_INET;
	const struct special *table = v4 ? special4 : special6;
	const size_t n = v4 ? sizeof(special4) / sizeof(special4[0]) : sizeof(special6) / sizeof(special6[0]);
	struct net_addr net;
	size_t i;

	for (i = 0; i < n; i++)
		if (net_addr_parse(table[i].net, &net) && net_addr_in(addr, &net, table[i].prefix))
			return table[i].what;
	return v4 ? NULL : "reserved";
}

bool net_addr_never(const struct net_addr *addr)
{
	const uint8_t *b = addr->bytes;
	static const uint8_t zero[16];

	if (addr->family == AF_INET)
		return b[0] == 0 || b[0] == 127 || b[0] >= 224;
	if (addr->family != AF_INET6 || b[0] == 0xff)
		return true;
	/* ::, ::1, the deprecated ::a.b.c.d and ::ffff:a.b.c.d */
	return !memcmp(b, zero, 10) && ((!b[10] && !b[11]) || (b[10] == 0xff && b[11] == 0xff));
}

socklen_t net_addr_socket(const struct net_addr *addr, uint16_t port, struct sockaddr_storage *ret)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };

	*ret = (struct sockaddr_storage){ 0 };
	if (addr->family == AF_INET) {
		memcpy(&v4.sin_addr, addr->bytes, 4);
		memcpy(ret, &v4, sizeof(v4));
		return sizeof(v4);
	}
	memcpy(&v6.sin6_addr, addr->bytes, 16);
	memcpy(ret, &v6, sizeof(v6));
	return sizeof(v6);
}
