/* SPDX-License-Identifier: MIT */
/* resolvers.c - the resolvers this host asks */
#include "vm/net/resolvers.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vm/jail/jail.h"
#include "vm/net/rules.h"

enum { TEXT_MAX = 16384, DNS_PORT = 53 };

unsigned net_resolvers_parse(char *text, struct net_resolver *ret, unsigned max)
{
	char *line, *word, *save_line, *save;
	unsigned n = 0;

	for (line = strtok_r(text, "\n", &save_line); line && n < max;
	     line = strtok_r(NULL, "\n", &save_line)) {
		word = strtok_r(line, " \t", &save);
		if (!word || strcmp(word, "nameserver") != 0)
			continue;
		word = strtok_r(NULL, " \t\r", &save);
		/* One with a scope (fe80::1%eth0) is left out. */
		if (word && net_addr_parse(word, &ret[n].addr))
			ret[n++].port = DNS_PORT;
	}
	return n;
}

static struct net_resolver chosen; /* port 0: none is */

bool net_resolvers_use(const char *text)
{
	char address[NET_ADDR_TEXT + 2], *end;
	struct net_resolver given = { .port = DNS_PORT };
	const char *colon = strrchr(text, ':');
	size_t n = strlen(text);

	/* A colon within an address stands in brackets, or there are several. */
	if (colon && (text[0] == '[' ? colon[-1] == ']' : strchr(text, ':') == colon)) {
		n = (size_t)(colon - text);
		if (!parse_port(colon + 1, &given.port))
			return false;
	}
	if (!n || n >= sizeof(address))
		return false;
	memcpy(address, text, n);
	address[n] = 0;
	end = address + n - 1;
	if (*address == '[' && *end == ']') {
		*end = 0;
		memmove(address, address + 1, n - 1);
	}
	if (!net_addr_parse(address, &given.addr))
		return false;
	chosen = given;
	return true;
}

unsigned net_resolvers(struct net_resolver *ret, unsigned max)
{
	static char text[TEXT_MAX + 1];
	ssize_t got;
	unsigned n;
	int fd;

	if (chosen.port && max) {
		ret[0] = chosen;
		return 1;
	}
	fd = launcher_open_resolvers();
	got = fd < 0 ? -1 : read(fd, text, TEXT_MAX);
	if (fd >= 0)
		close(fd);
	text[got > 0 ? got : 0] = 0;
	n = net_resolvers_parse(text, ret, max);
	if (!n && max) {
		net_addr_parse("127.0.0.1", &ret[0].addr);
		ret[0].port = DNS_PORT;
		n = 1;
	}
	return n;
}
