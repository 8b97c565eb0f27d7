/* SPDX-License-Identifier: MIT */
/*
 * helper.h - the daemon's side of one sbx-net process
 *
 * A helper reads the link of one machine from its start to its end. What a machine was told goes with it: the
 * policy is sent anew to each.
 */
#ifndef SBX_VM_NET_HELPER_H
#define SBX_VM_NET_HELPER_H

#include <sys/types.h>

#include "util/buf.h"
#include "util/err.h"
#include "util/loop.h"
#include "vm/net/net_messages.h"
#include "vm/net/policy.h"
#include "vm/net/ports.h"

struct flow_board;
struct net_helper;

/*
 * Processes that are ready: started, in their jails, and nobody's yet. The first word of a machine then waits for no
 * start of a program. There are none until net_helpers_want says that a network may be used; then as many as
 * READY_MAX are kept.
 */
struct net_helpers;
struct net_helpers *net_helpers_new(struct loop *loop); /* NULL: out of memory */
void net_helpers_free(struct net_helpers *helpers);
void net_helpers_want(struct net_helpers *helpers);

/* What it refused. The strings are printable, whatever the helper sent. */
struct net_denial {
	uint8_t proto;      /* IPPROTO_*; 0: not known */
	struct net_addr to; /* family 0: not known */
	uint16_t port;
	char name[NAME_TEXT_MAX + 1], why[NET_WHY_MAX + 1];
	uint32_t untold; /* so many before it could not be told */
};

struct net_events {
	void (*denied)(void *owner, const struct net_denial *denial);
	/* The answer to net_helper_publish: 0, or a negative errno where who comes there is not taken. */
	void (*published)(void *owner, uint32_t tag, int code);
	/* The process is gone; only net_helper_free may follow. */
	void (*ended)(void *owner, const char *why);
};

/*
 * `link` stays the caller's, who reads nothing from it while there is a helper. *board is the descriptor of the
 * machine's table of connections: -1 for its first helper, then what that left there. It is the caller's to close
 * when the machine has ended. A later helper ends, for the machine, what the one before left open.
 *
 * A helper that leaves frames untaken and does nothing for some seconds is ended: `ended` follows.
 */
int net_helper_start(struct net_helpers *helpers, int link, int *board, const struct net_events *events,
		     void *owner, struct net_helper **ret, struct err *err);
/* NULL is allowed; nobody is told. */
void net_helper_free(struct net_helper *helper);
/* The rules were parsed once, and are sent as text. A helper that does not listen is ended: `ended` follows. */
void net_helper_policy(struct net_helper *helper, enum net_mode mode, const struct buf *rules);

/* `fd` is a socket that listens at the port (ports.h), and stays the caller's. */
void net_helper_publish(struct net_helper *helper, uint32_t tag, const struct net_port *port, int fd);
void net_helper_unpublish(struct net_helper *helper, const struct net_port *port);

/* Its connections, for flows_show. */
const struct flow_board *net_helper_board(const struct net_helper *helper);
pid_t net_helper_pid(const struct net_helper *helper);

#endif
