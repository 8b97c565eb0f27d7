/* SPDX-License-Identifier: MIT */
/*
 * helper.c - the daemon's side of one sbx-net process
 *
 * Whatever goes wrong ends the process, and its end is told once. A helper has no state that is not its machine's:
 * losing one loses connections, and the next word of the guest's brings another.
 */
#include "vm/net/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/io.h"
#include "util/log.h"
#include "util/message.h"
#include "vm/net/flow.h"
#include "vm/net/resolvers.h"
#include "vm/process.h"

enum {
	READY_MAX = 3,
	/* Not in the way of who took the last one, and not all at once. */
	REFILL_NS = 20 * 1000 * 1000,
	/* One that cannot be started is tried again so much later. */
	RETRY_NS = 1000 * 1000 * 1000,
	/* So often in a row a helper may be found where it was, with frames to take. */
	STALLS_MAX = 3,
};

#define LOOK_NS UINT64_C(2000000000)

struct net_helper {
	struct loop *loop;
	struct net_helpers *pool; /* while it is nobody's */
	struct list link;         /* pool->ready */
	struct process *process;  /* NULL when it has ended */
	int control;
	struct watch *watch;
	struct flow_board *board;
	const struct net_events *events;
	void *owner;
	int frames;         /* the machine's link */
	struct timer look;  /* does it do its work? */
	uint64_t turns;     /* of the board, at the last look */
	unsigned stalls;    /* looks at which it was found where it was */
	const char *killed; /* why we did that; NULL: we did not */
};

struct net_helpers {
	struct loop *loop;
	struct list ready;
	unsigned n;
	struct timer refill;
};

static void break_off(struct net_helper *helper)
{
	if (helper->process)
		process_kill(helper->process, SIGKILL);
}

static void send_message(struct net_helper *helper, struct buf *message, const int *fds, unsigned nfds)
{
	/* One that does not read would go on under what was said before. */
	if (net_send(helper->control, message, fds, nfds))
		break_off(helper);
	buf_release(message);
}

/* ---- what it says */

static void get_text(struct reader *r, char *ret, size_t size)
{
	char *p;

	get_str(r, ret, size);
	for (p = ret; *p; p++)
		if (*p < ' ' || *p > '~')
			*p = '?';
}

static void take_denial(struct net_helper *helper, struct reader *r)
{
	struct net_denial denial = { 0 };

	denial.proto = get_u8(r);
	net_get_addr(r, &denial.to);
	denial.port = get_u16(r);
	get_text(r, denial.name, sizeof(denial.name));
	get_text(r, denial.why, sizeof(denial.why));
	denial.untold = get_u32(r);
	if (!r->bad)
		helper->events->denied(helper->owner, &denial);
}

static void on_message(void *arg, uint32_t events)
{
	uint8_t message[NET_MESSAGE_MAX];
	struct net_helper *helper = arg;
	int fds[NET_FDS_MAX], i, n;
	struct reader r;
	uint32_t tag, code;

	(void)events;
	n = net_recv(helper->control, message, fds);
	for (i = 0; i < NET_FDS_MAX; i++)
		if (fds[i] >= 0)
			close(fds[i]); /* it has none to give, and it may not send any since Linux 6.16 */
	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		watch_free(helper->watch);
		helper->watch = NULL;
		break_off(helper);
		return;
	}
	r = reader_init(message, (size_t)n);
	switch (get_u8(&r)) {
	case NET_DENIED:
		take_denial(helper, &r);
		break;
	case NET_PUBLISHED:
		tag = get_u32(&r);
		code = get_u32(&r);
		if (!r.bad && code < 4096)
			helper->events->published(helper->owner, tag, -(int)code);
		break;
	default:
		break_off(helper);
	}
}

static void on_exit_process(void *arg, int status, const char *reason)
{
	struct net_helper *helper = arg;
	char why[ERR_TEXT_MAX];

	(void)status;
	helper->process = NULL;
	timer_stop(&helper->look);
	watch_free(helper->watch);
	helper->watch = NULL;
	snprintf(why, sizeof(why), "sbx-net %s", helper->killed ? helper->killed : reason);
	helper->events->ended(helper->owner, why);
}

