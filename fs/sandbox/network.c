/* SPDX-License-Identifier: MIT */
/* network.c - a sandbox's network: what it may reach, and the helper that sees to it */
#include "fs/sandbox/network.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "fs/sandbox/sandbox.h"
#include "util/log.h"
#include "vm/net/flow.h"
#include "vm/net/helper.h"
#include "vm/net/packet.h"

enum {
	DENIED_KEEP = 64 << 10,
	FRAMES_A_TURN = 64,
	FRAMES_QUEUED = 1 << 16, /* more than a socket holds */
	/* A helper that a guest knows how to kill must not be all that the host is busy with. */
	AGAIN_NS = 1000 * 1000 * 1000,
};

static void await_frame(struct sandbox *sb);
static void start_helper(struct sandbox *sb);

/* ---- addresses: 127.91.X.Y, one for each sandbox */

static void take_addr(struct fs *fs, struct network *network)
{
	unsigned tries, n = 0;

	/* Daemons do not know of each other: begin anywhere. */
	while (!fs->next_addr && getrandom(&fs->next_addr, sizeof(fs->next_addr), 0) != sizeof(fs->next_addr))
		;
	for (tries = 0; tries < UINT16_MAX; tries++) {
		n = 1 + fs->next_addr++ % (UINT16_MAX - 1); /* neither .0.0 nor .255.255 */
		if (!(fs->addrs[n / 8] & 1u << n % 8)) {
			fs->addrs[n / 8] |= (uint8_t)(1u << n % 8);
			network->number = (uint16_t)n;
			break;
		}
	}
	network->addr = net_addr_v4((const uint8_t[]){ 127, 91, (uint8_t)(n >> 8), (uint8_t)n });
}

void network_leave(struct sandbox *sb)
{
	const unsigned n = sb->network.number;

	published_close(sb);
	if (n)
		sb->obj.fs->addrs[n / 8] &= (uint8_t) ~(1u << n % 8);
	sb->network.number = 0;
}

/* The one that it had, if that is one of ours and free. */
static void take_again(struct sandbox *sb, const struct net_addr *addr)
{
	const unsigned n = (unsigned)addr->bytes[2] << 8 | addr->bytes[3];
	uint8_t *taken = sb->obj.fs->addrs;

	if (addr->family != AF_INET || addr->bytes[0] != 127 || addr->bytes[1] != 91 || !n ||
	    n == UINT16_MAX || taken[n / 8] & 1u << n % 8)
		return;
	network_leave(sb);
	taken[n / 8] |= (uint8_t)(1u << n % 8);
	sb->network.number = (uint16_t)n;
	sb->network.addr = *addr;
}

void network_init(struct sandbox *sb)
{
	struct network *network = &sb->network;

	network->mode = sb->obj.fs->options.net;
	network->fd = network->board = -1;
	take_addr(sb->obj.fs, network);
	tail_init(&network->denied, DENIED_KEEP);
	list_init(&network->settling);
}

void network_release(struct sandbox *sb)
{
	network_detach(sb);
	network_leave(sb);
	buf_release(&sb->network.allow);
	buf_release(&sb->network.publish);
	tail_release(&sb->network.denied);
}

/* ---- what the helper says */

static const char *proto_name(uint8_t proto)
{
	if (proto == IPPROTO_TCP)
		return "tcp";
	if (proto == IPPROTO_UDP)
		return "udp";
	return proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6 ? "icmp" : "-";
}

static void on_denied(void *owner, const struct net_denial *denial)
{
	struct sandbox *sb = owner;
	struct buf *text = &sb->network.denied.text;
	const time_t now = (time_t)(now_real_ns() / 1000000000);
	const bool v6 = denial->to.family == AF_INET6;
	char date[32], to[NET_ADDR_TEXT] = "-";
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &tm);
	if (denial->to.family)
		net_addr_format(&denial->to, to);
	if (denial->untold)
		buf_printf(text, "%s - - - %u more, which came too quickly to be written down\n", date,
			   denial->untold);
	buf_printf(text, "%s %s %s%s%s", date, proto_name(denial->proto), v6 ? "[" : "", to, v6 ? "]" : "");
	if (denial->port)
		buf_printf(text, ":%u", denial->port);
	buf_printf(text, " %s %s\n", *denial->name ? denial->name : "-", denial->why);
	if (text->failed)
		text->failed = false; /* a line less */
	tail_grown(&sb->network.denied);
}

