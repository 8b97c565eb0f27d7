/* SPDX-License-Identifier: MIT */
/*
 * qemu.c - machines run by QEMU: their life from boot or prepare to the end of the process
 *
 * One QEMU process is one machine. All that connects us to it are descriptors it inherits: socket pairs for
 * the control protocol, the agent channel and the console, the RAM as a memfd, and for a fork the device
 * state. Nothing of it but its disk has a name in a filesystem.
 *
 * A boot is ready when QEMU talks to us. A fork is ready when QEMU says that the state is loaded; it then
 * stands still until `start`. Whatever goes wrong with a process, it ends in one place, on_exit: a broken
 * connection or a failed command only kills it, and the callbacks that are owed get the reason there.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/io.h"
#include "util/message.h"
#include "vm/engine.h"
#include "vm/probe.h"
#include "vm/qemu/cmdline.h"
#include "vm/qemu/ram.h"
#include "vm/qemu/track.h"
#include "vm/qemu/tsc.h"
#include "vm/qemu/vm.h"
#include "vm/usage.h"

/* Descriptors in QEMU's process. */
enum {
	QMP_FD = PROCESS_FD,
	AGENT_FD,
	CONSOLE_FD,
	NET_FD,
	RAM_FD,
	STATE_FD,
	TRACKER_FD,
	DISK_READING_FD,
	DISK_FD
};
_Static_assert((int)TRACKER_FD == (int)TRACK_FD, "sbx-track.so knows the number");

static void release(struct vm *handle)
{
	struct qemu_machine *vm = qemu_of(handle);

	if (!handle->base)
		close_fd(&vm->ram_fd);
	buf_release(&vm->stale);
}

void vm_break(struct qemu_machine *vm, const struct err *err)
{
	if (!vm->process)
		return;
	/* That the connection ended is no explanation: the process's own end is. */
	if (!vm->broken.code && err->code != -EPIPE && err->code != -ECONNRESET)
		vm->broken = *err;
	process_kill(vm->process, SIGKILL);
}

void vm_command(struct qemu_machine *vm, const char *command, cJSON *arguments, int pass_fd,
		qmp_reply_fn reply, void *arg)
{
	struct err err;
	int rc = -EPIPE;

	if (vm->qmp)
		rc = qmp_send(vm->qmp, command, arguments, pass_fd, reply, arg);
	else
		cJSON_Delete(arguments);
	if (rc) {
		err_sys(&err, rc, "cannot send %s to QEMU", command);
		vm_break(vm, &err);
	}
}

void vm_command_with(struct qemu_machine *vm, const char *command, int pass_fd, qmp_reply_fn reply, void *arg,
		     const char *fmt, ...)
{
	char text[256];
	struct err err;
	cJSON *arguments;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	arguments = cJSON_CreateRaw(text);
	if (arguments) {
		vm_command(vm, command, arguments, pass_fd, reply, arg);
		return;
	}
	err_sys(&err, -ENOMEM, "cannot send %s to QEMU", command);
	vm_break(vm, &err);
}

/* ---- the end of a process */

static void explain_exit(const struct qemu_machine *vm, const char *why, struct err *err)
{
	if (vm->broken.code)
		*err = vm->broken;
	else if (vm->guest_off)
		err_set(err, -EHOSTDOWN, "the guest powered off");
	else if (vm->guest_reset)
		err_set(err, -EHOSTDOWN, "the guest rebooted, or its kernel panicked");
	else
		err_set(err, -EHOSTDOWN, "QEMU %s", why);
}

static void on_exit_process(void *arg, int status, const char *why)
{
	struct qemu_machine *vm = arg;
	struct err err;

	(void)status;
	vm_hold(&vm->common);
	vm->process = NULL;
	qemu_forget(&vm->common);
	/* Why the guest went may still be in the socket. */
	while (vm->qmp && qmp_poll(vm->qmp))
		;
	qmp_free(vm->qmp);
	vm->qmp = NULL;
	explain_exit(vm, why, &err);
	vm->broken = err;
	if (!vm->common.destroyed)
		capture_abort(vm, &err);
	vm_gone(&vm->common, vm->guest_off, &err);
	vm_release(&vm->common);
}

/* ---- what QEMU says */

static void on_op_reply(void *arg, const struct err *err, const cJSON *ret)
{
	struct qemu_machine *vm = arg;

	(void)ret;
	pending_end(&vm->common.op, err);
}

static void on_running(void *arg, const struct err *err, const cJSON *ret)
{
	if (!err->code)
		sets_flush(arg);
	on_op_reply(arg, err, ret);
}

static void on_stopped(void *arg, const struct err *err, const cJSON *ret)
{
	struct qemu_machine *vm = arg;

	vm->common.stop_ns = now_mono_ns() - vm->common.began_ns;
	/* The next is cont, for which somebody waits. */
	if (vm->qmp)
		qmp_ahead(vm->qmp);
	on_op_reply(vm, err, ret);
}

