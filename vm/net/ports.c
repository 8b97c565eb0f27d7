/* SPDX-License-Identifier: MIT */
/* ports.c - what `publish` lists: [ADDRESS:]PORT[:GUESTPORT][/tcp|/udp], one a line */
#include "vm/net/ports.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "vm/net/rules.h"

enum {
	LINE_MAX_BYTES = 64,
	QUEUE = 128, /* of connections that nobody has taken yet */
};

static bool parse_line(char *line, const struct net_addr *own, struct net_port *ret)
{
	char *part[3] = { NULL }, *save;
	unsigned n = 0, at = 0;

	*ret = (struct net_port){ .addr = *own };
	if (!cut_proto(line, &ret->proto))
		return false;
	if (!ret->proto)
		ret->proto = IPPROTO_TCP;
	if (!*line || strstr(line, "::") || line[strlen(line) - 1] == ':' || *line == ':')
		return false;
	for (part[n] = strtok_r(line, ":", &save); part[n]; part[n] = strtok_r(NULL, ":", &save))
		if (++n == 3)
			break;
	if (n == 3 && strtok_r(NULL, ":", &save))
		return false;
	if (n > 1 && strchr(part[0], '.')) {
		if (!net_addr_parse(part[0], &ret->addr))
			return false;
		at = 1;
	}
	if (n - at > 2 || !parse_port(part[at], &ret->port))
		return false;
	ret->guest_port = ret->port;
	return n - at == 1 || parse_port(part[at + 1], &ret->guest_port);
}

int net_ports_parse(const char *text, size_t n, const struct net_addr *own, struct net_ports *ret,
		    struct err *err)
{
	char line[LINE_MAX_BYTES + 1], copy[LINE_MAX_BYTES + 1];
	const char *end;
	size_t len, at;

	ret->n = 0;
	for (at = 0; at < n; at += len + 1) {
		end = memchr(text + at, '\n', n - at);
		len = end ? (size_t)(end - text) - at : n - at;
		if (!len)
			continue;
		if (ret->n == NET_PORTS_MAX)
			return err_set(err, -E2BIG, "publish: at most %d ports", NET_PORTS_MAX);
		memset(copy, 0, sizeof(copy));
		memcpy(copy, text + at, len < LINE_MAX_BYTES ? len : LINE_MAX_BYTES);
		memcpy(line, copy, sizeof(line));
		if (len > LINE_MAX_BYTES || strlen(line) != len || !parse_line(line, own, &ret->port[ret->n]))
			return err_set(err, -EINVAL, "publish: \"%s\" is not [ADDRESS:]PORT[:GUESTPORT]",
				       copy);
		if (net_ports_have(ret, &ret->port[ret->n]))
			return err_set(err, -EINVAL, "publish: \"%s\" is there twice", copy);
		ret->n++;
	}
	return 0;
}

bool net_port_same(const struct net_port *a, const struct net_port *b)
{
	return a->proto == b->proto && a->port == b->port && net_addr_equal(&a->addr, &b->addr);
}

bool net_ports_have(const struct net_ports *ports, const struct net_port *port)
{
	const struct net_port *p;

	for (p = ports->port; p < ports->port + ports->n; p++)
		if (net_port_same(p, port))
			return true;
	return false;
}

int net_port_open(const struct net_port *port, int *ret, struct err *err)
{
	const bool udp = port->proto == IPPROTO_UDP;
	const int type = (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, one = 1;
	const int fd = socket(port->addr.family, type, 0);
	struct sockaddr_storage addr;
	const socklen_t size = net_addr_socket(&port->addr, port->port, &addr);
	char text[NET_ADDR_TEXT];
	int rc = fd < 0 ? -errno : 0;

	if (!rc && !udp)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (!rc && (bind(fd, (const struct sockaddr *)&addr, size) < 0 || (!udp && listen(fd, QUEUE) < 0)))
		rc = -errno;
	if (!rc) {
		*ret = fd;
		return 0;
	}
	if (fd >= 0)
		close(fd);
	net_addr_format(&port->addr, text);
	return err_sys(err, rc, "publish: cannot listen at %s:%u", text, port->port);
}