/* Whoever waits for ports is answered. */
static void settle(struct sandbox *sb, int code)
{
	struct request *request;

	while ((request = list_first(&sb->network.settling, struct request, link))) {
		if (code)
			request_err(request, code);
		else
			request_written(request);
	}
}

static void on_published(void *owner, uint32_t tag, int code)
{
	struct sandbox *sb = owner;
	const struct net_ports *ports = &sb->network.published.ports;
	char addr[NET_ADDR_TEXT];
	struct err err;

	if (sb->network.publishing)
		sb->network.publishing--;
	if (!code && !sb->network.publishing)
		settle(sb, 0);
	if (!code || tag >= ports->n)
		return;
	net_addr_format(&ports->port[tag].addr, addr);
	err_sys(&err, code, "publish: cannot listen at %s:%u", addr, ports->port[tag].port);
	object_report(&sb->obj, &err);
	settle(sb, code);
}

static void on_again(void *arg)
{
	struct sandbox *sb = arg;

	if (sb->network.published.ports.n || sb->network.left)
		start_helper(sb);
	else
		await_frame(sb);
}

static void on_ended(void *owner, const char *why)
{
	struct sandbox *sb = owner;

	log_warn("%s: %s", sb->obj.name, why);
	sb->network.left = flows_any(net_helper_board(sb->network.helper));
	net_helper_free(sb->network.helper);
	sb->network.helper = NULL;
	sb->network.publishing = 0;
	settle(sb, -EIO);
	timer_start(sb->obj.fs->loop, &sb->network.again, AGAIN_NS, on_again, sb);
}

static const struct net_events net_events = { .denied = on_denied,
					      .published = on_published,
					      .ended = on_ended };

/* ---- its life */

static void publish_all(struct sandbox *sb)
{
	struct network *network = &sb->network;
	const struct net_ports *ports = &network->published.ports;
	unsigned i;

	for (i = 0; i < ports->n; i++) {
		if (published_fd(sb, i) < 0)
			continue;
		net_helper_publish(network->helper, i, &ports->port[i], published_fd(sb, i));
		network->publishing++;
	}
}

/* These are not the helper's any more. */
static void unpublish_all(struct network *network, const struct net_ports *ports)
{
	unsigned i;

	for (i = 0; network->helper && i < ports->n; i++)
		net_helper_unpublish(network->helper, &ports->port[i]);
}

static void start_helper(struct sandbox *sb)
{
	struct network *network = &sb->network;
	struct fs *fs = sb->obj.fs;
	struct err err;

	watch_free(network->watch);
	network->watch = NULL;
	if (net_helper_start(fs->net_helpers, network->fd, &network->board, &net_events, sb, &network->helper,
			     &err) ||
	    limits_apply(sb, net_helper_pid(network->helper), &err)) {
		net_helper_free(network->helper);
		network->helper = NULL;
		log_warn("%s: no network: %s", sb->obj.name, err.text);
		timer_start(fs->loop, &network->again, AGAIN_NS, on_again, sb);
		return;
	}
	network->left = false;
	net_helper_policy(network->helper, network->mode, &network->allow);
	publish_all(sb);
}

static void on_frames(void *arg, uint32_t events)
{
	struct sandbox *sb = arg;
	struct network *network = &sb->network;
	uint8_t frame[PACKET_LOOK];
	ssize_t n;
	int i;

	for (i = 0; i < FRAMES_A_TURN; i++) {
		memset(frame, 0, sizeof(frame));
		n = recv(network->fd, frame, sizeof(frame), MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC);
		if (n <= 0)
			break;
		if (!packet_needs_nobody(frame, (size_t)n)) {
			start_helper(sb);
			return;
		}
		(void)recv(network->fd, frame, sizeof(frame), MSG_DONTWAIT);
	}
	/* The machine's end is the engine's to tell. */
	if (events & (EPOLLHUP | EPOLLERR))
		watch_set(network->watch, 0);
}

