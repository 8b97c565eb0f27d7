/* SPDX-License-Identifier: MIT */
/*
 * network.h - a sandbox's network: what it may reach, and the helper that sees to it
 *
 * The helper is started when the machine says something, or is to be reached at a published port, and ends with
 * the machine: connections belong to one machine. Policy and publishing are the sandbox's, from one machine to
 * the next; a fork begins with its origin's policy, and publishes nothing.
 */
#ifndef SBX_FS_SANDBOX_NETWORK_H
#define SBX_FS_SANDBOX_NETWORK_H

#include "fs/sandbox/published.h"
#include "fs/tree/tail.h"
#include "util/loop.h"
#include "vm/net/policy.h"

struct sandbox;
struct net_helper;

struct network {
	enum net_mode mode;
	struct buf allow, publish; /* texts */
	struct net_addr addr;      /* this host's for it... */
	uint16_t number;           /* ...whose last two bytes these are, while it is nobody else's; else 0 */
	struct published_ports published;
	struct tail denied;
	int fd;              /* the machine's link; -1: no machine */
	struct watch *watch; /* for its first frame; NULL: there is a helper, or there shall be none yet */
	struct net_helper *helper; /* NULL: none */
	int board;                 /* the machine's table of connections; -1: it had no helper yet */
	bool left;                 /* one has ended and left connections, which another has to end */
	struct timer again;        /* until the next one may be tried */
	unsigned publishing;       /* ports that the helper was given and has not answered for */
	struct list settling;      /* struct request: who waits for those */
};

void network_init(struct sandbox *sb);
/* It is removed: its address may be another's. */
void network_leave(struct sandbox *sb);
void network_release(struct sandbox *sb);

/* The machine is there, and fd our end of its network. What it said before it became this sandbox's is nobody's. */
int network_attach(struct sandbox *sb, int fd, struct err *err);
/* It goes, and its connections with it. Harmless without one. */
void network_detach(struct sandbox *sb);
/*
 * It sleeps, or is about to: whoever comes to a published port from now on waits there, and wakes it (life_touch).
 * Where there is a machine its other connections stay. network_attach, or network_awake where it goes on without one,
 * takes that back.
 */
void network_sleep(struct sandbox *sb);
void network_awake(struct sandbox *sb);
/* It cannot be woken: whoever came to a port is turned away. */
void network_refuse(struct sandbox *sb);

/* New texts for the files; a newline at the end is optional. The running machine is held to them at once. */
void network_set_mode(struct sandbox *sb, enum net_mode mode);
int network_set_allow(struct sandbox *sb, const char *text, size_t n, struct err *err);
/*
 * The daemon may listen at any port (vm/jail/confine.c), and its users not: -EACCES where an ordinary user's sandbox
 * would have one below 1024 elsewhere than at its own address.
 */
int network_check_publish(const struct sandbox *sb, const char *text, size_t n, struct err *err);
int network_set_publish(struct sandbox *sb, const char *text, size_t n, struct err *err);
/* Answer the request when the ports of `publish` are listened at, or will be by the next machine. */
void network_settle(struct sandbox *sb, struct request *request);
/* Of its helper; 0: it has none. */
pid_t network_pid(const struct sandbox *sb);
/* Its open connections, one a line. */
void network_connections(const struct sandbox *sb, struct buf *text);

/* As it was in a sandbox that is found again; what does not fit any more is left out. */
void network_restore(struct sandbox *sb, enum net_mode mode, const struct net_addr *addr,
		     const struct buf *allow, const struct buf *publish);

/* What a snapshot keeps of it: the mode, and then the rules, one a line. And back; `mode`, if not NULL, is
 * asked for instead. Of nothing the sandbox's own stays. */
void network_save(const struct sandbox *sb, struct buf *ret);
int network_load(struct sandbox *sb, const struct buf *saved, const enum net_mode *mode, struct err *err);

#endif
