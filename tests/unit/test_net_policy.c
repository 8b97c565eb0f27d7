/* SPDX-License-Identifier: MIT */
/* test_net_policy.c - addresses, rules and names: who may talk to whom */
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "tests/unit/unit.h"
#include "vm/net/policy.h"
#include "vm/net/resolvers.h"

#define SECOND UINT64_C(1000000000)

static struct net_addr own_address;
static struct names names;

static bool own(const struct net_addr *addr)
{
	return net_addr_equal(addr, &own_address);
}

static struct net_addr addr(const char *text)
{
	struct net_addr ret;

	CHECK(net_addr_parse(text, &ret));
	return ret;
}

static void special_addresses(void)
{
	static const char *const special[] = {
		"0.0.0.0",
		"10.1.2.3",
		"100.64.0.1",
		"127.0.0.1",
		"169.254.169.254",
		"172.16.0.1",
		"172.31.255.255",
		"192.0.0.8",
		"192.0.2.1",
		"192.168.1.1",
		"198.18.0.1",
		"198.51.100.7",
		"203.0.113.9",
		"224.0.0.1",
		"240.0.0.1",
		"255.255.255.255",
		"::",
		"::1",
		"::ffff:1.2.3.4",
		"64:ff9b::1",
		"100::1",
		"2001::1",
		"2001:db8::1",
		"2002::1",
		"3fff::1",
		"fc00::1",
		"fd12::1",
		"fe80::1",
		"ff02::1",
		"4000::1",
	};
	static const char *const global[] = {
		"1.1.1.1",    "9.255.255.255", "11.0.0.0",        "100.63.255.255", "100.128.0.0",
		"172.15.0.1", "172.32.0.1",    "192.0.0.9",       "192.0.1.1",      "223.255.255.255",
		"2000::1",    "2001:4860::1",  "2606:4700::1111", "2001:20::1",
	};
	struct net_addr a;
	size_t i;

	for (i = 0; i < sizeof(special) / sizeof(special[0]); i++) {
		a = addr(special[i]);
		CHECK(net_addr_special(&a));
	}
	for (i = 0; i < sizeof(global) / sizeof(global[0]); i++) {
		a = addr(global[i]);
		CHECK(!net_addr_special(&a) && !net_addr_never(&a));
	}
	for (i = 0; i < 4; i++) {
		a = addr(((const char *[]){ "::ffff:127.0.0.1", "::127.0.0.1", "127.3.2.1", "0.1.2.3" })[i]);
		CHECK(net_addr_never(&a));
	}
}

static void rules_are_read(void)
{
	static const char text[] = "example.org\n"
				   "  Example.COM.:443/tcp \r\n"
				   "# a word\n"
				   "\n"
				   "*.debian.org:80\n"
				   "10.0.0.0/8:22\n"
				   "192.0.2.1\n"
				   "[2001:db8::/32]:53/udp\n"
				   "2001:db8:1::1\n"
				   "host:5432";
	struct rules rules;

	CHECK(!rules_parse(text, strlen(text), &rules, NULL) && rules.n == 8);
	CHECK(rules.rule[0].kind == RULE_NAME && !rules.rule[0].port && !rules.rule[0].proto);
	CHECK(!strcmp(rules.rule[1].name, "example.com") && rules.rule[1].port == 443 &&
	      rules.rule[1].proto == IPPROTO_TCP);
	CHECK(rules.rule[2].kind == RULE_BELOW && rules.rule[2].port == 80);
	CHECK(rule_names(&rules.rule[2], "deb.debian.org") && rule_names(&rules.rule[2], "a.b.debian.org"));
	CHECK(!rule_names(&rules.rule[2], "debian.org") && !rule_names(&rules.rule[2], "evildebian.org"));
	CHECK(rules.rule[3].kind == RULE_NET && rules.rule[3].prefix == 8 && rules.rule[3].port == 22);
	CHECK(rules.rule[4].prefix == 32 && !rules.rule[4].port);
	CHECK(rules.rule[5].prefix == 32 && rules.rule[5].port == 53 && rules.rule[5].proto == IPPROTO_UDP);
	CHECK(rules.rule[6].prefix == 128);
	CHECK(rules.rule[7].kind == RULE_HOST && rules.rule[7].port == 5432);
	CHECK(rule_fits(&rules.rule[0], IPPROTO_ICMP, 0) && !rule_fits(&rules.rule[7], IPPROTO_ICMP, 0));
	CHECK(!rule_fits(&rules.rule[1], IPPROTO_UDP, 443) && !rule_fits(&rules.rule[1], IPPROTO_TCP, 80));
	rules_release(&rules);
}

