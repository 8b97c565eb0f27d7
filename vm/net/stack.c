/* SPDX-License-Identifier: MIT */
/*
 * stack.c - the program sbx-net: a machine's link, the filter, and libslirp behind it
 *
 * Nothing here waits for anybody. A guest that does not take its frames has them queued, up to a bound, and while
 * some are queued the host's sockets are not read, so that their senders wait. A guest that sends too fast
 * fills its socket, and waits itself.
 */
#include "vm/net/stack.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "util/buf.h"
#include "vm/net/filter.h"
#include "vm/net/link.h"
#include "vm/net/net_messages.h"
#include "vm/net/resolver.h"

enum {
	FRAMES_A_TURN = 64,
	QUEUE_MAX = 8 << 20,
	SWEEP_MS = 10000,
	FDS_MAX = 8192,
	LINK_BUFFER = 1 << 20,
	/* Denials told: so many at once, and then so many a second. */
	DENIALS_MAX = 200,
	DENIALS_A_SECOND = 20,
};

struct stack {
	int control, link; /* link -1: not known yet */
	Slirp *slirp;
	struct flow_board *board;
	struct filter filter;
	struct resolver resolver;
	struct buf queue; /* frames for the guest, each with its u32 length before it */
	uint32_t untold;  /* denials that were too many */
	uint64_t told_ns; /* the bucket they come out of: full so long ago */
	uint64_t swept_ns;
	struct pollfd fds[FDS_MAX];
	unsigned nfds;
	bool told; /* a policy: until then frames wait */
	bool ended;
	uint8_t frame[LINK_FRAME_MAX + 1];
	uint8_t from_stack[LINK_FRAME_MAX];
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- frames to the guest */

/* False: it has to wait. What cannot be sent at all is lost. */
static bool send_now(const struct stack *s, const void *frame, size_t n)
{
	return send(s->link, frame, n, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 ||
	       (errno != EAGAIN && errno != EINTR);
}

static void to_guest(void *arg, const uint8_t *frame, size_t n)
{
	struct stack *s = arg;

	if (!s->queue.len && send_now(s, frame, n))
		return;
	if (s->queue.len + n > QUEUE_MAX)
		return;
	buf_put_bytes(&s->queue, frame, n);
	if (s->queue.failed)
		buf_release(&s->queue); /* frames may be lost */
}

static void flush(struct stack *s)
{
	const uint8_t *frame;
	struct reader r;
	size_t n;

	while (s->queue.len) {
		r = reader_init(buf_bytes(&s->queue), s->queue.len);
		frame = get_bytes(&r, &n);
		if (!send_now(s, frame, n))
			return;
		buf_consume(&s->queue, n + sizeof(uint32_t));
	}
}

/* ---- the filter's calls */

static void to_stack(void *arg, const uint8_t *frame, size_t n)
{
	slirp_input(((struct stack *)arg)->slirp, frame, (int)n);
}

/* A guest must not be able to keep the daemon busy with what it may not do. */
static bool may_tell(struct stack *s)
{
	const uint64_t each = UINT64_C(1000000000) / DENIALS_A_SECOND, now = now_ns();
	const uint64_t full = now > each * DENIALS_MAX ? now - each * DENIALS_MAX : 0;

	if (s->told_ns < full)
		s->told_ns = full;
	if (s->told_ns + each > now)
		return false;
	s->told_ns += each;
	return true;
}

static void denied(void *arg, const struct denial *denial)
{
	struct stack *s = arg;
	struct buf message = { 0 };

	if (!may_tell(s)) {
		s->untold++;
		return;
	}

	buf_put_u8(&message, NET_DENIED);
	buf_put_u8(&message, denial->proto);
	net_put_addr(&message, &denial->to);
	buf_put_u16(&message, denial->port);
	buf_put_str(&message, denial->name ? denial->name : "");
	buf_put_str(&message, denial->why);
	buf_put_u32(&message, s->untold);
	if (net_send(s->control, &message, NULL, 0))
		s->untold++;
	else
		s->untold = 0;
	buf_release(&message);
}

static void query(void *arg, const struct dns_client *client, const uint8_t *msg, size_t n)
{
	struct stack *s = arg;

	resolver_ask(&s->resolver, &s->filter, client, msg, n, now_ns());
}

static uint32_t random32(void *arg)
{
	uint32_t v = 0;

	(void)arg;
	while (getrandom(&v, sizeof(v), 0) != sizeof(v))
		;
	return v;
}

/* A socket that would talk to one of our own addresses would do so from it. */
static bool is_own(const struct net_addr *addr)
{
	const int fd = socket(addr->family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_storage to, from = { 0 };
	const socklen_t size = net_addr_socket(addr, 9, &to);
	socklen_t from_size = sizeof(from);
	bool own = false;

	if (fd < 0)
		return errno != EAFNOSUPPORT;
	/* An address that no route leads to is nobody's here. */
	if (!connect(fd, (const struct sockaddr *)&to, size)) {
		own = true;
		if (!getsockname(fd, (struct sockaddr *)&from, &from_size))
			own = addr->family == AF_INET
				      ? !memcmp(&((struct sockaddr_in *)&from)->sin_addr, addr->bytes, 4)
				      : !memcmp(&((struct sockaddr_in6 *)&from)->sin6_addr, addr->bytes, 16);
	}
	close(fd);
	return own;
}

/* ---- libslirp's calls */

static ssize_t on_packet(const void *frame, size_t n, void *arg)
{
	struct stack *s = arg;

	if (n > sizeof(s->from_stack))
		return (ssize_t)n;
	memcpy(s->from_stack, frame, n);
	filter_from_stack(&s->filter, s->from_stack, n, now_ns());
	return (ssize_t)n;
}

static void on_guest_error(const char *msg, void *arg)
{
	(void)msg; /* a guest could fill the log */
	(void)arg;
}

static int64_t on_clock(void *arg)
{
	(void)arg;
	return (int64_t)now_ns();
}

/* Timers are for router advertisements alone, which nobody wants here. */
static void *on_timer_new(SlirpTimerCb cb, void *cb_arg, void *arg)
{
	(void)cb;
	(void)cb_arg;
	return arg;
}

static void on_timer_free(void *timer, void *arg)
{
	(void)timer;
	(void)arg;
}

static void on_timer_mod(void *timer, int64_t ms, void *arg)
{
	(void)timer;
	(void)ms;
	(void)arg;
}

static void on_fd(int fd, void *arg)
{
	(void)fd;
	(void)arg;
}

static void on_notify(void *arg)
{
	(void)arg;
}

static const SlirpCb slirp_calls = {
	.send_packet = on_packet,
	.guest_error = on_guest_error,
	.clock_get_ns = on_clock,
	.timer_new = on_timer_new,
	.timer_free = on_timer_free,
	.timer_mod = on_timer_mod,
	.register_poll_fd = on_fd,
	.unregister_poll_fd = on_fd,
	.notify = on_notify,
};

/*
 * The guest's hardware address is known: libslirp, which would ask for it before the first connection to a published
 * port, keeps the frame until it has something else to do. An announcement is how it learns one unasked.
 */
static void introduce_guest(Slirp *slirp)
{
	static const uint8_t mac[6] = LINK_MAC_BYTES;
	uint8_t frame[60] = { [12] = 8, 6, 0, 1, 8, 0, 6, 4, 0, 1 };

	memset(frame, 0xff, 6);
	memcpy(frame + 6, mac, 6);
	memcpy(frame + 22, mac, 6);
	inet_pton(AF_INET, LINK_GUEST, frame + 28);
	inet_pton(AF_INET, LINK_GUEST, frame + 38);
	slirp_input(slirp, frame, sizeof(frame));
}

static int start_slirp(struct stack *s, struct err *err)
{
	SlirpConfig config = {
		.version = 4,
		.in_enabled = true,
		.in6_enabled = true,
		.vprefix_len = LINK_PREFIX6,
		.if_mtu = LINK_MTU,
		.if_mru = LINK_MTU,
		.disable_dns = true,
		.disable_dhcp = true,
	};

	inet_pton(AF_INET, "10.0.2.0", &config.vnetwork);
	inet_pton(AF_INET, LINK_NETMASK, &config.vnetmask);
	inet_pton(AF_INET, LINK_GATEWAY, &config.vhost);
	inet_pton(AF_INET, LINK_GUEST, &config.vdhcp_start);
	inet_pton(AF_INET, LINK_RESOLVER, &config.vnameserver);
	inet_pton(AF_INET6, "fd00::", &config.vprefix_addr6);
	inet_pton(AF_INET6, LINK_GATEWAY6, &config.vhost6);
	inet_pton(AF_INET6, LINK_RESOLVER6, &config.vnameserver6);
	s->slirp = slirp_new(&config, &slirp_calls, s);
	if (!s->slirp)
		return err_set(err, -ENOMEM, "libslirp did not start");
	introduce_guest(s->slirp);
	return 0;
}

/* ---- what the daemon says */

static int take_link(struct stack *s, int fds[NET_FDS_MAX], struct err *err)
{
	const int size = LINK_BUFFER;
	struct stat st;
	void *board;

	if (s->slirp || fds[0] < 0 || fds[1] < 0 || fstat(fds[1], &st) < 0 ||
	    st.st_size < (off_t)sizeof(*s->board))
		return err_set(err, -EPROTO, "the daemon sent no link");
	board = mmap(NULL, sizeof(*s->board), PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
	if (board == MAP_FAILED)
		return err_sys(err, -errno, "cannot map the table of connections");
	s->board = board;
	s->link = fds[0];
	fds[0] = -1;
	/* As far as the host's limit allows; the default will do. */
	(void)setsockopt(s->link, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	filter_init(&s->filter, &(struct filter_calls){ to_guest, to_stack, denied, query, random32, s },
		    s->board, is_own);
	filter_end_former(&s->filter);
	return start_slirp(s, err);
}

static int take_policy(struct stack *s, struct reader *r, struct err *err)
{
	struct rules rules = { 0 };
	const uint8_t mode = get_u8(r);
	const uint8_t *text;
	unsigned i, n;
	size_t len;
	int rc;

	text = get_bytes(r, &len);
	n = get_u8(r);
	if (r->bad || mode >= NET_MODES || n > NET_RESOLVERS_MAX)
		return err_set(err, -EPROTO, "a malformed policy");
	for (i = 0; i < n; i++) {
		net_get_addr(r, &s->resolver.server[i].addr);
		s->resolver.server[i].port = get_u16(r);
	}
	s->resolver.nservers = n;
	rc = rules_parse((const char *)text, len, &rules, err);
	if (!rc && r->bad)
		rc = err_set(err, -EPROTO, "a malformed policy");
	if (!rc)
		filter_set_policy(&s->filter, mode, &rules, now_ns());
	s->told |= !rc;
	rules_release(&rules);
	return rc;
}

/*
 * libslirp makes the sockets that it listens at itself. So it is told to listen anywhere, and then the daemon's takes
 * the place of that socket: its descriptor is the lowest that was free, as socket(2) promises. Negative errno.
 */
static int listen_at(struct stack *s, int fd, const struct sockaddr_storage *guest, socklen_t guest_size,
		     int flags)
{
	const struct sockaddr_in anywhere = { .sin_family = AF_INET,
					      .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	const int next = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	struct sockaddr_in made = { 0 };
	socklen_t size = sizeof(made);

	if (next < 0)
		return -errno;
	close(next);
	errno = 0;
	if (slirp_add_hostxfwd(s->slirp, (const struct sockaddr *)&anywhere, sizeof(anywhere),
			       (const struct sockaddr *)guest, guest_size, flags) < 0)
		return errno ? -errno : -EIO;
	if (getsockname(next, (struct sockaddr *)&made, &size) < 0 || made.sin_family != AF_INET ||
	    made.sin_addr.s_addr != anywhere.sin_addr.s_addr)
		return -EPROTO;
	return dup3(fd, next, O_CLOEXEC) < 0 ? -errno : 0;
}

static void publish(struct stack *s, struct reader *r, int fd)
{
	const uint32_t tag = get_u32(r);
	const int flags = get_u8(r) == IPPROTO_UDP ? SLIRP_HOSTFWD_UDP : 0;
	struct sockaddr_storage guest;
	struct net_addr to;
	struct buf answer = { 0 };
	socklen_t guest_size;
	int rc;

	net_addr_parse(LINK_GUEST, &to);
	guest_size = net_addr_socket(&to, get_u16(r), &guest);
	if (r->bad || fd < 0)
		return;
	rc = listen_at(s, fd, &guest, guest_size, flags);
	buf_put_u8(&answer, NET_PUBLISHED);
	buf_put_u32(&answer, tag);
	buf_put_u32(&answer, (uint32_t)-rc);
	if (net_send(s->control, &answer, NULL, 0))
		s->ended = true;
	buf_release(&answer);
}

static void unpublish(struct stack *s, struct reader *r)
{
	const int flags = get_u8(r) == IPPROTO_UDP ? SLIRP_HOSTFWD_UDP : 0;
	struct sockaddr_storage host;
	struct net_addr addr;
	socklen_t size;

	net_get_addr(r, &addr);
	size = net_addr_socket(&addr, get_u16(r), &host);
	if (!r->bad && addr.family == AF_INET)
		slirp_remove_hostxfwd(s->slirp, (struct sockaddr *)&host, size, flags);
}

/* 1: one was taken; 0: none is there. */
static int take_message(struct stack *s, struct err *err)
{
	static uint8_t message[NET_MESSAGE_MAX];
	int fds[NET_FDS_MAX], n, rc = 0;
	struct reader r;
	uint8_t type;

	n = net_recv(s->control, message, fds);
	if (n == -EAGAIN)
		return 0;
	if (n <= 0) {
		s->ended = true;
		return n;
	}
	r = reader_init(message, (size_t)n);
	type = get_u8(&r);
	if (type == NET_LINK)
		rc = take_link(s, fds, err);
	else if (!s->slirp)
		rc = err_set(err, -EPROTO, "the daemon sent no link");
	else if (type == NET_POLICY)
		rc = take_policy(s, &r, err);
	else if (type == NET_PUBLISH)
		publish(s, &r, fds[0]);
	else
		unpublish(s, &r);
	for (n = 0; n < NET_FDS_MAX; n++)
		if (fds[n] >= 0)
			close(fds[n]);
	return rc ? rc : 1;
}

static int take_messages(struct stack *s, struct err *err)
{
	int rc;

	do
		rc = take_message(s, err);
	while (rc > 0 && !s->ended);
	return rc < 0 ? rc : 0;
}

/* ---- the loop */

static int take_frames(struct stack *s, struct err *err)
{
	ssize_t n;
	int i, rc;

	for (i = 0; i < FRAMES_A_TURN; i++) {
		n = recv(s->link, s->frame, sizeof(s->frame), MSG_DONTWAIT);
		if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
			s->ended = true; /* the machine is gone */
		if (n <= 0)
			return 0;
		/* What was decided before the guest sent it holds for it. */
		rc = take_messages(s, err);
		if (rc || s->ended)
			return rc;
		filter_from_guest(&s->filter, s->frame, (size_t)n, now_ns());
	}
	return 0;
}

static int add_poll(int fd, int events, void *arg)
{
	struct stack *s = arg;
	short want = 0;

	if (s->nfds == FDS_MAX)
		return -1;
	if (events & SLIRP_POLL_IN && !s->queue.len)
		want |= POLLIN;
	if (events & SLIRP_POLL_OUT)
		want |= POLLOUT;
	if (events & SLIRP_POLL_PRI)
		want |= POLLPRI;
	s->fds[s->nfds] = (struct pollfd){ .fd = fd, .events = want };
	/* Errors and hang-ups are reported unasked, for ever: not while nothing is done about them. */
	if (!want)
		s->fds[s->nfds].fd = -1;
	return (int)s->nfds++;
}

static int get_revents(int index, void *arg)
{
	const struct stack *s = arg;
	short got;
	int events = 0;

	if (index < 0)
		return 0;
	got = s->fds[index].revents;
	if (got & POLLIN)
		events |= SLIRP_POLL_IN;
	if (got & POLLOUT)
		events |= SLIRP_POLL_OUT;
	if (got & POLLPRI)
		events |= SLIRP_POLL_PRI;
	if (got & (POLLERR | POLLNVAL))
		events |= SLIRP_POLL_ERR;
	if (got & POLLHUP)
		events |= SLIRP_POLL_HUP;
	return events;
}

static void sweep(struct stack *s, uint64_t now)
{
	if (now - s->swept_ns < SWEEP_MS * UINT64_C(1000000))
		return;
	s->swept_ns = now;
	flows_sweep(&s->filter.flows, now);
}

static int turn(struct stack *s, struct err *err)
{
	enum { CONTROL, LINK, OTHERS };
	uint32_t wait = UINT32_MAX;
	int timeout = -1, rc;
	short ready;

	if (s->board)
		s->board->turns++;
	s->fds[CONTROL] = (struct pollfd){ .fd = s->control, .events = POLLIN };
	s->fds[LINK] = (struct pollfd){ .fd = s->told ? s->link : -1, .events = POLLIN };
	if (s->queue.len)
		s->fds[LINK].events |= POLLOUT;
	s->nfds = OTHERS;
	s->nfds += resolver_poll(&s->resolver, s->fds + s->nfds, &timeout, now_ns());
	if (s->slirp) {
		slirp_pollfds_fill(s->slirp, &wait, add_poll, s);
		if (s->filter.flows.n && wait > SWEEP_MS)
			wait = SWEEP_MS;
	}
	if (wait != UINT32_MAX && (timeout < 0 || (uint32_t)timeout > wait))
		timeout = (int)wait;
	rc = poll(s->fds, s->nfds, timeout);
	if (rc < 0 && errno != EINTR)
		return err_sys(err, -errno, "poll");
	if (s->slirp) {
		slirp_pollfds_poll(s->slirp, rc < 0, get_revents, s);
		resolver_work(&s->resolver, &s->filter, now_ns());
		sweep(s, now_ns());
	}
	ready = rc > 0 ? s->fds[LINK].revents : 0;
	rc = rc > 0 && s->fds[CONTROL].revents ? take_messages(s, err) : 0;
	if (!rc && !s->ended && ready & (POLLIN | POLLHUP | POLLERR))
		rc = take_frames(s, err);
	flush(s);
	return rc;
}

int stack_serve(int control_fd, struct err *err)
{
	struct stack *s = calloc(1, sizeof(*s));
	int rc = 0;

	if (!s)
		return err_set(err, -ENOMEM, "out of memory");
	s->control = control_fd;
	s->link = -1;
	resolver_init(&s->resolver);
	while (!rc && !s->ended)
		rc = turn(s, err);
	if (s->slirp) {
		slirp_cleanup(s->slirp);
		filter_release(&s->filter);
		munmap(s->board, sizeof(*s->board));
	}
	buf_release(&s->queue);
	free(s); /* its descriptors the kernel takes back */
	return rc;
}
