/* SPDX-License-Identifier: MIT */
/*
 * ahead.c - copy what a machine has written while it runs, so that its capture has little left to do
 *
 * Only of a fork, which has its RAM for itself alone; one that booted is captured once, before anybody waits for it.
 * Whatever fails here leaves all to the capture (freeze.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "util/io.h"
#include "vm/qemu/ram.h"
#include "vm/qemu/track.h"
#include "vm/qemu/vm.h"

/*
 * The process' userfaultfd, asked for the first time anybody has a use for it. Until it has ended it stays open, as the
 * socket does before: the kernel ends with it what it follows, with the lock of the process' memory.
 */
static int tracker(struct qemu_machine *vm, struct err *err)
{
	int *kept = process_keeps(vm->process);
	int fd;

	if (!vm->untracked.code && !vm->tracked) {
		fd = track_take(*kept, &vm->untracked);
		if (fd >= 0) {
			close_fd(kept);
			*kept = fd;
			vm->tracked = true;
		}
	}
	if (vm->untracked.code)
		*err = vm->untracked;
	return err->code ? err->code : *kept;
}

static int run_ahead(void *arg)
{
	struct qemu_machine *vm = arg;

	return ram_copy_ahead(vm->ahead.ram, vm->ahead.uffd, &vm->ahead.err);
}

static void drop(struct qemu_ahead *ahead)
{
	ram_copy_free(ahead->ram);
	close_fd(&ahead->uffd);
	*ahead = (struct qemu_ahead){ .uffd = -1 };
}

static void on_ahead(void *arg, int result)
{
	struct qemu_machine *vm = arg;
	struct qemu_ahead *ahead = &vm->ahead;
	struct err err = ahead->err;
	const bool wanted = ahead->active;

	ahead->working = ahead->active = false;
	close_fd(&ahead->uffd);
	if (result && !err.code)
		err_sys(&err, result, "cannot copy the RAM ahead");
	if (err.code || !wanted)
		drop(ahead);
	if (wanted)
		pending_end(&vm->common.op, &err);
	vm_release(&vm->common);
}

static int set_up(struct qemu_machine *vm, struct err *err)
{
	struct qemu_ahead *ahead = &vm->ahead;
	int rc;

	if (ahead->working)
		return err_set(err, -EBUSY, "what was begun before has not ended");
	drop(ahead);
	rc = tracker(vm, err);
	if (rc < 0)
		return rc;
	/* Of its own: the process may end, and its descriptor with it, while the thread has this one. */
	ahead->uffd = fcntl(rc, F_DUPFD_CLOEXEC, 0);
	if (ahead->uffd < 0)
		return err_sys(err, -errno, "cannot copy the RAM ahead");
	rc = ram_copy_new(process_pid(vm->process), vm->ram_fd, vm->ram_size, false, &ahead->ram, err);
	if (rc)
		drop(ahead);
	return rc;
}

void qemu_ahead(struct vm *handle, done_fn done, void *arg)
{
	struct qemu_machine *vm = qemu_of(handle);
	struct err err = { 0 };

	vm_begin(handle, done, arg);
	if (!vm->process)
		err = vm->broken;
	else if (handle->base)
		set_up(vm, &err);
	if (err.code || !vm->ahead.ram) {
		vm_fail(handle, &err);
		return;
	}
	vm->ahead.active = vm->ahead.working = true;
	vm_hold(handle);
	if (loop_thread(handle->env->loop, run_ahead, on_ahead, vm)) {
		drop(&vm->ahead);
		err_sys(&err, -ENOMEM, "cannot copy the RAM ahead");
		vm_fail(handle, &err);
		vm_release(handle);
	}
}

struct ram_copy *ahead_take(struct qemu_machine *vm)
{
	struct ram_copy *ram = NULL;

	if (!vm->ahead.working) {
		ram = vm->ahead.ram;
		vm->ahead.ram = NULL;
	}
	return ram;
}

void qemu_forget(struct vm *handle)
{
	struct qemu_machine *vm = qemu_of(handle);

	vm->ahead.active = false;
	if (!vm->ahead.working)
		drop(&vm->ahead);
}
