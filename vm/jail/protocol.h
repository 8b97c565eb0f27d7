/* SPDX-License-Identifier: MIT */
/*
 * protocol.h - what the daemon and the launcher say to each other
 *
 * A SOCK_SEQPACKET socket pair; one struct a message, host byte order: both ends are one program. The
 * launcher says READY once, with an error or with how it makes jails. Then:
 *
 *   SPAWN  kind, arguments; descriptors: standard input, log, and what the program keeps.
 *          Reply: pid, and a pidfd. The launcher starts nothing but the programs of its table.
 *   REAP   pid. Waits for its end. Reply: status, and in text whether it ran out of memory.
 *   LIMIT  pid, value: enum limit, amount. Reply: whether it holds.
 *   LIMITS Reply: bits of the limits there can be; text says how.
 *   LAYERS Reply: the directory of layers on a read-only mount.
 *   PROC   pid, value: enum launch_proc. Reply: that file of /proc/PID, open to be read.
 *   CALL   value: any thread. Reply: the number of the system call that it is in, or -1.
 *   RESOLVERS Reply: this host's resolv.conf.
 *   KILL   pid, signal. No reply.
 *   NICE   pid, value. No reply.
 *
 * A pid is one of a process that the launcher started and that was not reaped; others are refused, so the
 * daemon has no power over other processes through it. When the socket closes, all of them are killed.
 */
#ifndef SBX_VM_JAIL_PROTOCOL_H
#define SBX_VM_JAIL_PROTOCOL_H

#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

enum launch_op {
	LAUNCH_SPAWN = 1,
	LAUNCH_REAP,
	LAUNCH_KILL,
	LAUNCH_NICE,
	LAUNCH_LAYERS,
	LAUNCH_LIMIT,
	LAUNCH_LIMITS,
	LAUNCH_PROC,
	LAUNCH_CALL,
	LAUNCH_RESOLVERS
};

enum { LAUNCH_ARGS_MAX = 640, LAUNCH_TEXT_MAX = 96 << 10, LAUNCH_FDS_MAX = 253, LAUNCH_FDS_MIN = 2 };

struct launch_head {
	uint32_t op;
	int32_t kind; /* enum jail_kind */
	int32_t pid;
	int32_t value;            /* signal, nice value or limit */
	uint64_t amount;          /* of a limit */
	uint32_t nargs, text_len; /* of a SPAWN */
};

struct launch_request {
	struct launch_head head;
	char text[LAUNCH_TEXT_MAX]; /* the arguments, each ended by a NUL; text_len bytes of it are sent */
};

static inline size_t launch_size(const struct launch_request *request)
{
	return sizeof(request->head) + request->head.text_len;
}

struct launch_reply {
	int32_t code;            /* 0 or a negative errno, which text explains */
	int32_t value;           /* pid or status */
	char mode[16];           /* READY only */
	char text[ERR_TEXT_MAX]; /* READY: how */
};

#endif