static void await_frame(struct sandbox *sb)
{
	struct network *network = &sb->network;

	network->watch = watch_new(sb->obj.fs->loop, network->fd, EPOLLIN, on_frames, sb);
	if (!network->watch)
		timer_start(sb->obj.fs->loop, &network->again, AGAIN_NS, on_again, sb);
}

int network_attach(struct sandbox *sb, int fd, struct err *err)
{
	struct network *network = &sb->network;
	uint8_t byte;
	int i;

	net_helpers_want(sb->obj.fs->net_helpers);
	network->fd = fd;
	/* What a rehearsal's processes sent; a bound, since the guest may be running. */
	for (i = 0; i < FRAMES_QUEUED && recv(network->fd, &byte, 1, MSG_DONTWAIT) >= 0; i++)
		;
	published_open(sb);
	published_unwatch(sb);
	if (network->published.ports.n) {
		start_helper(sb);
		return 0;
	}
	await_frame(sb);
	return network->watch ? 0 : err_set(err, -ENOMEM, "no memory for the network of %s", sb->obj.name);
}

static void detach(struct sandbox *sb)
{
	struct network *network = &sb->network;

	timer_stop(&network->again);
	watch_free(network->watch);
	network->watch = NULL;
	net_helper_free(network->helper);
	network->helper = NULL;
	if (network->board >= 0)
		close(network->board);
	network->fd = network->board = -1;
	network->left = false;
	network->publishing = 0;
	settle(sb, sb->obj.gone ? -ENODEV : 0);
}

void network_detach(struct sandbox *sb)
{
	detach(sb);
	published_close(sb);
}

/* ---- while it sleeps */

void network_sleep(struct sandbox *sb)
{
	struct network *network = &sb->network;

	unpublish_all(network, &network->published.ports);
	if (!sb->vm) {
		detach(sb);
		published_open(sb);
	}
	published_watch(sb);
}

void network_awake(struct sandbox *sb)
{
	published_unwatch(sb);
	if (sb->network.helper)
		publish_all(sb);
}

void network_refuse(struct sandbox *sb)
{
	published_refuse(sb);
	published_watch(sb);
}

/* ---- settings */

static void tell_policy(struct sandbox *sb)
{
	struct network *network = &sb->network;

	if (network->helper)
		net_helper_policy(network->helper, network->mode, &network->allow);
}

void network_set_mode(struct sandbox *sb, enum net_mode mode)
{
	sb->network.mode = mode;
	tell_policy(sb);
}

/* The text, and a newline behind its last line. */
static int replace_text(struct buf *text, const char *from, size_t n, const char *what, struct err *err)
{
	struct buf new = { 0 };

	buf_add(&new, from, n);
	if (n && from[n - 1] != '\n')
		buf_add(&new, "\n", 1);
	if (new.failed) {
		buf_release(&new);
		return err_sys(err, -ENOMEM, "%s", what);
	}
	buf_release(text);
	*text = new;
	return 0;
}

int network_set_allow(struct sandbox *sb, const char *text, size_t n, struct err *err)
{
	struct rules rules;
	int rc = rules_parse(text, n, &rules, err);

	rules_release(&rules);
	if (!rc)
		rc = replace_text(&sb->network.allow, text, n, "allow", err);
	if (!rc)
		tell_policy(sb);
	return rc;
}

int network_check_publish(const struct sandbox *sb, const char *text, size_t n, struct err *err)
{
	const struct network *network = &sb->network;
	const struct net_port *port;
	struct net_ports ports;
	char addr[NET_ADDR_TEXT];
	int rc;

	if (!sb->obj.owner.uid || sb->obj.owner.uid == geteuid())
		return 0;
	rc = net_ports_parse(text, n, &network->addr, &ports, err);
	for (port = ports.port; !rc && port < ports.port + ports.n; port++) {
		if (port->port >= IPPORT_RESERVED || net_addr_equal(&port->addr, &network->addr))
			continue;
		net_addr_format(&port->addr, addr);
		rc = err_set(err, -EACCES,
			     "publish: %s:%u: only root's sandboxes have ports below %d at another address "
			     "than ip",
			     addr, port->port, IPPORT_RESERVED);
	}
	return rc;
}

