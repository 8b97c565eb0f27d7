/* SPDX-License-Identifier: MIT */
/* test_net_resolver.c - questions go to this host's resolvers, and answers come back; servers are the test's own */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "vm/net/link.h"
#include "vm/net/resolver.h"

#define MS UINT64_C(1000000)

static struct filter filter;
static struct flow_board board;
static struct resolver resolver;
static struct {
	unsigned frames;
	uint8_t frame[LINK_FRAME_MAX];
	size_t n;
} seen;
static uint64_t now = 1000;

static const uint8_t question[] = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07"
				  "example\x03org\x00\x00\x01\x00\x01";
enum { QUESTION = sizeof(question) - 1 };

static void on_guest(void *arg, const uint8_t *frame, size_t n)
{
	(void)arg;
	seen.frames++;
	seen.n = n;
	memcpy(seen.frame, frame, n);
}

static void on_stack(void *arg, const uint8_t *frame, size_t n)
{
	(void)arg;
	(void)frame;
	(void)n;
	CHECK(0);
}

static void on_denied(void *arg, const struct denial *denial)
{
	(void)arg;
	(void)denial;
}

static void on_query(void *arg, const struct dns_client *client, const uint8_t *msg, size_t n)
{
	(void)arg;
	resolver_ask(&resolver, &filter, client, msg, n, now);
}

static int server(unsigned i)
{
	const struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in got = { 0 };
	socklen_t size = sizeof(got);

	CHECK(fd >= 0 && !bind(fd, (const struct sockaddr *)&at, sizeof(at)));
	CHECK(!getsockname(fd, (struct sockaddr *)&got, &size));
	resolver.server[i].addr = net_addr_v4((const uint8_t *)&got.sin_addr);
	resolver.server[i].port = ntohs(got.sin_port);
	resolver.nservers = i + 1;
	return fd;
}

static void begin(void)
{
	static const struct filter_calls calls = { on_guest, on_stack, on_denied, on_query, NULL, NULL };
	struct rules rules = { 0 };

	filter_release(&filter);
	memset(&filter, 0, sizeof(filter));
	memset(&seen, 0, sizeof(seen));
	filter_init(&filter, &calls, &board, NULL);
	filter_set_policy(&filter, NET_PUBLIC, &rules, now);
	resolver_init(&resolver);
}

static void ask(void)
{
	uint8_t frame[512], headers[ETH_HEADER] = { 0 };
	struct packet p = { .from_port = 53, .to_port = 4000 };
	size_t n;

	net_addr_parse(LINK_RESOLVER, &p.from);
	net_addr_parse(LINK_GUEST, &p.to);
	n = packet_udp_answer(headers, &p, question, QUESTION, frame, sizeof(frame));
	filter_from_guest(&filter, frame, n, now);
}

static size_t take(int fd, uint8_t msg[512], struct sockaddr_in *from)
{
	socklen_t size = sizeof(*from);
	const ssize_t n = recvfrom(fd, msg, 512, MSG_DONTWAIT, (struct sockaddr *)from, &size);

	return n < 0 ? 0 : (size_t)n;
}

/* Turn the question into an answer, and send it. */
static void answer(int fd, uint8_t msg[512], const struct sockaddr_in *to)
{
	static const uint8_t record[] = "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x01\x02\x03\x04";

	msg[2] |= 0x80;
	msg[7] = 1;
	memcpy(msg + QUESTION, record, sizeof(record) - 1);
	CHECK(sendto(fd, msg, QUESTION + sizeof(record) - 1, 0, (const struct sockaddr *)to, sizeof(*to)) >
	      0);
}

static void work(void)
{
	struct pollfd fds[QUERIES_MAX];
	int timeout = 1000;
	const unsigned n = resolver_poll(&resolver, fds, &timeout, now);

	poll(fds, n, 100);
	resolver_work(&resolver, &filter, now);
}

static unsigned rcode(void)
{
	return seen.frame[ETH_HEADER + IP4_HEADER + UDP_HEADER + 3] & 15;
}

static void an_answer_comes_back(void)
{
	struct sockaddr_in from;
	uint8_t msg[512];
	struct net_addr addr;
	unsigned at = 0;
	int fd;

	begin();
	fd = server(0);
	ask();
	CHECK(take(fd, msg, &from) == QUESTION && !memcmp(msg + 2, question + 2, QUESTION - 2));
	answer(fd, msg, &from);
	work();
	CHECK(seen.frames == 1 && !rcode());
	CHECK(!memcmp(seen.frame + ETH_HEADER + IP4_HEADER + UDP_HEADER, question,
		      2)); /* the guest's own id */
	CHECK(net_addr_parse("1.2.3.4", &addr) &&
	      !strcmp(names_next(&filter.names, &addr, now, &at), "example.org"));
	CHECK(resolver.query[0].fd < 0);
	close(fd);
}

static void forged_answers_are_not_taken(void)
{
	struct sockaddr_in from;
	uint8_t msg[512], good[512];
	int fd;

	begin();
	fd = server(0);
	ask();
	CHECK(take(fd, good, &from));
	memcpy(msg, good, sizeof(msg));
	msg[0] ^= 1; /* another id */
	answer(fd, msg, &from);
	work();
	memcpy(msg, good, sizeof(msg));
	msg[13] = 'E';
	msg[14] = 'y'; /* another name */
	answer(fd, msg, &from);
	work();
	CHECK(!seen.frames && resolver.query[0].fd >= 0);
	answer(fd, good, &from);
	work();
	CHECK(seen.frames == 1);
	close(fd);
}

static void the_next_server_is_asked(void)
{
	struct sockaddr_in from;
	uint8_t msg[512];
	int timeout = -1, one, two;
	struct pollfd fds[QUERIES_MAX];

	begin();
	one = server(0);
	two = server(1);
	ask();
	CHECK(take(one, msg, &from) && !take(two, msg, &from));
	CHECK(resolver_poll(&resolver, fds, &timeout, now) == 1 && timeout > 0 && timeout <= 2001);
	now += 2001 * MS;
	resolver_work(&resolver, &filter, now);
	CHECK(take(two, msg, &from));
	answer(two, msg, &from);
	work();
	CHECK(seen.frames == 1 && !rcode());
	/* Nobody answers at all. */
	ask();
	close(one);
	close(two);
	for (unsigned i = 0; i < 8 && seen.frames == 1; i++) {
		now += 2001 * MS;
		resolver_work(&resolver, &filter, now);
	}
	CHECK(seen.frames == 2 && rcode() == DNS_SERVFAIL && resolver.query[0].fd < 0);
	/* There is nobody to ask. */
	resolver.nservers = 0;
	ask();
	CHECK(seen.frames == 3 && rcode() == DNS_SERVFAIL);
}

static void questions_have_a_bound(void)
{
	unsigned i, n = 0;
	int fd;

	begin();
	fd = server(0);
	for (i = 0; i < QUERIES_MAX + 10; i++)
		ask();
	for (i = 0; i < QUERIES_MAX; i++)
		n += resolver.query[i].fd >= 0;
	CHECK(n == QUERIES_MAX && !seen.frames);
	now += 100000 * MS;
	for (i = 0; i < 5; i++)
		resolver_work(&resolver, &filter, now += 3000 * MS);
	CHECK(seen.frames == QUERIES_MAX);
	close(fd);
}

int main(void)
{
	TEST(an_answer_comes_back);
	TEST(forged_answers_are_not_taken);
	TEST(the_next_server_is_asked);
	TEST(questions_have_a_bound);
	filter_release(&filter);
	memset(&filter, 0, sizeof(filter));
	return 0;
}
