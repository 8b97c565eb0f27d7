/* SPDX-License-Identifier: MIT */
/*
 * freeze.c - turn a paused machine into a template, without moving it
 *
 * xen-save-devices-state is QEMU's command for the state of all devices and CPUs without RAM and disks. It
 * is synchronous and small, and what it writes loads through the usual -incoming path. RAM we copy ourselves
 * (ram.c), because QEMU's own stream would read every page of a fork's private mapping and thereby fill the
 * holes of the template below. The steps:
 *
 *   0. where the machine is to go on at once: copy what it has written while it runs (ahead.c)
 *   1. blockdev-add: open the next overlay, not yet in use
 *   2. add-fd, xen-save-devices-state: device state into a memfd
 *   3. copy that, and the live part of the RAM; after the devices, whose saving may write guest memory
 *   4. blockdev-snapshot: the machine writes to the next overlay; the old one is complete and read-only
 *   5. tell `frozen`; copy the rest of the RAM; seal; tell `done`
 *
 * Each adds a node to the chain QEMU has open, and QEMU goes through all of them at each switch. So at times
 * the next overlay is opened with all that is below it by then, which the store has merged in the meantime
 * (snap/compact.h), and takes the place of the chain at the disk device itself (qom-set). That the stopped
 * machine's layer is opened a second time, to be read, is what every fork does.
 *
 * Until 4 the machine is as it was and can be left so. The same process goes on throughout, so its agent
 * channel, its console and everything else it holds open need no attention.
 *
 * Nothing may be written to the agent channel meanwhile: QEMU puts input into guest memory even while the
 * vCPUs are stopped, and the copy would then be newer than the device state.
 *
 * Objects for QMP arguments are built unchecked: what is missing for want of memory QEMU refuses.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vm/qemu/cmdline.h"
#include "vm/qemu/ram.h"
#include "vm/qemu/vm.h"

/* QEMU's name for the state memfd while it is passed. */
#define FDSET 1
#define FDSET_PATH "/dev/fdset/1"

static void clear(struct qemu_capture *capture)
{
	timer_stop(&capture->defer);
	ram_copy_free(capture->ram);
	template_unref(capture->template);
	if (capture->state_fd >= 0)
		close(capture->state_fd);
	free(capture->next_disk);
	*capture = (struct qemu_capture){ .state_fd = -1 };
}

/* The end, with a template or with capture->err. */
static void finish(struct qemu_machine *vm)
{
	struct qemu_capture *capture = &vm->capture;
	const struct vm_capture calls = capture->calls;
	const struct err err = capture->err;
	struct template *template = NULL;

	if (!err.code) {
		template = capture->template;
		capture->template = NULL;
	}
	clear(capture);
	calls.done(calls.arg, &err, template);
}

static void ignore_reply(void *arg, const struct err *err, const cJSON *ret)
{
	(void)arg;
	(void)err;
	(void)ret;
}

/* What still uses a descriptor of the set keeps it. */
static void remove_fdset(struct qemu_machine *vm, unsigned set)
{
	vm_command_with(vm, "remove-fd", -1, ignore_reply, NULL, "{\"fdset-id\":%u}", set);
}

static void add_to_fdset(struct qemu_machine *vm, unsigned set, int fd, qmp_reply_fn reply)
{
	vm_command_with(vm, "add-fd", fd, reply, vm, "{\"fdset-id\":%u}", set);
}

static void close_state_set(struct qemu_machine *vm)
{
	vm->capture.fd_passed = false;
	remove_fdset(vm, FDSET);
}

static void delete_node(struct qemu_machine *vm, unsigned n)
{
	char name[QEMU_NODE_NAME_MAX];

	qemu_disk_node_name(name, n);
	vm_command_with(vm, "blockdev-del", -1, ignore_reply, NULL, "{\"node-name\":\"%s\"}", name);
}

void sets_retire(struct qemu_machine *vm, unsigned first, unsigned n)
{
	for (; n; n--, first++)
		buf_add(&vm->stale, &first, sizeof(first));
}

void sets_flush(struct qemu_machine *vm)
{
	unsigned set;
	size_t at;

	for (at = 0; at < vm->stale.len; at += sizeof(set)) {
		memcpy(&set, buf_bytes(&vm->stale) + at, sizeof(set));
		remove_fdset(vm, set);
	}
	buf_clear(&vm->stale);
}

/* Undo what was done and leave the machine on its old disk; capture->err says why. */
static void fail(struct qemu_machine *vm)
{
	if (vm->capture.fd_passed)
		close_state_set(vm);
	if (vm->capture.node_added)
		delete_node(vm, vm->overlays + 1);
	sets_retire(vm, vm->capture.first_set, vm->capture.nsets);
	finish(vm);
}