static void set_ready(struct qemu_machine *vm)
{
	const struct err ok = { 0 };

	vm_hold(&vm->common);
	vm->ready = true;
	if (!vm->common.base)
		sets_flush(vm);
	pending_end(&vm->common.loading, &ok);
	if (vm->start_wanted && !vm->common.destroyed)
		vm_command(vm, "cont", NULL, -1, on_running, vm);
	vm_release(&vm->common);
}

static void on_incoming(void *arg, const struct err *err, const cJSON *ret)
{
	(void)ret;
	if (err->code)
		vm_break(arg, err);
}

static void on_qmp_ready(void *owner, const char *version)
{
	struct qemu_machine *vm = owner;
	struct err err;

	snprintf(vm->version, sizeof(vm->version), "%s", version);
	qemu_version_seen(version);
	if (!vm->common.base) {
		set_ready(vm);
		return;
	}
	if (state_header_check(vm->state_fd, vm, &err)) {
		vm_break(vm, &err);
		return;
	}
	vm_command_with(vm, "migrate-incoming", -1, on_incoming, vm, "{\"uri\":\"fd:%d\"}", STATE_FD);
}

static void on_qmp_event(void *owner, const char *name, const cJSON *data)
{
	struct qemu_machine *vm = owner;
	const char *reason = qmp_string(data, "reason");

	vm_hold(&vm->common); /* an owner who hears of it may destroy it */
	if (!strcmp(name, "SHUTDOWN")) {
		vm->guest_off = !strcmp(reason, "guest-shutdown");
		vm->guest_reset = !strcmp(reason, "guest-reset") || !strcmp(reason, "guest-panic");
	} else if (!strcmp(name, "BLOCK_IO_ERROR") && !strcmp(qmp_string(data, "action"), "stop")) {
		/* werror=enospc (cmdline.c): the CPUs stop next, and the requests are kept for cont. */
		vm_stalled(&vm->common);
	} else if (!strcmp(name, "MIGRATION") && !strcmp(qmp_string(data, "status"), "completed")) {
		if (vm->common.base && !vm->ready)
			set_ready(vm);
	}
	vm_release(&vm->common);
}

static void on_qmp_lost(void *owner, const struct err *err)
{
	struct qemu_machine *vm = owner;

	qmp_free(vm->qmp);
	vm->qmp = NULL;
	/* Usually its process has just ended; if not, we have no hold on it any more. */
	vm_break(vm, err);
}

/* ---- the start of a process */

static int pair(int type, bool takes_fds, int fds[2], struct err *err)
{
	const int rc = message_pair(type, takes_fds, fds);

	return rc ? err_sys(err, rc, "cannot connect a machine") : 0;
}

/* A descriptor with an offset of its own, at the start of QEMU's stream. */
static int open_state(const struct template *template, struct err *err)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", template->state_fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, -errno, "cannot open a template's state");
	lseek(fd, STATE_HEADER, SEEK_SET);
	return fd;
}

static void vm_free_descriptors(struct qemu_machine *vm)
{
	close_fd(&vm->agent[0]);
	close_fd(&vm->agent[1]);
	close_fd(&vm->console[0]);
	close_fd(&vm->console[1]);
	close_fd(&vm->net[0]);
	close_fd(&vm->net[1]);
	close_fd(&vm->state_fd);
}

/* QEMU picks a descriptor of a file by the way it wants to use it: one that only reads, too. */
int qemu_open_reading(int fd, struct err *err)
{
	char path[64];
	int reading;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	reading = open(path, O_RDONLY | O_CLOEXEC);
	return reading < 0 ? err_sys(err, -errno, "cannot open a disk to read it") : reading;
}

static int spawn_with(struct qemu_machine *vm, int qmp_fd, int track_fd, const struct disk *disk,
		      int reading_fd, struct err *err)
{
	const struct qemu_config config = {
		.shape = &vm->common.shape,
		.ram_size = vm->ram_size,
		.kvm = vm->kvm,
		.fork = vm->common.base,
		.kernel = launcher_jails() ? JAIL_KERNEL : vm->common.env->kernel,
		.initrd = launcher_jails() ? JAIL_INITRD : vm->common.env->initrd,
		.disk = disk,
		.disk_fd = DISK_FD,
		.disk_reading_fd = DISK_READING_FD,
		.qmp_fd = QMP_FD,
		.agent_fd = AGENT_FD,
		.console_fd = CONSOLE_FD,
		.net_fd = NET_FD,
		.ram_fd = RAM_FD,
	};
	int keep[DISK_FD - PROCESS_FD + DISK_FILES_MAX] = {
		qmp_fd,     vm->agent[1], vm->console[1],
		vm->net[1], vm->ram_fd,   vm->common.base ? vm->state_fd : vm->ram_fd,
		track_fd,   reading_fd
	};
	struct process_spec spec = {
		.kind = JAIL_QEMU,
		.keep = keep,
		.nkeep = DISK_FD - PROCESS_FD + disk->n,
		.stdin_fd = -1,
	};
	struct qemu_args args;
	unsigned i;
	int rc;

	for (i = 0; i < disk->n; i++)
		keep[DISK_FD - PROCESS_FD + i] = disk->files[i].fd;
	rc = qemu_args_build(&args, &config);
	if (rc)
		err_sys(err, rc, "cannot start QEMU");
	spec.args = (const char *const *)args.argv;
	if (!rc)
		rc = process_spawn(vm->common.env->loop, &spec, on_exit_process, vm, &vm->process, err);
	qemu_args_release(&args);
	return rc;
}

