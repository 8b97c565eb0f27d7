/* SPDX-License-Identifier: MIT */
/*
 * network.c - the machine's addresses, and the end of connections that belong to another machine
 *
 * Addresses are the same in every machine (vm/net/link.h), so they are set once, at boot, without asking
 * anybody, and a fork has them already.
 *
 * A fork's connections to the outside are its origin's: the other ends talk to that one. The kernel destroys
 * them (SOCK_DESTROY of NETLINK_SOCK_DIAG, as `ss -K` does), which wakes readers and writers. Those inside the
 * machine have both ends in it, and stay.
 *
 * Who was woken has not run yet, since this process goes before all others (main.c), and after the hand-out it does
 * what the host asks first. So it lets them hear of it before: it sleeps, until nobody else wants a CPU.
 */
#include "vm/agent/guest/agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>

#include <linux/sock_diag.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vm/net/link.h"

#define DEVICE "eth0"

/*
 * How long others are let run at most, in half milliseconds, for each connection and in all. One that was woken needs a
 * tenth of a millisecond under TCG; a guest that computes takes all of it.
 */
enum { LET_RUN_EACH = 2, LET_RUN_MAX = 1000 };

/* ---- addresses */

static void set_v4(int fd)
{
	struct ifreq ifr = { .ifr_name = DEVICE };
	struct sockaddr_in addr = { .sin_family = AF_INET };
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };

	inet_pton(AF_INET, LINK_GUEST, &addr.sin_addr);
	memcpy(&ifr.ifr_addr, &addr, sizeof(addr));
	ioctl(fd, SIOCSIFADDR, &ifr);
	inet_pton(AF_INET, LINK_NETMASK, &addr.sin_addr);
	memcpy(&ifr.ifr_netmask, &addr, sizeof(addr));
	ioctl(fd, SIOCSIFNETMASK, &ifr);
	ifr.ifr_flags = IFF_UP | IFF_RUNNING;
	ioctl(fd, SIOCSIFFLAGS, &ifr);
	inet_pton(AF_INET, LINK_GATEWAY, &addr.sin_addr);
	memcpy(&route.rt_gateway, &addr, sizeof(addr));
	addr.sin_addr.s_addr = 0;
	memcpy(&route.rt_dst, &addr, sizeof(addr));
	memcpy(&route.rt_genmask, &addr, sizeof(addr));
	ioctl(fd, SIOCADDRT, &route);
}

/* linux/ipv6.h has it, and collides with netinet/in.h. */
struct in6_ifreq {
	struct in6_addr addr;
	uint32_t prefix;
	int index;
};

static void set_v6(int fd, int index)
{
	struct in6_ifreq ifr = { .prefix = LINK_PREFIX6, .index = index };
	struct in6_rtmsg route = { .rtmsg_flags = RTF_UP | RTF_GATEWAY,
				   .rtmsg_metric = 1024,
				   .rtmsg_ifindex = index };

	inet_pton(AF_INET6, LINK_GUEST6, &ifr.addr);
	ioctl(fd, SIOCSIFADDR, &ifr);
	inet_pton(AF_INET6, LINK_GATEWAY6, &route.rtmsg_gateway);
	ioctl(fd, SIOCADDRT, &route);
}

void network_up(void)
{
	/* Nobody else is on the link, and nobody announces anything there. */
	static const char *const settings[][2] = { { "accept_ra", "0" },
						   { "accept_dad", "0" },
						   { "router_solicitations", "0" } };
	const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	const int fd6 = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	const unsigned index = if_nametoindex(DEVICE);
	char path[96];
	size_t i;

	/* What fails here shows as a network that does not work, where somebody uses it. */
	for (i = 0; index && i < sizeof(settings) / sizeof(settings[0]); i++) {
		snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/" DEVICE "/%s", settings[i][0]);
		(void)write_file(path, 0, settings[i][1]);
	}
	if (index && fd >= 0)
		set_v4(fd);
	if (index && fd6 >= 0)
		set_v6(fd6, (int)index);
	if (fd >= 0)
		close(fd);
	if (fd6 >= 0)
		close(fd6);
}

/* A file of /etc that engines give a container, where the image has none. */
static void give_file(const char *file, const char *text)
{
	struct stat st;

	/* An image's own stays. A link that leads nowhere is what resolved and others leave in images. */
	if (!stat(file, &st) && st.st_size)
		return;
	if (!lstat(file, &st) && S_ISLNK(st.st_mode))
		unlink(file);
	(void)write_file(file, O_CREAT | O_TRUNC, text);
}

void network_resolver(void)
{
	give_file("/etc/resolv.conf", "nameserver " LINK_RESOLVER "\n");
	give_file("/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n");
}

/* ---- connections */

static bool is_inside(const struct inet_diag_sockid *id, uint8_t family)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	const uint8_t *to = (const uint8_t *)id->idiag_dst, *from = (const uint8_t *)id->idiag_src;

	if (family == AF_INET6 && memcmp(from, mapped, sizeof(mapped)) != 0)
		return IN6_IS_ADDR_LOOPBACK((const struct in6_addr *)from) || !memcmp(from, to, 16);
	if (family == AF_INET6) {
		from += sizeof(mapped);
		to += sizeof(mapped);
	}
	/* To itself by its own address is inside as well. */
	return *from == 127 || !memcmp(from, to, 4);
}