int network_set_publish(struct sandbox *sb, const char *text, size_t n, struct err *err)
{
	struct network *network = &sb->network;
	const struct net_ports old = network->published.ports;
	const bool sleeps = sb->state == SANDBOX_SUSPENDED;
	struct net_ports new;
	int rc = net_ports_parse(text, n, &network->addr, &new, err);

	if (!rc)
		rc = published_set(sb, &new, network->fd >= 0 || sleeps, err);
	if (!rc) {
		rc = replace_text(&network->publish, text, n, "publish", err);
		if (rc)
			(void)published_set(sb, &old, network->published.open, err);
	}
	if (rc)
		return rc;
	if (sleeps || sb->life.asleep) {
		published_watch(sb);
	} else if (network->helper) {
		/* All of them anew: a line may be the same but for the guest's port. */
		unpublish_all(network, &old);
		publish_all(sb);
	} else if (network->fd >= 0 && new.n && !timer_running(&network->again)) {
		/* One that has just failed is tried again soon, and then has all. */
		start_helper(sb);
	}
	return 0;
}

void network_settle(struct sandbox *sb, struct request *request)
{
	if (sb->network.publishing)
		list_add(&sb->network.settling, &request->link);
	else
		request_written(request);
}

pid_t network_pid(const struct sandbox *sb)
{
	const pid_t pid = sb->network.helper ? net_helper_pid(sb->network.helper) : 0;

	return pid > 0 ? pid : 0;
}

void network_connections(const struct sandbox *sb, struct buf *text)
{
	if (sb->network.helper)
		flows_show(net_helper_board(sb->network.helper), text);
}

void network_restore(struct sandbox *sb, enum net_mode mode, const struct net_addr *addr,
		     const struct buf *allow, const struct buf *publish)
{
	struct err err = { 0 };

	sb->network.mode = mode;
	take_again(sb, addr);
	if (network_set_allow(sb, (const char *)buf_bytes(allow), allow->len, &err) ||
	    network_set_publish(sb, (const char *)buf_bytes(publish), publish->len, &err))
		log_warn("%s: of its network's settings not all hold any more: %s", sb->obj.name, err.text);
}

/* ---- from a machine to its forks */

void network_save(const struct sandbox *sb, struct buf *ret)
{
	const struct network *network = &sb->network;
	const char *text = (const char *)buf_bytes(&network->allow), *end;
	size_t at, len;

	buf_printf(ret, "%s\n", net_mode_name(network->mode));
	for (at = 0; at < network->allow.len; at += len + 1) {
		end = memchr(text + at, '\n', network->allow.len - at); /* every line has one */
		len = (size_t)(end - text) - at;
		if (len)
			buf_add(ret, text + at, len + 1);
	}
}

int network_load(struct sandbox *sb, const struct buf *saved, const enum net_mode *mode, struct err *err)
{
	const char *text = (const char *)buf_bytes(saved);
	const char *line = saved->len ? memchr(text, '\n', saved->len) : NULL;
	enum net_mode found = sb->network.mode;
	char word[16];
	int rc = 0;

	if (saved->failed) /* no policy would be found in it */
		return err_sys(err, -ENOMEM, "%s", sb->obj.name);
	if (line && line - text < (ptrdiff_t)sizeof(word)) {
		memcpy(word, text, (size_t)(line - text));
		word[line - text] = 0;
		if (!net_mode_parse(word, &found))
			return err_set(err, -EINVAL,
				       "the snapshot's network is of no mode that is known here");
		rc = network_set_allow(sb, line + 1, saved->len - (size_t)(line + 1 - text), err);
	}
	if (!rc)
		network_set_mode(sb, mode ? *mode : found);
	return rc;
}
