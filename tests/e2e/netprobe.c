/* SPDX-License-Identifier: MIT */
/*
 * netprobe.c - a static program the tests put into guests, for what busybox cannot do with sockets
 *
 *   netprobe hold PORT N     N connections to the gateway's PORT, half of them in a blocked read, the others in
 *                            poll(2), and one within the guest. Then for each line on stdin one on stdout: how many have
 *                            ended, how many with which error, how long ago the last one, whether the inner one
 *                            carries a byte
 *   netprobe send PORT N     N bytes that count, to the gateway's PORT
 *   netprobe receive PORT    what comes from there: how many bytes, and whether they count
 *   netprobe many PORT N     N connections at once; each sends a line and reads it back
 *   netprobe serve PORT      an echo at the loopback's PORT
 *   netprobe take PORT       one connection to it: what comes, to stdout
 *   netprobe say PORT TEXT   a datagram to the gateway's PORT
 *   netprobe flood ADDRESS   datagrams of one byte to its ports, without an end
 *   netprobe raw             frames in hexadecimal, one a line, as they are onto the wire
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HELD_MAX = 400 };

static struct {
	atomic_int ended, reset, aborted, other;
	_Atomic long long last_ns;
} seen;

static long long now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static int dial(const char *address, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, address, &to.sin_addr);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		perror("connect");
		exit(1);
	}
	return fd;
}

static void note(ssize_t n)
{
	const int error = n < 0 ? errno : 0;

	seen.last_ns = now();
	if (error == ECONNRESET)
		seen.reset++;
	else if (error == ECONNABORTED)
		seen.aborted++;
	else
		seen.other++;
	seen.ended++;
}

static void *read_blocked(void *arg)
{
	char byte;

	note(read((int)(long)arg, &byte, 1));
	return NULL;
}

static void *poll_all(void *arg)
{
	struct pollfd *fds = arg;
	int left = 0, i;
	char byte;

	while (fds[left].fd >= 0)
		left++;
	const int n = left;
	while (left && poll(fds, (nfds_t)n, -1) > 0)
		for (i = 0; i < n; i++)
			if (fds[i].fd >= 0 && fds[i].revents) {
				note(read(fds[i].fd, &byte, 1));
				fds[i].fd = -1;
				left--;
			}
	return NULL;
}

static int inner[2];

static void make_inner(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(at);
	const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (bind(listener, (struct sockaddr *)&at, size) < 0 || listen(listener, 1) < 0)
		exit(1);
	getsockname(listener, (struct sockaddr *)&at, &size);
	inner[0] = dial("127.0.0.1", ntohs(at.sin_port));
	inner[1] = accept(listener, NULL, NULL);
}

static int hold(int port, int n)
{
	static struct pollfd fds[HELD_MAX + 1];
	pthread_attr_t attr;
	pthread_t thread;
	char line[64], byte = 'x';
	int i, polled = 0;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 32768);
	make_inner();
	for (i = 0; i < n && i < HELD_MAX; i++) {
		const int fd = dial("10.0.2.2", port);

		if (i % 2)
			fds[polled++] = (struct pollfd){ .fd = fd, .events = POLLIN };
		else if (pthread_create(&thread, &attr, read_blocked, (void *)(long)fd))
			return 1;
	}
	fds[polled].fd = -1;
	if (pthread_create(&thread, &attr, poll_all, fds))
		return 1;
	printf("up\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		const int alive = write(inner[0], &byte, 1) == 1 && read(inner[1], &byte, 1) == 1;

		printf("%d %d %d %d %lld %s\n", seen.ended, seen.reset, seen.aborted, seen.other,
		       seen.ended ? (now() - seen.last_ns) / 1000 : -1, alive ? "alive" : "dead");
		fflush(stdout);
	}
	return 0;
}

static int transfer(int port, long long bytes, int sending)
{
	static unsigned char block[65536];
	const int fd = dial("10.0.2.2", port);
	long long at = 0;
	ssize_t n = 0;
	int good = 1;

	for (; !sending || at < bytes; at += n) {
		if (sending)
			for (ssize_t i = 0; i < (ssize_t)sizeof(block); i++)
				block[i] = (unsigned char)((at + i) * 2654435761u >> 13);
		n = sending ? write(fd, block,
				    at + (long long)sizeof(block) < bytes ? sizeof(block)
									  : (size_t)(bytes - at))
			    : read(fd, block, sizeof(block));
		if (n <= 0)
			break;
		if (!sending)
			for (ssize_t i = 0; i < n; i++)
				good &= block[i] == (unsigned char)((at + i) * 2654435761u >> 13);
	}
	printf("%lld %s\n", at, n < 0 ? strerror(errno) : good ? "good" : "bad");
	return 0;
}

static int many(int port, int n)
{
	static int fds[HELD_MAX];
	char line[32], back[32];
	int i, good = 0;

	for (i = 0; i < n && i < HELD_MAX; i++)
		fds[i] = dial("10.0.2.2", port);
	for (i = 0; i < n; i++) {
		snprintf(line, sizeof(line), "line %d\n", i);
		if (write(fds[i], line, strlen(line)) != (ssize_t)strlen(line))
			return 1;
	}
	for (i = 0; i < n; i++) {
		snprintf(line, sizeof(line), "line %d\n", i);
		good += read(fds[i], back, sizeof(back)) == (ssize_t)strlen(line) &&
			!memcmp(back, line, strlen(line));
	}
	printf("%d\n", good);
	return 0;
}

static void *echo(void *arg)
{
	const int fd = (int)(long)arg;
	char data[4096];
	ssize_t n;

	while ((n = read(fd, data, sizeof(data))) > 0)
		if (write(fd, data, (size_t)n) != n)
			break;
	close(fd);
	return NULL;
}

static int serve(int port, int once)
{
	const struct sockaddr_in at = { .sin_family = AF_INET,
					.sin_port = htons((uint16_t)port),
					.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char data[4096];
	pthread_t thread;
	ssize_t n;
	int fd;

	if (bind(listener, (const struct sockaddr *)&at, sizeof(at)) < 0 || listen(listener, 128) < 0)
		return 1;
	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		if (!once && pthread_create(&thread, NULL, echo, (void *)(long)fd))
			return 1;
		while (once && (n = read(fd, data, sizeof(data))) > 0)
			if (write(STDOUT_FILENO, data, (size_t)n) != n)
				return 1;
		if (once)
			return 0;
	}
	return 1;
}

static int say(int port, const char *text)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, "10.0.2.2", &to.sin_addr);
	return sendto(fd, text, strlen(text), 0, (const struct sockaddr *)&to, sizeof(to)) < 0;
}

/* The first datagram that comes to a port. */
static int hear(int port)
{
	const struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char data[4096];
	ssize_t n;

	if (bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0 || (n = read(fd, data, sizeof(data))) < 0)
		return 1;
	return write(STDOUT_FILENO, data, (size_t)n) != n;
}

