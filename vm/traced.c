/* SPDX-License-Identifier: MIT */
/*
 * traced.c - an engine whose calls are told, for sbxfs -v
 *
 * It stands in front of the real one, so that an engine's own code says nothing twice and nothing at all is
 * spent when nobody listens. How long a call took is seen from the step of its sandbox that waits for it.
 */
#include "vm/traced.h"

#include "util/log.h"

static const struct engine *real;
static struct engine traced;

static void tell(const struct vm *vm, const char *what)
{
	log_debug("engine %s: %s, process %d", real->name, what, real->pid(vm));
}

static int traced_boot(const struct engine_env *env, const struct shape *shape, const char *disk,
		       const struct vm_events *events, void *owner, done_fn done, void *arg, struct vm **ret,
		       struct err *err)
{
	const int rc = real->boot(env, shape, disk, events, owner, done, arg, ret, err);

	if (!rc)
		tell(*ret, "boot");
	return rc;
}

static int traced_prepare(const struct engine_env *env, struct template *template, const char *disk,
			  const struct vm_events *events, void *owner, done_fn done, void *arg,
			  struct vm **ret, struct err *err)
{
	const int rc = real->prepare(env, template, disk, events, owner, done, arg, ret, err);

	if (!rc)
		tell(*ret, "prepare");
	return rc;
}

static void traced_start(struct vm *vm, const struct vm_events *events, void *owner, done_fn done, void *arg)
{
	tell(vm, "start");
	real->start(vm, events, owner, done, arg);
}

static void traced_pause(struct vm *vm, done_fn done, void *arg)
{
	tell(vm, "pause");
	real->pause(vm, done, arg);
}

static void traced_resume(struct vm *vm, done_fn done, void *arg)
{
	tell(vm, "resume");
	real->resume(vm, done, arg);
}

static void traced_capture(struct vm *vm, const char *next_disk, const struct vm_capture *capture)
{
	tell(vm, "capture");
	real->capture(vm, next_disk, capture);
}

static void traced_destroy(struct vm *vm)
{
	if (vm)
		tell(vm, "destroy");
	real->destroy(vm);
}

const struct engine *engine_traced(const struct engine *engine)
{
	real = engine;
	traced = *engine;
	traced.boot = traced_boot;
	traced.prepare = traced_prepare;
	traced.start = traced_start;
	traced.pause = traced_pause;
	traced.resume = traced_resume;
	traced.capture = traced_capture;
	traced.destroy = traced_destroy;
	return &traced;
}