static int spawn(struct qemu_machine *vm, int qmp_fd, const char *path, struct err *err)
{
	struct disk disk;
	int rc = disk_open(&disk, path, 0, err);
	int track[2] = { -1, -1 }, reading_fd;

	if (rc)
		return rc;
	rc = pair(SOCK_SEQPACKET, true, track, err);
	if (rc)
		goto out;
	rc = reading_fd = qemu_open_reading(disk.files[0].fd, err);
	if (rc >= 0) {
		rc = spawn_with(vm, qmp_fd, track[1], &disk, reading_fd, err);
		close(reading_fd);
		vm->top_set = QEMU_FIRST_SET;
		vm->next_set = QEMU_FIRST_SET + disk.n;
		sets_retire(vm, QEMU_FIRST_SET + 1, disk.n - 1);
	}
	if (!rc) {
		*process_keeps(vm->process) = track[0];
		track[0] = -1;
	}
out:
	close_fd(&track[0]);
	close_fd(&track[1]);
	disk_close(&disk);
	return rc;
}

static const struct qmp_events qmp_events = {
	.ready = on_qmp_ready,
	.event = on_qmp_event,
	.lost = on_qmp_lost,
};

/* A machine with its process started; base is NULL for a boot. */
static int vm_new(const struct engine_env *env, const struct shape *shape, struct template *base,
		  const char *disk, struct qemu_machine **ret, struct err *err)
{
	struct qemu_machine *vm = calloc(1, sizeof(*vm));
	int qmp[2] = { -1, -1 };
	int rc;

	if (!vm) {
		err_sys(err, -ENOMEM, "cannot make a machine");
		return -ENOMEM;
	}
	vm_init(&vm->common, env, shape, base, release);
	vm->kvm = !kvm_probe()->err.code;
	vm->agent[0] = vm->agent[1] = vm->console[0] = vm->console[1] = vm->net[0] = vm->net[1] = -1;
	vm->state_fd = vm->ram_fd = vm->capture.state_fd = vm->ahead.uffd = -1;
	if (base) {
		vm->ram_size = base->ram_size;
		vm->ram_fd = base->ram_fd;
		rc = vm->state_fd = open_state(base, err);
	} else {
		vm->ram_size = vm->common.shape.memory_max;
		rc = vm->ram_fd = ram_memfd("sbx-ram", vm->ram_size, err);
		/* QEMU has it, too: it shall not change its size under us. */
		if (rc >= 0 && fcntl(rc, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
			rc = err_sys(err, -errno, "cannot seal the size of the RAM");
	}
	if (rc >= 0)
		rc = pair(SOCK_STREAM, false, vm->agent, err);
	if (rc >= 0)
		rc = pair(SOCK_STREAM, false, vm->console, err);
	if (rc >= 0)
		rc = pair(SOCK_SEQPACKET, false, vm->net, err);
	if (rc >= 0)
		rc = pair(SOCK_STREAM, false, qmp, err);
	if (rc < 0)
		goto fail;
	vm->qmp = qmp_new(env->loop, qmp[0], &qmp_events, vm);
	if (!vm->qmp) {
		rc = -ENOMEM;
		err_sys(err, rc, "cannot make a machine");
		goto fail;
	}
	qmp[0] = -1; /* the client's now */
	rc = spawn(vm, qmp[1], disk, err);
	if (rc)
		goto fail;
	close_fd(&qmp[1]);
	*ret = vm;
	return 0;

fail:
	qmp_free(vm->qmp);
	close_fd(&qmp[0]);
	close_fd(&qmp[1]);
	vm_free_descriptors(vm);
	vm_release(&vm->common);
	return rc;
}

/* ---- the engine's calls */

static int qemu_boot(const struct engine_env *env, const struct shape *shape, const char *disk,
		     const struct vm_events *events, void *owner, done_fn done, void *arg, struct vm **ret,
		     struct err *err)
{
	struct qemu_machine *vm;
	int rc = vm_new(env, shape, NULL, disk, &vm, err);

	if (rc)
		return rc;
	vm_own(&vm->common, events, owner, done, arg);
	*ret = &vm->common;
	return 0;
}

static int qemu_prepare(const struct engine_env *env, struct template *template, const char *disk,
			const struct vm_events *events, void *owner, done_fn done, void *arg, struct vm **ret,
			struct err *err)
{
	struct qemu_machine *vm;
	int rc = vm_new(env, &template->shape, template, disk, &vm, err);

	if (rc)
		return rc;
	vm_own(&vm->common, events, owner, done, arg);
	*ret = &vm->common;
	return 0;
}

/* False if the machine is dead, and the answer on its way. */
static bool begin(struct qemu_machine *vm, done_fn done, void *arg)
{
	vm_begin(&vm->common, done, arg);
	if (!vm->process)
		vm_fail(&vm->common, &vm->broken);
	return vm->process;
}

static void qemu_background(struct vm *handle, bool background)
{
	struct qemu_machine *vm = qemu_of(handle);

	if (vm->process)
		process_background(vm->process, background);
}

static void qemu_start(struct vm *handle, const struct vm_events *events, void *owner, done_fn done,
		       void *arg)
{
	struct qemu_machine *vm = qemu_of(handle);

	handle->events = events;
	handle->owner = owner;
	handle->loading.done = NULL;
	if (!begin(vm, done, arg))
		return;
	if (vm->ready)
		vm_command(vm, "cont", NULL, -1, on_running, vm);
	else
		vm->start_wanted = true;
}

static void qemu_pause(struct vm *handle, done_fn done, void *arg)
{
	struct qemu_machine *vm = qemu_of(handle);

	if (begin(vm, done, arg))
		vm_command(vm, "stop", NULL, -1, on_stopped, vm);
}

static void qemu_resume(struct vm *handle, done_fn done, void *arg)
{
	struct qemu_machine *vm = qemu_of(handle);

	if (begin(vm, done, arg))
		vm_command(vm, "cont", NULL, -1, on_running, vm);
}

static void qemu_destroy(struct vm *handle)
{
	struct qemu_machine *vm;

	if (!handle)
		return;
	vm = qemu_of(handle);
	vm->common.destroyed = true;
	capture_abort(vm, NULL);
	qemu_forget(handle);
	timer_stop(&vm->common.defer);
	if (vm->process)
		process_abandon(vm->process);
	vm->process = NULL;
	qmp_free(vm->qmp);
	vm->qmp = NULL;
	vm_free_descriptors(vm);
	vm_release(handle);
}

static struct vm_ends qemu_ends(const struct vm *handle)
{
	const struct qemu_machine *vm = qemu_of(handle);

	return (struct vm_ends){ .agent = vm->agent[0], .console = vm->console[0], .net = vm->net[0] };
}

static pid_t qemu_pid(const struct vm *handle)
{
	const struct qemu_machine *vm = qemu_of(handle);

	return vm->process ? process_pid(vm->process) : -1;
}

static int qemu_usage(struct vm *handle, struct vm_usage *ret)
{
	struct qemu_machine *vm = qemu_of(handle);

	return vm->process ? process_usage(process_pid(vm->process), ret) : -ESRCH;
}

static int qemu_memory(const struct vm *handle)
{
	const pid_t pid = qemu_pid(handle);

	return pid < 0 ? -ESRCH : process_memory(pid);
}

static int qemu_probe(const struct engine_env *env, char *how, size_t how_size, struct err *err)
{
	const struct kvm_probe *kvm = kvm_probe();
	char path[PATH_MAX];

	(void)env;
	if (jail_find_program(QEMU_PROGRAM, path))
		return err_set(err, -ENOENT, "no " QEMU_PROGRAM " in PATH");
	tsc_khz(); /* now, while nobody waits */
	if (kvm->err.code)
		snprintf(how, how_size, "TCG: %s", kvm->err.text);
	else
		snprintf(how, how_size, "KVM on %s", kvm->how);
	return 0;
}

static void qemu_shutdown(void)
{
	process_reap_abandoned();
}

const struct engine engine_qemu = {
	.name = "qemu",
	.probe = qemu_probe,
	.requires = qemu_requires,
	.provides = qemu_provides,
	.boot = qemu_boot,
	.prepare = qemu_prepare,
	.background = qemu_background,
	.start = qemu_start,
	.pause = qemu_pause,
	.resume = qemu_resume,
	.ahead = qemu_ahead,
	.forget = qemu_forget,
	.capture = qemu_capture,
	.destroy = qemu_destroy,
	.ends = qemu_ends,
	.pid = qemu_pid,
	.usage = qemu_usage,
	.memory = qemu_memory,
	.shutdown = qemu_shutdown,
};
