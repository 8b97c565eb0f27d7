/* SPDX-License-Identifier: MIT */
/*
 * listeners.h - which ports of a machine's loopback somebody listens at
 *
 * Its agent is asked for the kernel's tables (/proc/1/net/tcp and tcp6), as any file of the guest's. What a guest
 * says of itself is believed, but for its length.
 */
#ifndef SBX_FS_SANDBOX_LISTENERS_H
#define SBX_FS_SANDBOX_LISTENERS_H

#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"

struct sandbox;

struct ports_seen {
	uint8_t bit[65536 / 8];
};
bool ports_have(const struct ports_seen *ports, unsigned port);

/*
 * `done` is called once, now or later: ports is valid during the call, NULL with an error (as of sandbox_usable,
 * -ETIMEDOUT, or the guest's own).
 */
typedef void (*listeners_fn)(struct sandbox *sb, void *arg, const struct ports_seen *ports, int err);
void listeners_ask(struct sandbox *sb, listeners_fn done, void *arg);

#endif