static bool failed(struct qemu_machine *vm, const struct err *err)
{
	if (!err->code)
		return false;
	vm->capture.err = *err;
	fail(vm);
	return true;
}

static int run_live(void *arg)
{
	struct qemu_machine *vm = arg;
	struct qemu_capture *capture = &vm->capture;
	int own, rc;

	rc = state_take(capture->state_fd, vm, &own, &capture->err);
	if (rc)
		return rc;
	close(capture->state_fd);
	capture->state_fd = own;
	return ram_copy_live(capture->ram, &capture->err);
}

static int run_rest(void *arg)
{
	struct qemu_machine *vm = arg;

	return ram_copy_rest(vm->capture.ram);
}

/* On a thread of its own: however long QEMU makes us wait for its memory, it is its own capture that waits. */
static void start_work(struct qemu_machine *vm, int (*run)(void *arg), void (*done)(void *arg, int result))
{
	vm->capture.working = true;
	vm_hold(&vm->common);
	if (loop_thread(vm->common.env->loop, run, done, vm))
		done(vm, -ENOMEM);
}

/* The thread has returned; false if meanwhile the capture was aborted. */
static bool end_work(struct qemu_machine *vm, int result)
{
	struct qemu_capture *capture = &vm->capture;

	capture->working = false;
	if (!capture->active)
		clear(capture);
	else if (result && !capture->err.code)
		err_sys(&capture->err, result, "cannot copy the RAM");
	return capture->active;
}

static void on_rest(void *arg, int result)
{
	struct qemu_machine *vm = arg;
	struct qemu_capture *capture = &vm->capture;
	struct err *err = &capture->err;
	struct ram_counts counts;

	if (end_work(vm, result)) {
		if (!err->code)
			capture->template->ram_fd = ram_copy_take(capture->ram, err);
		if (!err->code) {
			counts = ram_copy_counts(capture->ram);
			capture->template->pages_ahead = counts.ahead;
			capture->template->pages_stopped = counts.stopped;
			capture->template->state_fd = capture->state_fd;
			capture->state_fd = -1;
		}
		finish(vm);
	}
	vm_release(&vm->common);
}

/* The machine has its disk open twice: let go of the chain it had, from the top, since each holds the
 * next. */
static void drop_old_nodes(struct qemu_machine *vm)
{
	unsigned n = vm->overlays;

	while (n-- > vm->oldest)
		delete_node(vm, n);
	vm->oldest = vm->overlays;
}

static void on_switched(void *arg, const struct err *err, const cJSON *ret)
{
	struct qemu_machine *vm = arg;
	struct qemu_capture *capture = &vm->capture;

	(void)ret;
	if (failed(vm, err))
		return;
	vm->overlays++;
	sets_retire(vm, vm->top_set, 1);
	sets_retire(vm, capture->first_set + 1, capture->nsets - 1);
	vm->top_set = capture->first_set;
	if (capture->anew)
		drop_old_nodes(vm);
	capture->frozen = true;
	capture->template->pause_ns = vm->common.stop_ns + now_mono_ns() - capture->began_ns;
	vm_hold(&vm->common);
	capture->calls.frozen(capture->calls.arg);
	if (capture->active)
		start_work(vm, run_rest, on_rest);
	vm_release(&vm->common);
}

static void on_live(void *arg, int result)
{
	struct qemu_machine *vm = arg;
	char node[QEMU_NODE_NAME_MAX], overlay[QEMU_NODE_NAME_MAX];

	if (!end_work(vm, result))
		goto out;
	if (failed(vm, &vm->capture.err))
		goto out;
	qemu_disk_node_name(node, vm->overlays);
	qemu_disk_node_name(overlay, vm->overlays + 1);
	if (vm->capture.anew)
		vm_command_with(
			vm, "qom-set", -1, on_switched, vm,
			"{\"path\":\"/machine/peripheral/%s\",\"property\":\"drive\",\"value\":\"%s\"}",
			QEMU_DISK_ID, overlay);
	else
		vm_command_with(vm, "blockdev-snapshot", -1, on_switched, vm,
				"{\"node\":\"%s\",\"overlay\":\"%s\"}", node, overlay);
out:
	vm_release(&vm->common);
}

static void on_saved(void *arg, const struct err *err, const cJSON *ret)
{
	struct qemu_machine *vm = arg;

	(void)ret;
	if (failed(vm, err))
		return;
	close_state_set(vm);
	start_work(vm, run_live, on_live);
}

static void on_fd_passed(void *arg, const struct err *err, const cJSON *ret)
{
	struct qemu_machine *vm = arg;

	(void)ret;
	if (failed(vm, err))
		return;
	vm->capture.fd_passed = true;
	/* Not live: after a live save QEMU would let go of its disks. */
	vm_command_with(vm, "xen-save-devices-state", -1, on_saved, vm,
			"{\"filename\":\"%s\",\"live\":false}", FDSET_PATH);
}

