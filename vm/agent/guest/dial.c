/* SPDX-License-Identifier: MIT */
/*
 * dial.c - a connection to a port of this machine's loopback, as a command (`sbx dial`)
 *
 * Two processes copy, one each way, so that neither way can hold up the other. The end of stdin is passed on
 * as the end of what is sent; the command ends when the other side has said all it had to.
 */
#include "vm/agent/guest/agent.h"

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static int connect_to(const struct sockaddr *to, socklen_t size)
{
	const int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc = fd < 0 ? -errno : fd;

	if (fd >= 0 && connect(fd, to, size) < 0) {
		rc = -errno;
		close(fd);
	}
	return rc;
}

static int connect_v4(uint16_t port)
{
	const struct sockaddr_in to = { .sin_family = AF_INET,
					.sin_port = htons(port),
					.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	return connect_to((const struct sockaddr *)&to, sizeof(to));
}

static int connect_v6(uint16_t port)
{
	const struct sockaddr_in6 to = { .sin6_family = AF_INET6,
					 .sin6_port = htons(port),
					 .sin6_addr = IN6ADDR_LOOPBACK_INIT };

	return connect_to((const struct sockaddr *)&to, sizeof(to));
}

/* Until one of the two ends. */
static void copy(int from, int to)
{
	static char buf[65536];
	ssize_t n, done, m;

	while ((n = read(from, buf, sizeof(buf))) > 0)
		for (done = 0; done < n; done += m) {
			m = write(to, buf + done, (size_t)(n - done));
			if (m <= 0)
				return;
		}
}

int guest_dial(const char *text, struct err *err)
{
	char *end;
	const unsigned long port = strtoul(text, &end, 10);
	pid_t sender;
	int fd;

	if (!port || port > UINT16_MAX || *end)
		return err_set(err, -EINVAL, "\"%.32s\" is not a port", text);
	fd = connect_v4((uint16_t)port);
	if (fd == -ECONNREFUSED)
		fd = connect_v6((uint16_t)port);
	if (fd < 0)
		return err_sys(err, fd, "port %lu", port);
	sender = fork();
	if (sender < 0)
		return err_sys(err, -errno, "cannot make a process");
	/* Whoever waits for the command to be started has waited for this to be closed. */
	close_range(STDERR_FILENO + 1, (unsigned)fd - 1, 0);
	close_range((unsigned)fd + 1, ~0u, 0);
	if (!sender) {
		close(STDOUT_FILENO);
		copy(STDIN_FILENO, fd);
		shutdown(fd, SHUT_WR);
		_exit(0);
	}
	close(STDIN_FILENO);
	copy(fd, STDOUT_FILENO);
	kill(sender, SIGKILL);
	_exit(0);
}
