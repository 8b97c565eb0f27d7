/* SPDX-License-Identifier: MIT */
/* handle.c - what every engine keeps of a machine */
#include "vm/handle.h"

#include <stdlib.h>

void vm_init(struct vm *vm, const struct engine_env *env, const struct shape *shape, struct template *base,
	     void (*release)(struct vm *vm))
{
	vm->holds = 1;
	vm->env = env;
	vm->shape = *shape;
	vm->base = base ? template_ref(base) : NULL;
	vm->release = release;
}

void vm_own(struct vm *vm, const struct vm_events *events, void *owner, done_fn done, void *arg)
{
	vm->events = events;
	vm->owner = owner;
	vm->loading = (struct pending){ done, arg };
}

struct vm *vm_hold(struct vm *vm)
{
	vm->holds++;
	return vm;
}

void vm_release(struct vm *vm)
{
	if (--vm->holds)
		return;
	if (vm->release)
		vm->release(vm);
	template_unref(vm->base);
	free(vm);
}

void vm_begin(struct vm *vm, done_fn done, void *arg)
{
	vm->op = (struct pending){ done, arg };
	vm->began_ns = now_mono_ns();
}

static void say_failed(void *arg)
{
	struct vm *vm = vm_hold(arg); /* who hears of it may destroy it */

	pending_end(&vm->op, &vm->failed);
	vm_release(vm);
}

void vm_fail(struct vm *vm, const struct err *err)
{
	vm->failed = *err;
	timer_start(vm->env->loop, &vm->defer, 0, say_failed, vm);
}

void vm_stalled(struct vm *vm)
{
	if (!vm->destroyed && vm->events && vm->events->stalled)
		vm->events->stalled(vm->owner, "there is no room left in the store");
}

void vm_gone(struct vm *vm, bool clean, const struct err *why)
{
	if (!vm->destroyed)
		pending_end(&vm->loading, why);
	if (!vm->destroyed) {
		timer_stop(&vm->defer);
		pending_end(&vm->op, why);
	}
	if (!vm->destroyed && vm->events)
		vm->events->exited(vm->owner, clean, why->text);
}