static bool frames_wait(const struct net_helper *helper)
{
	struct pollfd fd = { .fd = helper->frames, .events = POLLIN };

	return poll(&fd, 1, 0) == 1 && fd.revents & POLLIN;
}

static void on_look(void *arg)
{
	struct net_helper *helper = arg;
	const uint64_t turns = helper->board->turns;

	helper->stalls = turns == helper->turns && frames_wait(helper) ? helper->stalls + 1 : 0;
	helper->turns = turns;
	if (helper->stalls == STALLS_MAX) {
		helper->killed = "did not take the machine's frames, and was ended";
		break_off(helper);
		return;
	}
	timer_start(helper->loop, &helper->look, LOOK_NS, on_look, helper);
}

/* ---- its life */

void net_helper_free(struct net_helper *helper)
{
	if (!helper)
		return;
	list_del(&helper->link);
	timer_stop(&helper->look);
	if (helper->process)
		process_abandon(helper->process);
	watch_free(helper->watch);
	if (helper->control >= 0)
		close(helper->control);
	if (helper->board)
		munmap(helper->board, sizeof(*helper->board));
	free(helper);
}

/* The table of connections, shared; *fd is for the process. */
static int map_board(struct net_helper *helper, int *fd, struct err *err)
{
	void *board;
	const int rc = memfd_share("sbx-net", sizeof(*helper->board), fd, &board);

	if (rc)
		return err_sys(err, rc, "cannot share a table of connections");
	helper->board = board;
	return 0;
}

static int spawn(struct net_helper *helper, int control_fd, struct err *err)
{
	char number[16];
	const char *const args[] = { "--control", number, NULL };
	const struct process_spec spec = {
		.kind = JAIL_NET, .args = args, .keep = &control_fd, .nkeep = 1, .stdin_fd = -1
	};

	snprintf(number, sizeof(number), "%d", PROCESS_FD);
	return process_spawn(helper->loop, &spec, on_exit_process, helper, &helper->process, err);
}

/* A process that is nobody's yet. */
static int helper_new(struct net_helpers *helpers, struct net_helper **ret, struct err *err)
{
	struct net_helper *helper = calloc(1, sizeof(*helper));
	int control[2] = { -1, -1 }, rc;

	if (!helper)
		return err_set(err, -ENOMEM, "out of memory");
	helper->loop = helpers->loop;
	list_init(&helper->link);
	helper->control = helper->frames = -1;
	rc = message_pair(SOCK_SEQPACKET, false, control);
	if (rc)
		err_sys(err, rc, "cannot connect sbx-net");
	helper->control = control[0];
	if (!rc) {
		helper->watch = watch_new(helper->loop, helper->control, EPOLLIN, on_message, helper);
		rc = helper->watch ? spawn(helper, control[1], err)
				   : err_sys(err, -errno, "cannot watch sbx-net");
	}
	if (control[1] >= 0)
		close(control[1]);
	if (rc)
		net_helper_free(helper);
	else
		*ret = helper;
	return rc;
}

/* ---- those that are ready */

static void on_refill(void *arg);

/* One that was nobody's has ended by itself, or said something: it is no good. */
static void on_ready_ended(void *owner, const char *why)
{
	struct net_helper *helper = owner;
	struct net_helpers *helpers = helper->pool;

	log_warn("%s before it was used", why);
	net_helper_free(helper);
	helpers->n--;
	timer_start(helpers->loop, &helpers->refill, RETRY_NS, on_refill, helpers);
}

static void on_ready_denied(void *owner, const struct net_denial *denial)
{
	(void)denial;
	break_off(owner);
}

static void on_ready_published(void *owner, uint32_t tag, int code)
{
	(void)tag;
	(void)code;
	break_off(owner);
}

static const struct net_events ready_events = { .denied = on_ready_denied,
						.published = on_ready_published,
						.ended = on_ready_ended };

