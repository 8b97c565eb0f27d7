/* SPDX-License-Identifier: MIT */
/* rules.c - what `allow` lists: one rule a line */
#include "vm/net/rules.h"

#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

bool cut_proto(char *text, uint8_t *ret)
{
	char *slash = strrchr(text, '/');

	*ret = 0;
	if (!slash || isdigit((unsigned char)slash[1]))
		return true; /* the length of a CIDR's prefix */
	if (!strcmp(slash, "/tcp"))
		*ret = IPPROTO_TCP;
	else if (!strcmp(slash, "/udp"))
		*ret = IPPROTO_UDP;
	else
		return false;
	*slash = 0;
	return true;
}

static bool parse_small(const char *text, unsigned max, unsigned *ret)
{
	unsigned v = 0;
	const char *p;

	for (p = text; *p; p++) {
		if (!isdigit((unsigned char)*p) || p - text > 5)
			return false;
		v = v * 10 + (unsigned)(*p - '0');
	}
	*ret = v;
	return p != text && v <= max;
}

bool parse_port(const char *text, uint16_t *ret)
{
	unsigned v;

	if (!parse_small(text, UINT16_MAX, &v) || !v)
		return false;
	*ret = (uint16_t)v;
	return true;
}

/* Cut :PORT off. An IPv6 address has colons of its own, and a port only behind its brackets, which go. */
static bool cut_port(char **text, uint16_t *ret)
{
	char *colon = strrchr(*text, ':'), *close = NULL;

	*ret = 0;
	if (**text == '[') {
		close = strchr(*text, ']');
		if (!close || (close[1] && close[1] != ':'))
			return false;
		colon = close[1] ? close + 1 : NULL;
		*close = 0;
		++*text;
	} else if (colon && strchr(*text, ':') != colon) {
		return true;
	}
	if (!colon)
		return true;
	*colon = 0;
	return parse_port(colon + 1, ret);
}

/* a.b.c, in lower case from now on. */
static bool take_name(char *name)
{
	size_t n = strlen(name), label = 0, i;

	if (n && name[n - 1] == '.')
		name[--n] = 0;
	if (!n || n > NAME_TEXT_MAX)
		return false;
	for (i = 0; i < n; i++) {
		name[i] = (char)tolower((unsigned char)name[i]);
		if (name[i] == '.' ? !label : !isalnum((unsigned char)name[i]) && !strchr("-_", name[i]))
			return false;
		label = name[i] == '.' ? 0 : label + 1;
		if (label > 63)
			return false;
	}
	return label;
}

static bool take_net(char *text, struct rule *rule)
{
	char *slash = strchr(text, '/');

	if (slash)
		*slash++ = 0;
	if (!net_addr_parse(text, &rule->net))
		return false;
	rule->kind = RULE_NET;
	rule->prefix = net_addr_bits(&rule->net);
	return !slash || parse_small(slash, net_addr_bits(&rule->net), &rule->prefix);
}

/* It consists of what only addresses have: 1.2.3 is no name, 300.1.1.1 neither. */
static bool looks_like_address(const char *text)
{
	return strchr(text, ':') || strspn(text, "0123456789./") == strlen(text);
}

static bool parse_rule(char *text, struct rule *rule)
{
	*rule = (struct rule){ .kind = RULE_NAME };
	if (!cut_proto(text, &rule->proto) || !cut_port(&text, &rule->port))
		return false;
	if (!strcmp(text, "host")) {
		rule->kind = RULE_HOST;
		return rule->port;
	}
	if (looks_like_address(text))
		return take_net(text, rule);
	rule->name = text;
	if (!strncmp(text, "*.", 2)) {
		rule->kind = RULE_BELOW;
		rule->name = text + 1;
		return take_name(text + 2);
	}
	return take_name(text);
}

static char *trim(char *line)
{
	size_t n;

	line += strspn(line, " \t\r");
	n = strlen(line);
	while (n && strchr(" \t\r", line[n - 1]))
		n--;
	line[n] = 0;
	return line;
}

int rules_parse(const char *text, size_t n, struct rules *ret, struct err *err)
{
	char *line, *next, copy[65];
	size_t lines = 1, i;

	*ret = (struct rules){ 0 };
	if (n && memchr(text, 0, n))
		return err_set(err, -EINVAL, "allow: there is a NUL byte in it");
	for (i = 0; i < n; i++)
		lines += text[i] == '\n';
	ret->text = malloc(n + 1);
	ret->rule = calloc(lines, sizeof(*ret->rule));
	if (!ret->text || !ret->rule)
		return err_sys(err, -ENOMEM, "allow");
	if (n)
		memcpy(ret->text, text, n);
	ret->text[n] = 0;
	for (line = ret->text; line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		line = trim(line);
		if (!*line || *line == '#')
			continue;
		strncpy(copy, line, sizeof(copy) - 1);
		copy[sizeof(copy) - 1] = 0;
		if (!parse_rule(line, &ret->rule[ret->n]))
			return err_set(err, -EINVAL,
				       "allow: \"%s\" is not HOST, *.DOMAIN or CIDR with or without :PORT, "
				       "or host:PORT",
				       copy);
		ret->n++;
	}
	return 0;
}

void rules_release(struct rules *rules)
{
	free(rules->rule);
	free(rules->text);
	*rules = (struct rules){ 0 };
}

bool rule_fits(const struct rule *rule, uint8_t proto, uint16_t port)
{
	if (proto != IPPROTO_TCP && proto != IPPROTO_UDP)
		return !rule->proto && !rule->port;
	return (!rule->proto || rule->proto == proto) && (!rule->port || rule->port == port);
}

bool rule_names(const struct rule *rule, const char *name)
{
	const size_t n = strlen(name);
	size_t suffix;

	if (rule->kind == RULE_NAME)
		return !strcmp(rule->name, name);
	if (rule->kind != RULE_BELOW)
		return false;
	suffix = strlen(rule->name);
	return n > suffix && !strcmp(name + n - suffix, rule->name);
}
