/* SPDX-License-Identifier: MIT */
/*
 * qmp.h - a client of QEMU's machine protocol: commands, replies and events as JSON, one object a line
 *
 * Single-threaded, on the loop. A compromised QEMU may send anything: lines and queues are bounded, and the
 * first thing that is not QMP ends the connection.
 */
#ifndef SBX_VM_QEMU_QMP_H
#define SBX_VM_QEMU_QMP_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "util/err.h"
#include "util/loop.h"

struct qmp;

struct qmp_events {
	/* Greeting and capability negotiation are over; version is "7.2.22". */
	void (*ready)(void *owner, const char *version);
	/* data may be NULL and is valid during the call. */
	void (*event)(void *owner, const char *name, const cJSON *data);
	/* The connection ended, err says why; what was pending is dropped. Called once. */
	void (*lost)(void *owner, const struct err *err);
};

/* ret is the command's return value, NULL when err->code != 0; both are valid during the call. */
typedef void (*qmp_reply_fn)(void *arg, const struct err *err, const cJSON *ret);

/* Takes over fd, a non-blocking stream socket, on success. NULL when out of memory. */
struct qmp *qmp_new(struct loop *loop, int fd, const struct qmp_events *events, void *owner);
/* Pending replies are dropped. Allowed in every callback. NULL is allowed. */
void qmp_free(struct qmp *qmp);

/*
 * Send a command, with a descriptor attached when pass_fd >= 0 (for getfd and add-fd; the caller may close it
 * when this returns). arguments may be NULL and is consumed. reply is called once, never from inside this
 * call, unless it returns an error, the connection is lost or qmp is freed. May be called before `ready`.
 */
int qmp_send(struct qmp *qmp, const char *command, cJSON *arguments, int pass_fd, qmp_reply_fn reply,
	     void *arg);

/* Send what the next command begins with, since the command shall be short. Any command may follow. */
void qmp_ahead(struct qmp *qmp);

/* Handle what has arrived without waiting for the loop; true if there may be more. */
bool qmp_poll(struct qmp *qmp);

/* The member of this name if obj is an object that has it as a string, else "". */
const char *qmp_string(const cJSON *obj, const char *name);

#endif
