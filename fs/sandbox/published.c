/* SPDX-License-Identifier: MIT */
/* published.c - the sockets at which this host listens for a sandbox (net/publish) */
#include "fs/sandbox/published.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fs/sandbox/admission.h"
#include "fs/sandbox/sandbox.h"
#include "util/log.h"

/* More than a queue holds (ports.c), so that turning them away has an end. */
enum { REFUSED_MAX = 1024 };

struct port_socket {
	struct sandbox *sb;
	int fd; /* -1: it could not be had */
	struct watch *watch;
};

static void close_one(struct port_socket *one)
{
	watch_free(one->watch);
	if (one->fd >= 0)
		close(one->fd);
	*one = (struct port_socket){ .fd = -1 };
}

static void close_all(struct port_socket *all, unsigned n)
{
	unsigned i;

	for (i = 0; all && i < n; i++)
		close_one(&all[i]);
	free(all);
}

static struct port_socket *new_set(struct sandbox *sb, unsigned n)
{
	struct port_socket *all = calloc(n ? n : 1, sizeof(*all));
	unsigned i;

	for (i = 0; all && i < n; i++)
		all[i] = (struct port_socket){ .sb = sb, .fd = -1 };
	return all;
}

/* The number of the port among these; n: it is not there. */
static unsigned find(const struct net_ports *ports, const struct net_port *port)
{
	unsigned i;

	for (i = 0; i < ports->n && !net_port_same(&ports->port[i], port); i++)
		;
	return i;
}

/* Ports that are open, and are to be so in the new set, move there. */
static void take_over(struct published_ports *from, const struct net_ports *ports, struct port_socket *to)
{
	unsigned i, k;

	for (i = 0; from->open && i < ports->n; i++) {
		k = find(&from->ports, &ports->port[i]);
		if (k == from->ports.n)
			continue;
		to[i].fd = from->open[k].fd;
		from->open[k].fd = -1;
	}
}

static int try_each(const struct net_ports *ports, struct err *err)
{
	unsigned i;
	int fd, rc = 0;

	for (i = 0; !rc && i < ports->n; i++) {
		rc = net_port_open(&ports->port[i], &fd, err);
		if (!rc)
			close(fd);
	}
	return rc;
}

/* Those of the new ones that are not open yet. What is opened here and fails half-way is closed again. */
static int open_new(struct sandbox *sb, const struct net_ports *ports, struct port_socket *all,
		    struct err *err)
{
	const struct published_ports *have = &sb->network.published;
	unsigned i;
	int rc = ports->n > have->ports.n
			 ? admit_files(sb->obj.fs, &sb->obj.owner, ports->n - have->ports.n, err)
			 : 0;

	for (i = 0; !rc && i < ports->n; i++)
		if (find(&have->ports, &ports->port[i]) == have->ports.n || !have->open ||
		    have->open[find(&have->ports, &ports->port[i])].fd < 0)
			rc = net_port_open(&ports->port[i], &all[i].fd, err);
	return rc;
}

int published_set(struct sandbox *sb, const struct net_ports *ports, bool listen, struct err *err)
{
	struct published_ports *have = &sb->network.published;
	struct port_socket *all = NULL;
	int rc;

	if (!listen) {
		rc = try_each(ports, err);
		if (!rc)
			have->ports = *ports;
		return rc;
	}
	all = new_set(sb, ports->n);
	rc = all ? open_new(sb, ports, all, err) : err_sys(err, -ENOMEM, "publish");
	if (rc) {
		close_all(all, ports->n);
		return rc;
	}
	take_over(have, ports, all);
	close_all(have->open, have->ports.n);
	have->ports = *ports;
	have->open = all;
	sandbox_count(sb);
	return 0;
}

void published_open(struct sandbox *sb)
{
	struct published_ports *have = &sb->network.published;
	struct err err = { 0 };
	unsigned i;

	if (!have->ports.n)
		return;
	if (!have->open)
		have->open = new_set(sb, have->ports.n);
	if (!have->open)
		err_sys(&err, -ENOMEM, "publish");
	for (i = 0; have->open && i < have->ports.n; i++)
		if (have->open[i].fd < 0)
			(void)net_port_open(&have->ports.port[i], &have->open[i].fd, &err);
	if (err.code)
		object_report(&sb->obj, &err);
	sandbox_count(sb);
}

void published_close(struct sandbox *sb)
{
	struct published_ports *have = &sb->network.published;

	if (!have->open)
		return;
	close_all(have->open, have->ports.n);
	have->open = NULL;
	sandbox_count(sb);
}

int published_fd(const struct sandbox *sb, unsigned i)
{
	const struct published_ports *have = &sb->network.published;

	return have->open && i < have->ports.n ? have->open[i].fd : -1;
}

/* ---- while it sleeps */

static void on_caller(void *arg, uint32_t events)
{
	struct port_socket *one = arg;
	struct sandbox *sb = one->sb;

	(void)events;
	log_debug("%s: somebody comes to a published port", sb->obj.name);
	/* Once: they wait in the queue until the machine's helper takes them. */
	published_unwatch(sb);
	(void)life_touch(sb);
}

void published_watch(struct sandbox *sb)
{
	struct published_ports *have = &sb->network.published;
	struct port_socket *one;

	for (one = have->open; one && one < have->open + have->ports.n; one++)
		if (one->fd >= 0 && !one->watch)
			one->watch = watch_new(sb->obj.fs->loop, one->fd, EPOLLIN, on_caller, one);
}

void published_unwatch(struct sandbox *sb)
{
	struct published_ports *have = &sb->network.published;
	struct port_socket *one;

	for (one = have->open; one && one < have->open + have->ports.n; one++) {
		watch_free(one->watch);
		one->watch = NULL;
	}
}

/* A reset, and no end of what was never read. */
static void turn_away(int fd)
{
	const struct linger linger = { .l_onoff = 1 };

	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(fd);
}

void published_refuse(struct sandbox *sb)
{
	const struct published_ports *have = &sb->network.published;
	unsigned i, k;
	uint8_t byte;
	int fd;

	for (i = 0; have->open && i < have->ports.n; i++)
		for (k = 0; have->open[i].fd >= 0 && k < REFUSED_MAX; k++) {
			if (have->ports.port[i].proto == IPPROTO_UDP) {
				if (recv(have->open[i].fd, &byte, 1, MSG_DONTWAIT) < 0)
					break;
				continue;
			}
			fd = accept4(have->open[i].fd, NULL, NULL, SOCK_CLOEXEC);
			if (fd < 0)
				break;
			turn_away(fd);
		}
}