static void bad_rules_are_named(void)
{
	static const char *const bad[] = {
		"host", "host:0",  "host:65536", "a..b",       ".a",       "*.",
		"*",    "a b",     "1.2.3",      "1.2.3.4/33", "1.2.3.4/", "2001:db8::/129",
		"[::1", "[::1]x",  "a:80/sctp",  "a:",         "a:-1",     "a:0x50",
		"a/24", "*.*.org", "x_y!.org",
	};
	char longest[300];
	struct rules rules;
	struct err err;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CHECK(rules_parse(bad[i], strlen(bad[i]), &rules, &err) == -EINVAL &&
		      strstr(err.text, bad[i]));
		rules_release(&rules);
	}
	memset(longest, 'a', sizeof(longest));
	CHECK(rules_parse(longest, 64, &rules, &err) == -EINVAL);
	rules_release(&rules);
	for (i = 63; i < 300; i += 64)
		longest[i] = '.';
	CHECK(rules_parse(longest, 255, &rules, &err) == -EINVAL);
	rules_release(&rules);
	CHECK(rules_parse("a\0b", 3, &rules, &err) == -EINVAL);
	rules_release(&rules);
}

static bool may(enum net_mode mode, const char *text, uint8_t proto, const char *to, uint16_t port)
{
	struct policy policy = { .mode = mode, .own = own };
	const struct net_addr a = addr(to);
	bool yes;

	CHECK(!rules_parse(text, strlen(text), &policy.rules, NULL));
	yes = !policy_refuses(&policy, &names, proto, &a, port, 0);
	rules_release(&policy.rules);
	return yes;
}

static bool tcp(enum net_mode mode, const char *text, const char *to, uint16_t port)
{
	return may(mode, text, IPPROTO_TCP, to, port);
}

static void modes(void)
{
	own_address = addr("198.41.0.4");
	CHECK(!tcp(NET_NONE, "1.1.1.1", "1.1.1.1", 80));
	CHECK(!tcp(NET_ALLOW, "", "1.1.1.1", 80) && tcp(NET_ALLOW, "1.1.1.1:80", "1.1.1.1", 80));
	CHECK(!tcp(NET_ALLOW, "1.1.1.1:80", "1.1.1.1", 81) &&
	      !tcp(NET_ALLOW, "1.1.1.1:80/udp", "1.1.1.1", 80));
	CHECK(tcp(NET_PUBLIC, "", "1.1.1.1", 80) && tcp(NET_PUBLIC, "", "2606:4700::1111", 80));
	CHECK(!tcp(NET_PUBLIC, "", "10.1.1.1", 80) && tcp(NET_PUBLIC, "10.0.0.0/8", "10.1.1.1", 80));
	CHECK(!tcp(NET_PUBLIC, "", "169.254.169.254", 80) && !tcp(NET_PUBLIC, "", "198.41.0.4", 80));
	CHECK(tcp(NET_PUBLIC, "198.41.0.4", "198.41.0.4", 80));
	CHECK(tcp(NET_ALL, "", "10.1.1.1", 80) && tcp(NET_ALL, "", "169.254.169.254", 80));
	/* This host's loopback, in whatever clothes, and the link itself. */
	CHECK(!tcp(NET_ALL, "0.0.0.0/0\n::/0", "127.0.0.1", 80) &&
	      !tcp(NET_ALL, "::/0", "::ffff:127.0.0.1", 80));
	CHECK(!tcp(NET_ALL, "0.0.0.0/0", "0.0.0.0", 80) && !tcp(NET_ALL, "::/0", "::1", 80));
	CHECK(!tcp(NET_ALL, "0.0.0.0/0", "10.0.2.2", 80) && !tcp(NET_ALL, "0.0.0.0/0", "10.0.2.9", 80));
	CHECK(!tcp(NET_ALL, "0.0.0.0/0", "10.0.2.3", 53) && !tcp(NET_ALL, "::/0", "fd00::2", 80));
	CHECK(tcp(NET_ALLOW, "host:80", "10.0.2.2", 80) && tcp(NET_ALLOW, "host:80", "fd00::2", 80));
	CHECK(!tcp(NET_ALLOW, "host:80", "10.0.2.2", 81) && !tcp(NET_NONE, "host:80", "10.0.2.2", 80));
	CHECK(may(NET_PUBLIC, "", IPPROTO_ICMP, "1.1.1.1", 0) &&
	      !may(NET_ALLOW, "1.1.1.1:80", IPPROTO_ICMP, "1.1.1.1", 0));
}