static int flood(const char *address)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	uint16_t port = 1;

	inet_pton(AF_INET, address, &to.sin_addr);
	for (;; port++) {
		to.sin_port = htons(port | 1);
		(void)!sendto(fd, "x", 1, 0, (const struct sockaddr *)&to, sizeof(to));
	}
}

static int raw(void)
{
	const struct sockaddr_ll at = { .sll_family = AF_PACKET,
					.sll_protocol = htons(ETH_P_ALL),
					.sll_ifindex = (int)if_nametoindex("eth0") };
	const int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
	static char line[8192];
	unsigned char frame[4096];
	unsigned byte;
	size_t n;

	if (fd < 0 || bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0)
		return 1;
	while (fgets(line, sizeof(line), stdin)) {
		for (n = 0; n < sizeof(frame) && sscanf(line + 2 * n, "%2x", &byte) == 1; n++)
			frame[n] = (unsigned char)byte;
		if (send(fd, frame, n, 0) < 0)
			perror("send");
	}
	return 0;
}

int main(int argc, char **argv)
{
	const int port = argc > 2 ? atoi(argv[2]) : 0;

	if (argc == 4 && !strcmp(argv[1], "hold"))
		return hold(port, atoi(argv[3]));
	if (argc == 4 && !strcmp(argv[1], "send"))
		return transfer(port, atoll(argv[3]), 1);
	if (argc == 3 && !strcmp(argv[1], "receive"))
		return transfer(port, 0, 0);
	if (argc == 4 && !strcmp(argv[1], "many"))
		return many(port, atoi(argv[3]));
	if (argc == 4 && !strcmp(argv[1], "say"))
		return say(port, argv[3]);
	if (argc == 3 && !strcmp(argv[1], "hear"))
		return hear(port);
	if (argc == 3 && !strcmp(argv[1], "flood"))
		return flood(argv[2]);
	if (argc == 3 && (!strcmp(argv[1], "serve") || !strcmp(argv[1], "take")))
		return serve(port, !strcmp(argv[1], "take"));
	return argc == 2 && !strcmp(argv[1], "raw") ? raw() : 2;
}