static void on_refill(void *arg)
{
	struct net_helpers *helpers = arg;
	struct net_helper *helper;
	struct err err;
	int rc = helper_new(helpers, &helper, &err);

	if (!rc) {
		helper->events = &ready_events;
		helper->owner = helper;
		helper->pool = helpers;
		list_add(&helpers->ready, &helper->link);
		helpers->n++;
	}
	if (helpers->n < READY_MAX)
		timer_start(helpers->loop, &helpers->refill, rc ? RETRY_NS : REFILL_NS, on_refill, helpers);
}

struct net_helpers *net_helpers_new(struct loop *loop)
{
	struct net_helpers *helpers = calloc(1, sizeof(*helpers));

	if (helpers) {
		helpers->loop = loop;
		list_init(&helpers->ready);
	}
	return helpers;
}

void net_helpers_free(struct net_helpers *helpers)
{
	struct net_helper *helper;

	if (!helpers)
		return;
	timer_stop(&helpers->refill);
	while ((helper = list_first(&helpers->ready, struct net_helper, link)))
		net_helper_free(helper);
	free(helpers);
}

void net_helpers_want(struct net_helpers *helpers)
{
	if (helpers->n < READY_MAX && !timer_running(&helpers->refill))
		timer_start(helpers->loop, &helpers->refill, REFILL_NS, on_refill, helpers);
}

static int take_ready(struct net_helpers *helpers, struct net_helper **ret, struct err *err)
{
	struct net_helper *helper = list_first(&helpers->ready, struct net_helper, link);

	net_helpers_want(helpers);
	if (!helper)
		return helper_new(helpers, ret, err);
	list_del(&helper->link);
	helpers->n--;
	net_helpers_want(helpers);
	*ret = helper;
	return 0;
}

int net_helper_start(struct net_helpers *helpers, int link, int *board, const struct net_events *events,
		     void *owner, struct net_helper **ret, struct err *err)
{
	struct net_helper *helper;
	struct buf hello = { 0 };
	int rc = take_ready(helpers, &helper, err);

	if (rc)
		return rc;
	helper->events = events;
	helper->owner = owner;
	helper->frames = link;
	rc = map_board(helper, board, err);
	if (rc) {
		net_helper_free(helper);
		return rc;
	}
	buf_put_u8(&hello, NET_LINK);
	send_message(helper, &hello, (const int[]){ link, *board }, 2);
	timer_start(helper->loop, &helper->look, LOOK_NS, on_look, helper);
	*ret = helper;
	return 0;
}

void net_helper_policy(struct net_helper *helper, enum net_mode mode, const struct buf *rules)
{
	struct net_resolver resolver[NET_RESOLVERS_MAX];
	const unsigned n = net_resolvers(resolver, NET_RESOLVERS_MAX);
	struct buf message = { 0 };
	unsigned i;

	buf_put_u8(&message, NET_POLICY);
	buf_put_u8(&message, (uint8_t)mode);
	buf_put_bytes(&message, buf_bytes(rules), rules->len);
	buf_put_u8(&message, (uint8_t)n);
	for (i = 0; i < n; i++) {
		net_put_addr(&message, &resolver[i].addr);
		buf_put_u16(&message, resolver[i].port);
	}
	send_message(helper, &message, NULL, 0);
}

void net_helper_publish(struct net_helper *helper, uint32_t tag, const struct net_port *port, int fd)
{
	struct buf message = { 0 };

	buf_put_u8(&message, NET_PUBLISH);
	buf_put_u32(&message, tag);
	buf_put_u8(&message, port->proto);
	buf_put_u16(&message, port->guest_port);
	send_message(helper, &message, &fd, 1);
}

void net_helper_unpublish(struct net_helper *helper, const struct net_port *port)
{
	struct buf message = { 0 };

	buf_put_u8(&message, NET_UNPUBLISH);
	buf_put_u8(&message, port->proto);
	net_put_addr(&message, &port->addr);
	buf_put_u16(&message, port->port);
	send_message(helper, &message, NULL, 0);
}

const struct flow_board *net_helper_board(const struct net_helper *helper)
{
	return helper->board;
}

pid_t net_helper_pid(const struct net_helper *helper)
{
	return helper->process ? process_pid(helper->process) : -1;
}