static void names_hold_for_their_answers(void)
{
	struct net_addr a = addr("1.2.3.4"), b = addr("10.9.9.9");
	struct policy policy = { .mode = NET_ALLOW, .own = own };
	char name[32];
	unsigned i;

	CHECK(!rules_parse("example.org:443", 15, &policy.rules, NULL));
	CHECK(!policy_refuses_name(&policy, "example.org") && policy_refuses_name(&policy, "other.org"));
	CHECK(policy_refuses(&policy, &names, IPPROTO_TCP, &a, 443, 0));
	names_add(&names, "example.org", &a, 1, 0);
	names_add(&names, "other.org", &b, 1, 0);
	CHECK(!policy_refuses(&policy, &names, IPPROTO_TCP, &a, 443, 0));
	CHECK(policy_refuses(&policy, &names, IPPROTO_TCP, &a, 80, 0));
	CHECK(policy_refuses(&policy, &names, IPPROTO_TCP, &b, 443, 0));
	/* At least half a minute, and no longer. */
	CHECK(!policy_refuses(&policy, &names, IPPROTO_TCP, &a, 443, 29 * SECOND));
	CHECK(policy_refuses(&policy, &names, IPPROTO_TCP, &a, 443, 31 * SECOND));
	/* A name that is pointed at a neighbour, at this host, or at its loopback gains nothing. */
	for (i = 0; i < 4; i++) {
		a = addr(((const char *[]){ "10.0.0.1", "127.0.0.1", "198.41.0.4", "10.0.2.2" })[i]);
		names_add(&names, "example.org", &a, 100, 0);
		CHECK(policy_refuses(&policy, &names, IPPROTO_TCP, &a, 443, 0));
	}
	rules_release(&policy.rules);
	/* Many: the table stays as large as it is. */
	for (i = 0; i < 3 * NAMES_MAX; i++) {
		snprintf(name, sizeof(name), "n%u.org", i);
		a.bytes[3] = (uint8_t)i;
		a.bytes[2] = (uint8_t)(i >> 8);
		names_add(&names, name, &a, 1000, i);
	}
	i = 0;
	CHECK(!strcmp(names_next(&names, &a, 0, &i), name) && !names_next(&names, &a, 0, &i));
}

static void resolvers(void)
{
	char text[] = "# c\nnameserver 192.0.2.1\nsearch a b\n nameserver\t2001:db8::1 \nnameserver "
		      "x\nnameserver 192.0.2.2\n"
		      "nameserver 192.0.2.3\n";
	static const char *const bad[] = {
		"",
		":",
		":53",
		"1.2.3.4:",
		"1.2.3.4:0",
		"1.2.3.4:x",
		"[::1",
		"[]:53",
		"[::1]x",
		"::1]:53",
		"name",
		"name:53",
		"1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111"
	};
	struct net_resolver found[3];
	size_t i;

	CHECK(net_resolvers_parse(text, found, 3) == 3 && found[1].addr.family == AF_INET6);
	CHECK(found[2].addr.bytes[3] == 2 && found[2].port == 53);

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(!net_resolvers_use(bad[i]));
	CHECK(net_resolvers_use("[2001:db8::9]:5353") && net_resolvers(found, 3) == 1);
	CHECK(found[0].addr.family == AF_INET6 && found[0].addr.bytes[15] == 9 && found[0].port == 5353);
	CHECK(net_resolvers_use("2001:db8::8") && net_resolvers(found, 3) == 1 &&
	      found[0].addr.bytes[15] == 8);
	CHECK(net_resolvers_use("[::7]") && net_resolvers(found, 3) == 1 && found[0].addr.bytes[15] == 7);
	CHECK(net_resolvers_use("192.0.2.7:54") && net_resolvers(found, 3) == 1 && found[0].port == 54);
	CHECK(net_resolvers_use("192.0.2.8") && net_resolvers(found, 3) == 1 && found[0].port == 53);
}

int main(void)
{
	TEST(special_addresses);
	TEST(rules_are_read);
	TEST(bad_rules_are_named);
	TEST(modes);
	TEST(names_hold_for_their_answers);
	TEST(resolvers);
	return 0;
}
