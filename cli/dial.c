/* SPDX-License-Identifier: MIT */
/*
 * dial.c - sbx dial and sbx forward: ports of a sandbox's loopback, whatever its network may
 *
 * A connection is a job whose command the agent runs itself: an argument vector that begins with an empty word
 * (vm/agent/guest/dial.c). Each that `forward` accepts has a process here, which does what `dial` does.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/sbx.h"
#include "vm/net/ports.h"
#include "vm/net/rules.h"

const struct program dial_program = {
	.name = "sbx dial",
	.forms = "VM PORT",
	.about = "Connect stdin and stdout to a port of a sandbox's loopback.\n"
		 "It goes through the agent and not through the sandbox's network, whatever net/mode says.\n",
	.notes = "ssh -o ProxyCommand='sbx dial VM 22' root@VM\n",
};

const struct program forward_program = {
	.name = "sbx forward",
	.forms = "VM [ADDRESS:]PORT[:GUESTPORT]...",
	.about = "Listen here, and connect whoever comes to a port of a sandbox's loopback.\n"
		 "At 127.0.0.1 unless an ADDRESS is given, until it is interrupted. As `sbx dial`, it needs "
		 "no\n"
		 "network of the sandbox's.\n",
};

/* A connection to the port on stdin and stdout. */
static int dial(const char *vm, uint16_t port)
{
	char empty[] = "", word[] = "dial", number[8];
	char *argv[] = { empty, word, number, NULL };

	snprintf(number, sizeof(number), "%u", port);
	return exec_streams(vm, argv);
}

int cmd_dial(int argc, char **argv)
{
	uint16_t port;
	int status;

	if (program_next(&dial_program, argc, argv, &status) != PROGRAM_OPERANDS)
		return status;
	if (argc - optind != 2)
		return program_refuse(&dial_program, "a sandbox and a port are needed");
	if (!parse_port(argv[optind + 1], &port))
		return program_refuse(&dial_program, "\"%s\" is not a port", argv[optind + 1]);
	return dial(argv[optind], port);
}

static int listen_at(const struct net_port *port)
{
	const int fd = socket(port->addr.family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	struct sockaddr_storage addr;
	const socklen_t size = net_addr_socket(&port->addr, port->port, &addr);
	char text[NET_ADDR_TEXT];

	net_addr_format(&port->addr, text);
	if (fd >= 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd >= 0 && !bind(fd, (const struct sockaddr *)&addr, size) && !listen(fd, SOMAXCONN))
		return fd;
	fprintf(stderr, "sbx: cannot listen at %s:%u: %s\n", text, port->port, strerror(errno));
	return -1;
}

/* In a process of its own. */
static void serve(const char *vm, int connection, uint16_t port)
{
	const pid_t pid = fork();

	if (pid) {
		close(connection);
		return;
	}
	signal(SIGCHLD, SIG_DFL);
	if (dup2(connection, STDIN_FILENO) < 0 || dup2(connection, STDOUT_FILENO) < 0)
		_exit(SBX_FAILED);
	close(connection);
	_exit(dial(vm, port));
}

static int forward(const char *vm, const struct net_ports *ports, struct pollfd *fds)
{
	unsigned i;
	int fd;

	/* Who has ended is nobody's to wait for. */
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		if (poll(fds, ports->n, -1) < 0 && errno != EINTR)
			return SBX_FAILED;
		for (i = 0; i < ports->n; i++) {
			if (!(fds[i].revents & POLLIN))
				continue;
			fd = accept4(fds[i].fd, NULL, NULL, SOCK_CLOEXEC);
			if (fd >= 0)
				serve(vm, fd, ports->port[i].guest_port);
		}
	}
}

int cmd_forward(int argc, char **argv)
{
	static struct pollfd fds[NET_PORTS_MAX];
	static struct net_ports ports, one;
	struct net_addr here;
	struct err err;
	int status, i;

	if (program_next(&forward_program, argc, argv, &status) != PROGRAM_OPERANDS)
		return status;
	if (argc - optind < 2)
		return program_refuse(&forward_program, "a sandbox and a port are needed");
	net_addr_parse("127.0.0.1", &here);
	for (i = optind + 1; i < argc; i++) {
		if (net_ports_parse(argv[i], strlen(argv[i]), &here, &one, &err) || one.n != 1 ||
		    one.port[0].proto != IPPROTO_TCP || ports.n == NET_PORTS_MAX)
			return program_refuse(&forward_program, "\"%s\" is not [ADDRESS:]PORT[:GUESTPORT]",
					      argv[i]);
		ports.port[ports.n++] = one.port[0];
	}
	for (i = 0; i < (int)ports.n; i++) {
		fds[i] = (struct pollfd){ .fd = listen_at(&ports.port[i]), .events = POLLIN };
		if (fds[i].fd < 0)
			return SBX_FAILED;
	}
	return forward(argv[optind], &ports, fds);
}
