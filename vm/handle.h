/* SPDX-License-Identifier: MIT */
/*
 * handle.h - what every engine keeps of a machine: engine.h's struct vm
 *
 * An engine's own struct embeds it as the first member, and is allocated as a whole: it is freed with it, when
 * nobody holds it any more.
 */
#ifndef SBX_VM_HANDLE_H
#define SBX_VM_HANDLE_H

#include "util/pending.h"
#include "vm/engine.h"

struct vm {
	const struct engine_env *env;
	const struct vm_events *events; /* NULL: prepared, nobody's yet */
	void *owner;
	unsigned holds; /* the caller's, and of callbacks and threads in progress */
	bool destroyed;
	struct shape shape;
	struct template *base;  /* of a fork: its RAM is mapped; a reference */
	struct pending loading; /* of boot or prepare */
	struct pending op;      /* of start, pause or resume */
	uint64_t began_ns;      /* when that began */
	uint64_t stop_ns;       /* how long the last stop took */
	struct err failed;      /* what vm_fail says later */
	struct timer defer;
	void (*release)(struct vm *vm); /* what the engine's struct has beside; NULL: nothing */
};

/* All zero before; base is NULL for a boot. One hold. */
void vm_init(struct vm *vm, const struct engine_env *env, const struct shape *shape, struct template *base,
	     void (*release)(struct vm *vm));
/* Whose it is, and who waits for its boot or prepare. */
void vm_own(struct vm *vm, const struct vm_events *events, void *owner, done_fn done, void *arg);

struct vm *vm_hold(struct vm *vm);
void vm_release(struct vm *vm);

/* An operation begins, for whoever waits for it. */
void vm_begin(struct vm *vm, done_fn done, void *arg);
/* It ends with this error, not from inside the engine's call. */
void vm_fail(struct vm *vm, const struct err *err);

/* The disk is full, and the machine stands still. */
void vm_stalled(struct vm *vm);
/* The process is gone: all that wait hear why, and then the owner. The caller holds the machine, for each of them
 * may destroy it. */
void vm_gone(struct vm *vm, bool clean, const struct err *why);

#endif