/* QEMU picks a descriptor of a set by its access mode, and asks for a write-only one. */
static int open_state(struct qemu_machine *vm, struct err *err)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", vm->capture.state_fd);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, -errno, "cannot reopen the state's memory");
	lseek(fd, STATE_HEADER, SEEK_SET);
	return fd;
}

static void on_node_added(void *arg, const struct err *err, const cJSON *ret)
{
	struct qemu_machine *vm = arg;
	int fd;

	(void)ret;
	if (failed(vm, err))
		return;
	vm->capture.node_added = true;
	fd = open_state(vm, &vm->capture.err);
	if (failed(vm, &vm->capture.err))
		return;
	add_to_fdset(vm, FDSET, fd, on_fd_passed);
	close(fd);
}

/* Hand over the next disk's files; where that fails, adding the node will. */
static void pass_disk(struct qemu_machine *vm, const struct disk *disk, int reading_fd)
{
	const unsigned first = vm->next_set;
	unsigned i;

	vm->capture.first_set = first;
	vm->capture.nsets = disk->n;
	vm->next_set += disk->n;
	for (i = 0; i < disk->n; i++)
		add_to_fdset(vm, first + i, disk->files[i].fd, ignore_reply);
	add_to_fdset(vm, first, reading_fd, ignore_reply);
}

static void add_node(struct qemu_machine *vm)
{
	struct qemu_capture *capture = &vm->capture;
	struct disk disk;
	cJSON *node = NULL;
	int reading_fd;

	if (disk_open(&disk, capture->next_disk, capture->anew ? 0 : DISK_ALONE, &capture->err)) {
		finish(vm);
		return;
	}
	reading_fd = qemu_open_reading(disk.files[0].fd, &capture->err);
	if (reading_fd >= 0) {
		pass_disk(vm, &disk, reading_fd);
		close(reading_fd);
	}
	if (!capture->err.code) {
		node = qemu_disk_node(vm->overlays + 1, &disk, capture->first_set, !capture->anew);
		if (!node)
			err_sys(&capture->err, -ENOMEM, "cannot capture the machine");
	}
	if (node)
		vm_command(vm, "blockdev-add", node, -1, on_node_added, vm);
	disk_close(&disk);
	if (capture->err.code)
		finish(vm);
}

static int set_up(struct qemu_machine *vm, const char *next_disk)
{
	struct qemu_capture *capture = &vm->capture;
	struct err *err = &capture->err;
	struct template *template = template_new();

	capture->template = template;
	capture->next_disk = strdup(next_disk);
	if (!template || !capture->next_disk)
		return err_sys(err, -ENOMEM, "cannot capture the machine");
	snprintf(template->engine, sizeof(template->engine), "%s", engine_qemu.name);
	template->shape = vm->common.shape;
	template->ram_size = vm->ram_size;
	capture->state_fd = memfd_create("sbx-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (capture->state_fd < 0)
		return err_sys(err, -errno, "cannot create memory for the state");
	capture->ram = ahead_take(vm);
	return capture->ram ? 0
			    : ram_copy_new(process_pid(vm->process), vm->ram_fd, vm->ram_size,
					   !vm->common.base, &capture->ram, err);
}

static void begin(void *arg)
{
	struct qemu_machine *vm = arg;
	struct qemu_capture *capture = &vm->capture;

	if (capture->err.code) {
		finish(vm);
		return;
	}
	capture->anew = vm->overlays - vm->oldest >= NODES_MAX;
	add_node(vm);
}

void qemu_capture(struct vm *handle, const char *next_disk, const struct vm_capture *calls)
{
	struct qemu_machine *vm = qemu_of(handle);
	struct qemu_capture *capture = &vm->capture;

	capture->active = true;
	capture->calls = *calls;
	capture->began_ns = now_mono_ns();
	if (!vm->process)
		capture->err = vm->broken;
	else
		set_up(vm, next_disk);
	/* Through a timer, which needs no memory, since an answer may not come from inside this call. */
	timer_start(vm->common.env->loop, &capture->defer, 0, begin, vm);
}

void capture_abort(struct qemu_machine *vm, const struct err *err)
{
	struct qemu_capture *capture = &vm->capture;
	const struct vm_capture calls = capture->calls;

	if (!capture->active || (err && capture->frozen))
		return; /* once frozen, what is left to do needs no process */
	capture->active = false;
	timer_stop(&capture->defer);
	if (!capture->working)
		clear(capture);
	if (err)
		calls.done(calls.arg, err, NULL);
}
