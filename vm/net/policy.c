/* SPDX-License-Identifier: MIT */
/* policy.c - may this machine talk to that address? */
#include "vm/net/policy.h"

#include <netinet/in.h>
#include <string.h>

#include "vm/net/link.h"

static const char *const modes[NET_MODES] = { "none", "allow", "public", "all" };

bool net_mode_parse(const char *word, enum net_mode *ret)
{
	unsigned i;

	for (i = 0; i < NET_MODES; i++)
		if (!strcmp(word, modes[i])) {
			*ret = (enum net_mode)i;
			return true;
		}
	return false;
}

const char *net_mode_name(enum net_mode mode)
{
	return modes[mode];
}

static bool is(const struct net_addr *addr, const char *v4, const char *v6)
{
	struct net_addr other;

	return net_addr_parse(addr->family == AF_INET ? v4 : v6, &other) && net_addr_equal(addr, &other);
}

bool net_addr_is_gateway(const struct net_addr *addr)
{
	return is(addr, LINK_GATEWAY, LINK_GATEWAY6);
}

bool net_addr_is_resolver(const struct net_addr *addr)
{
	return is(addr, LINK_RESOLVER, LINK_RESOLVER6);
}

bool net_addr_is_guest(const struct net_addr *addr)
{
	return is(addr, LINK_GUEST, LINK_GUEST6);
}

static bool on_link(const struct net_addr *addr)
{
	struct net_addr net;

	return net_addr_parse(addr->family == AF_INET ? LINK_GUEST : LINK_GUEST6, &net) &&
	       net_addr_in(addr, &net, addr->family == AF_INET ? 24 : LINK_PREFIX6);
}

static bool rule_for_host(const struct rules *rules, uint8_t proto, uint16_t port)
{
	unsigned i;

	for (i = 0; i < rules->n; i++)
		if (rules->rule[i].kind == RULE_HOST && rule_fits(&rules->rule[i], proto, port))
			return true;
	return false;
}

static bool rule_for_net(const struct rules *rules, uint8_t proto, const struct net_addr *to, uint16_t port)
{
	const struct rule *rule;

	for (rule = rules->rule; rule < rules->rule + rules->n; rule++)
		if (rule->kind == RULE_NET && rule_fits(rule, proto, port) &&
		    net_addr_in(to, &rule->net, rule->prefix))
			return true;
	return false;
}

/* Was the address an answer for a name that a rule has? */
static bool rule_for_names(const struct policy *policy, const struct names *names, uint8_t proto,
			   const struct net_addr *to, uint16_t port, uint64_t now_ns)
{
	const struct rules *rules = &policy->rules;
	const struct rule *rule;
	const char *name;
	unsigned at = 0;

	while ((name = names_next(names, to, now_ns, &at)))
		for (rule = rules->rule; rule < rules->rule + rules->n; rule++)
			if (rule_names(rule, name) && rule_fits(rule, proto, port))
				return true;
	return false;
}

const char *policy_refuses(const struct policy *policy, const struct names *names, uint8_t proto,
			   const struct net_addr *to, uint16_t port, uint64_t now_ns)
{
	const char *special;
	bool named;

	if (policy->mode == NET_NONE)
		return "mode none";
	if (net_addr_is_gateway(to))
		return rule_for_host(&policy->rules, proto, port) ? NULL : "no rule host:PORT";
	if (proto == IPPROTO_TCP && port == 53 && net_addr_is_resolver(to))
		return "names are answered over UDP only";
	if (on_link(to))
		return "nobody there";
	if (net_addr_never(to))
		return "never allowed";
	if (rule_for_net(&policy->rules, proto, to, port) || policy->mode == NET_ALL)
		return NULL;
	named = rule_for_names(policy, names, proto, to, port, now_ns);
	if (policy->mode != NET_PUBLIC && !named)
		return "not in allow";
	special = net_addr_special(to);
	if (special)
		return special;
	return policy->own(to) ? "this host's own address" : NULL;
}

const char *policy_refuses_name(const struct policy *policy, const char *name)
{
	unsigned i;

	if (policy->mode == NET_NONE)
		return "mode none";
	if (policy->mode != NET_ALLOW)
		return NULL;
	for (i = 0; i < policy->rules.n; i++)
		if (rule_names(&policy->rules.rule[i], name))
			return NULL;
	return "not in allow";
}
