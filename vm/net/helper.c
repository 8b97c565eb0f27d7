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
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/io.h"
#include "vm/net/flow.h"
#include "vm/net/resolvers.h"
#include "vm/process.h"

struct net_helper {
	struct process *process; /* NULL when it has ended */
	int control;
	struct watch *watch;
	struct flow_board *board;
	const struct net_events *events;
	void *owner;
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
			close(fds[i]); /* it has none to give */
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
	watch_free(helper->watch);
	helper->watch = NULL;
	snprintf(why, sizeof(why), "sbx-net %s", reason);
	helper->events->ended(helper->owner, why);
}

/* ---- its life */

void net_helper_free(struct net_helper *helper)
{
	if (!helper)
		return;
	if (helper->process)
		process_abandon(helper->process);
	watch_free(helper->watch);
	if (helper->control >= 0)
		close(helper->control);
	if (helper->board)
		munmap(helper->board, sizeof(*helper->board));
	free(helper);
}

/* The table of connections, shared; *ret_fd is for the process. */
static int make_board(struct net_helper *helper, int *ret_fd, struct err *err)
{
	void *board;

	*ret_fd = memfd_new("sbx-net", sizeof(*helper->board));
	if (*ret_fd < 0)
		return err_sys(err, *ret_fd, "cannot make a table of connections");
	/* The process could shorten it otherwise, and reading it would kill us. */
	if (fcntl(*ret_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_sys(err, -errno, "cannot seal a table of connections");
	board = mmap(NULL, sizeof(*helper->board), PROT_READ, MAP_SHARED, *ret_fd, 0);
	if (board == MAP_FAILED)
		return err_sys(err, -errno, "cannot map a table of connections");
	helper->board = board;
	return 0;
}

static int spawn(struct net_helper *helper, struct loop *loop, int control_fd, struct err *err)
{
	char number[16];
	const char *const args[] = { "--control", number, NULL };
	const struct process_spec spec = {
		.kind = JAIL_NET, .args = args, .keep = &control_fd, .nkeep = 1, .stdin_fd = -1
	};

	snprintf(number, sizeof(number), "%d", PROCESS_FD);
	return process_spawn(loop, &spec, on_exit_process, helper, &helper->process, err);
}

int net_helper_start(struct loop *loop, int link, const struct net_events *events, void *owner,
		     struct net_helper **ret, struct err *err)
{
	struct net_helper *helper = calloc(1, sizeof(*helper));
	int control[2] = { -1, -1 }, board = -1, rc;
	struct buf hello = { 0 };

	if (!helper)
		return err_set(err, -ENOMEM, "out of memory");
	helper->control = -1;
	helper->events = events;
	helper->owner = owner;
	rc = make_board(helper, &board, err);
	if (!rc && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, control) < 0)
		rc = err_sys(err, -errno, "cannot connect sbx-net");
	if (rc)
		goto out;
	helper->control = control[0];
	helper->watch = watch_new(loop, helper->control, EPOLLIN, on_message, helper);
	if (!helper->watch)
		rc = err_sys(err, -errno, "cannot watch sbx-net");
	else
		rc = spawn(helper, loop, control[1], err);
	if (!rc) {
		buf_put_u8(&hello, NET_LINK);
		send_message(helper, &hello, (const int[]){ link, board }, 2);
	}
out:
	if (control[1] >= 0)
		close(control[1]);
	if (board >= 0)
		close(board);
	if (rc)
		net_helper_free(helper);
	else
		*ret = helper;
	return rc;
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

static void put_port(struct buf *message, const struct net_port *port)
{
	buf_put_u8(message, port->proto);
	net_put_addr(message, &port->addr);
	buf_put_u16(message, port->port);
}

void net_helper_publish(struct net_helper *helper, uint32_t tag, const struct net_port *port)
{
	struct buf message = { 0 };

	buf_put_u8(&message, NET_PUBLISH);
	buf_put_u32(&message, tag);
	put_port(&message, port);
	buf_put_u16(&message, port->guest_port);
	send_message(helper, &message, NULL, 0);
}

void net_helper_unpublish(struct net_helper *helper, const struct net_port *port)
{
	struct buf message = { 0 };

	buf_put_u8(&message, NET_UNPUBLISH);
	put_port(&message, port);
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