static void ask(int fd, uint16_t type, uint16_t flags, const struct inet_diag_req_v2 *what)
{
	struct {
		struct nlmsghdr header;
		struct inet_diag_req_v2 what;
	} message = { .header = { .nlmsg_len = sizeof(message),
				  .nlmsg_type = type,
				  .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags) },
		      .what = *what };

	(void)!send(fd, &message, sizeof(message), 0);
}

static void destroy(int fd, uint8_t family, const struct inet_diag_sockid *id)
{
	const struct inet_diag_req_v2 what = { .sdiag_family = family,
					       .sdiag_protocol = IPPROTO_TCP,
					       .id = *id };

	ask(fd, SOCK_DESTROY, 0, &what);
}

/* One of the answers; `kill`: the other socket, or -1. False: it was the last. */
static bool take_answer(const struct nlmsghdr *header, int kill, unsigned *ended)
{
	const struct inet_diag_msg *msg = NLMSG_DATA(header);

	if (header->nlmsg_type != SOCK_DIAG_BY_FAMILY)
		return false;
	if (header->nlmsg_len < NLMSG_LENGTH(sizeof(*msg)) || is_inside(&msg->id, msg->idiag_family))
		return true;
	++*ended;
	if (kill >= 0)
		destroy(kill, msg->idiag_family, &msg->id);
	return true;
}

static void end_family(int fd, int kill, uint8_t family, unsigned *ended)
{
	/* What has a peer; sockets that have ended, or wait for nobody, are of no interest. */
	const struct inet_diag_req_v2 what = {
		.sdiag_family = family,
		.sdiag_protocol = IPPROTO_TCP,
		.idiag_states = 1u << TCP_ESTABLISHED | 1u << TCP_SYN_SENT | 1u << TCP_FIN_WAIT1 |
				1u << TCP_FIN_WAIT2 | 1u << TCP_CLOSE_WAIT | 1u << TCP_LAST_ACK |
				1u << TCP_CLOSING,
	};
	static uint8_t answers[32 * 1024] __attribute__((aligned(NLMSG_ALIGNTO)));
	const struct nlmsghdr *header;
	ssize_t n;
	bool more = true;

	ask(fd, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &what);
	while (more) {
		n = recv(fd, answers, sizeof(answers), 0);
		if (n <= 0)
			return;
		for (header = (const void *)answers; more && NLMSG_OK(header, (size_t)n);
		     header = NLMSG_NEXT(header, n))
			more = take_answer(header, kill, ended);
	}
}

/* A connection of our own, to ourselves, and its end: what destroying takes is in memory then, and translated. */
static void rehearse_end(int fd)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in from = { 0 };
	socklen_t size = sizeof(at), from_size = sizeof(from);
	const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const int end = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct inet_diag_sockid id = { .idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE } };

	if (listener >= 0 && end >= 0 && !bind(listener, (const struct sockaddr *)&at, size) &&
	    !listen(listener, 1) && !getsockname(listener, (struct sockaddr *)&at, &size) &&
	    !connect(end, (const struct sockaddr *)&at, size) &&
	    !getsockname(end, (struct sockaddr *)&from, &from_size)) {
		id.idiag_sport = from.sin_port;
		id.idiag_dport = at.sin_port;
		id.idiag_src[0] = from.sin_addr.s_addr;
		id.idiag_dst[0] = at.sin_addr.s_addr;
		destroy(fd, AF_INET, &id);
	}
	if (listener >= 0)
		close(listener);
	if (end >= 0)
		close(end);
}

unsigned network_end_connections(bool rehearse)
{
	const int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	/* A second one: destroying within a dump's socket would mix the answers. */
	const int kill = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	unsigned ended = 0;

	if (fd >= 0 && kill >= 0) {
		end_family(fd, rehearse ? -1 : kill, AF_INET, &ended);
		end_family(fd, rehearse ? -1 : kill, AF_INET6, &ended);
		if (rehearse && ended)
			rehearse_end(kill);
	}
	if (fd >= 0)
		close(fd);
	if (kill >= 0)
		close(kill);
	return ended;
}

/* How many want a CPU now, this process included; 0: it cannot be told. */
static unsigned running(int loadavg)
{
	char text[80];
	unsigned n;
	ssize_t len = pread(loadavg, text, sizeof(text) - 1, 0);

	text[len > 0 ? len : 0] = '\0';
	return sscanf(text, "%*s %*s %*s %u/", &n) == 1 ? n : 0;
}

void network_let_run(unsigned ended)
{
	unsigned moments = ended < LET_RUN_MAX / LET_RUN_EACH ? LET_RUN_EACH * ended : LET_RUN_MAX;
	const struct timespec moment = { .tv_nsec = 500000 };
	const int loadavg = ended ? open("/proc/loadavg", O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;

	if (loadavg < 0)
		return;
	while (moments--) {
		nanosleep(&moment, NULL);
		if (running(loadavg) <= 1)
			break;
	}
	close(loadavg);
}
