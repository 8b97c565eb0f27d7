/* SPDX-License-Identifier: MIT */
/*
 * published.h - the sockets at which this host listens for a sandbox (net/publish)
 *
 * The daemon opens them, and the helper of a machine is given them: so a port stays its sandbox's from one machine to
 * the next, and who connects while there is none waits in the socket's queue. They are open while there is a machine,
 * and while one sleeps.
 */
#ifndef SBX_FS_SANDBOX_PUBLISHED_H
#define SBX_FS_SANDBOX_PUBLISHED_H

#include "util/err.h"
#include "vm/net/ports.h"

struct port_socket;
struct sandbox;

/* Part of struct network. */
struct published_ports {
	struct net_ports ports;   /* what `publish` says */
	struct port_socket *open; /* one for each while they are open; NULL: they are not */
};

/*
 * Listen at these ports from now on, and at no others; those that are open stay so. All or none: -EADDRINUSE and
 * others, with the reason, where one cannot be had, and then nothing has changed.
 */
int published_set(struct sandbox *sb, const struct net_ports *ports, bool listen, struct err *err);
/* Listen at what `publish` says, as far as can be; what cannot is reported. Harmless where that is done already. */
void published_open(struct sandbox *sb);
void published_close(struct sandbox *sb);
/* Of the port of this number; -1: it is not open. */
int published_fd(const struct sandbox *sb, unsigned i);
/* From now on whoever comes to a port wakes the sandbox; and not any more. */
void published_watch(struct sandbox *sb);
void published_unwatch(struct sandbox *sb);
/* Whoever waits there is turned away. */
void published_refuse(struct sandbox *sb);

#endif
