/* SPDX-License-Identifier: MIT */
/* resolvers.c - the resolvers this host asks */
#include "vm/net/resolvers.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

unsigned net_resolvers(struct net_resolver *ret, unsigned max)
{
	static char text[TEXT_MAX + 1];
	const int fd = open("/etc/resolv.conf", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t got = fd < 0 ? -1 : read(fd, text, TEXT_MAX);
	unsigned n;

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
