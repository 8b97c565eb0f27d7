/* SPDX-License-Identifier: MIT */
/*
 * blank.h - the daemon's side of one sbx-vmm process, and a few of them kept ready
 *
 * A blank is a process that has a machine of a certain shape and nothing in it. It can be given requests at
 * once (control.h): they wait in its socket until the machine is made. Making it is what takes longest, and
 * it is the same for all machines of a shape; so blanks are made ahead of time, as soon as forks show which
 * shape is wanted.
 */
#ifndef SBX_VM_KVM_BLANK_H
#define SBX_VM_KVM_BLANK_H

#include <stdbool.h>
#include <stdint.h>

#include "vm/engine.h"
#include "vm/vmm/control.h"

struct blank;

struct blank_events {
	/* A reply. fds: -1 where there is none; what the callee takes it makes -1, and the others are closed. */
	void (*reply)(void *owner, const struct control_reply *reply, int fds[CONTROL_REPLY_FDS]);
	/* The process is gone, and the sentence says why. clean: the guest wanted it. Called once; only
	 * blank_free may follow. */
	void (*ended)(void *owner, bool clean, const struct err *why);
};

/* One from the pool, or a new one. Its events go to the owner from now on. */
int blank_get(const struct engine_env *env, uint64_t memory, unsigned cpus, const struct blank_events *events,
	      void *owner, struct blank **ret, struct err *err);
/* As struct engine has it; those in the pool are in the background. */
void blank_background(struct blank *blank, bool background);
/* Kills it; nobody is told. NULL is allowed. */
void blank_free(struct blank *blank);

int blank_send(struct blank *blank, const struct control_request *request, const int *fds, unsigned nfds,
	       struct err *err);
/* Kill the process; `ended` follows, with this reason. */
void blank_break(struct blank *blank, const struct err *why);

struct vm_ends blank_ends(const struct blank *blank);
pid_t blank_pid(const struct blank *blank); /* -1: it has ended */
/* Its counters. */
void blank_stats(const struct blank *blank, uint64_t *ret_exits, uint64_t *ret_disk_written);

/* Keep blank machines of this shape ready, once the loop has nothing else to do. */
void blank_pool_want(const struct engine_env *env, uint64_t memory, unsigned cpus);
/* End all that wait. */
void blank_pool_clear(void);

#endif
