/* SPDX-License-Identifier: MIT */
/* socket_engine.h - an engine whose machines are nothing but ends of sockets, for tests of what is above engines */
#ifndef SBX_TESTS_SOCKET_ENGINE_H
#define SBX_TESTS_SOCKET_ENGINE_H

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "tests/unit/unit.h"
#include "util/io.h"
#include "vm/engine.h"

struct vm {
	int fds[3];
};

static bool refuses, lame; /* it makes no machine; the one that it makes cannot be connected to */

static inline int make(struct vm **ret, struct err *err)
{
	struct vm *vm = refuses ? NULL : calloc(1, sizeof(*vm));

	if (!vm)
		return err_sys(err, -ENOMEM, "no machine");
	for (int i = 0; i < 3; i++)
		vm->fds[i] = lame ? -1 : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	CHECK(lame || (vm->fds[0] >= 0 && vm->fds[1] >= 0 && vm->fds[2] >= 0));
	*ret = vm;
	return 0;
}

static inline int boot(const struct engine_env *env, const struct shape *shape, const char *disk,
		       const struct vm_events *events, void *owner, done_fn done, void *arg, struct vm **ret,
		       struct err *err)
{
	(void)env;
	(void)shape;
	(void)disk;
	(void)events;
	(void)owner;
	(void)done;
	(void)arg;
	return make(ret, err);
}

static inline void start(struct vm *vm, const struct vm_events *events, void *owner, done_fn done, void *arg)
{
	(void)vm;
	(void)events;
	(void)owner;
	(void)done;
	(void)arg;
}

static inline void destroy(struct vm *vm)
{
	for (int i = 0; i < 3; i++)
		close_fd(&vm->fds[i]);
	free(vm);
}

static inline struct vm_ends ends(const struct vm *vm)
{
	return (struct vm_ends){ vm->fds[0], vm->fds[1], vm->fds[2] };
}

static inline pid_t no_pid(const struct vm *vm)
{
	(void)vm;
	return -1;
}

static struct engine engine = {
	.boot = boot, .start = start, .destroy = destroy, .ends = ends, .pid = no_pid
};

#endif
