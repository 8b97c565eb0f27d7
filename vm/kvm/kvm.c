/* SPDX-License-Identifier: MIT */
/*
 * kvm.c - machines run by sbx-vmm: the engine's calls as requests to a process (control.h)
 *
 * Requests need no waiting between them, because the process answers them in order: the answers to boot or
 * prepare, and then to one operation at a time, go to whoever is owed one first. A capture has answers of its
 * own, since a machine may be resumed and run while its RAM is still copied.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "util/pending.h"
#include "vm/cpu_flags.h"
#include "vm/disk_files.h"
#include "vm/engine.h"
#include "vm/kernel_args.h"
#include "vm/kvm/blank.h"
#include "vm/probe.h"
#include "vm/process.h"
#include "vm/usage.h"
#include "vm/vmm/state.h"

/* edd=off, pci=off: no probing of what is not there. cryptomgr.notests, nowatchdog: work that nobody looks
 * at. panic=-1 reboot=a: a panicking kernel resets through the register that ACPI names, and that ends the
 * machine. */
#define KERNEL_ARGS                                                                                          \
	"console=ttyS0 quiet panic=-1 reboot=a edd=off pci=off nowatchdog cryptomgr.notests "                \
	"random.trust_cpu=on"

struct vm {
	const struct engine_env *env;
	const struct vm_events *events; /* NULL: prepared, nobody's yet */
	void *owner;
	unsigned holds; /* the caller's, and of callbacks in progress */
	bool destroyed;
	struct shape shape;
	struct template *base; /* of a fork: its RAM is mapped */
	struct blank *blank;
	struct process_memory memory;
	bool dead;
	struct err why;         /* if dead */
	bool loaded;            /* boot or prepare has been answered, for good or bad */
	struct pending loading; /* of those */
	struct pending op;      /* of start, pause or resume */
	struct err op_err;      /* what answer_later says */
	struct timer defer;
	bool capturing;
	struct vm_capture capture;
	uint64_t began_ns; /* the operation, or the capture */
	uint64_t stop_ns;  /* how long the last stop took */
	uint64_t pause_ns; /* that and the freeze */
	bool stopping;     /* the operation is a stop */
};

static void vm_release(struct vm *vm)
{
	if (--vm->holds)
		return;
	template_unref(vm->base);
	free(vm);
}

static void answer_later(void *arg)
{
	struct vm *vm = arg;

	vm->holds++;
	pending_end(&vm->op, &vm->op_err);
	vm_release(vm);
}

static void defer_answer(struct vm *vm, const struct err *err)
{
	vm->op_err = *err;
	timer_start(vm->env->loop, &vm->defer, 0, answer_later, vm);
}

/* ---- captures */

static void capture_finish(struct vm *vm, const struct err *err, struct template *template)
{
	const struct vm_capture calls = vm->capture;

	vm->capturing = false;
	calls.done(calls.arg, err, template);
}

static void on_frozen(struct vm *vm)
{
	vm->pause_ns = vm->stop_ns + now_mono_ns() - vm->began_ns;
	vm->capture.frozen(vm->capture.arg);
}

static void on_captured(struct vm *vm, const struct err *failure, int fds[CONTROL_REPLY_FDS])
{
	struct template *template = NULL;
	struct err err = *failure;

	if (!err.code && (fds[0] < 0 || fds[1] < 0))
		err_set(&err, -EPROTO, "sbx-vmm sent no capture");
	if (!err.code)
		template = template_new();
	if (!err.code && !template)
		err_set(&err, -ENOMEM, "out of memory for a template");
	if (template) {
		snprintf(template->engine, sizeof(template->engine), "%s", engine_kvm.name);
		template->shape = vm->shape;
		template->ram_size = vm->shape.memory_max;
		template->pause_ns = vm->pause_ns;
		if (!template_adopt(template, fds[0], fds[1], &err)) {
			fds[0] = fds[1] = -1;
		} else {
			template_unref(template);
			template = NULL;
		}
	}
	capture_finish(vm, &err, template);
}

/* ---- what the process says */

static void on_done(struct vm *vm, const struct err *err)
{
	if (!vm->loaded) {
		vm->loaded = true;
		pending_end(&vm->loading, err);
		return;
	}
	if (vm->stopping)
		vm->stop_ns = now_mono_ns() - vm->began_ns;
	vm->stopping = false;
	pending_end(&vm->op, err);
}

static void on_reply(void *owner, const struct control_reply *reply, int fds[CONTROL_REPLY_FDS])
{
	struct vm *vm = owner;
	struct err err = { 0 };
	int i;

	if (reply->code)
		err_set(&err, reply->code, "%s", reply->text);
	vm->holds++;
	if (reply->type == CONTROL_DONE)
		on_done(vm, &err);
	else if (reply->type == CONTROL_FROZEN && vm->capturing)
		on_frozen(vm);
	else if (reply->type == CONTROL_CAPTURED && vm->capturing)
		on_captured(vm, &err, fds);
	else if (reply->type == CONTROL_STALLED && !vm->destroyed && vm->events && vm->events->stalled)
		vm->events->stalled(vm->owner, "there is no room left in the store");
	for (i = 0; i < CONTROL_REPLY_FDS; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	vm_release(vm);
}

static void on_ended(void *owner, bool clean, const struct err *why)
{
	struct vm *vm = owner;

	vm->holds++;
	vm->dead = true;
	vm->why = *why;
	if (vm->capturing)
		capture_finish(vm, why, NULL);
	if (!vm->destroyed)
		pending_end(&vm->loading, why);
	if (!vm->destroyed) {
		timer_stop(&vm->defer);
		pending_end(&vm->op, why);
	}
	if (!vm->destroyed && vm->events)
		vm->events->exited(vm->owner, clean, why->text);
	vm_release(vm);
}

static const struct blank_events blank_events = { .reply = on_reply, .ended = on_ended };

/* ---- the engine's calls */

/* A request whose descriptors are complete; they stay open until it is sent. */
struct parcel {
	struct control_request request;
	int fds[CONTROL_FDS_MAX];
	unsigned n;
	int files[2]; /* kernel and initrd, -1: none */
	struct disk disk;
};

static void parcel_close(struct parcel *parcel)
{
	for (unsigned i = 0; i < 2; i++)
		if (parcel->files[i] >= 0)
			close(parcel->files[i]);
	disk_close(&parcel->disk);
}

static int put_file(struct parcel *parcel, unsigned i, const char *path, struct err *err)
{
	const int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, -errno, "cannot open %s", path);
	parcel->files[i] = parcel->fds[parcel->n++] = fd;
	return 0;
}

static int put_disk(struct parcel *parcel, const char *path, struct err *err)
{
	const int rc = disk_open(&parcel->disk, path, 0, err);

	if (rc)
		return rc;
	snprintf(parcel->request.disk, sizeof(parcel->request.disk), "%s", parcel->disk.name);
	for (unsigned i = 0; i < parcel->disk.n; i++)
		parcel->fds[parcel->n++] = parcel->disk.files[i].fd;
	return 0;
}

static void free_vm(struct vm *vm)
{
	blank_free(vm->blank);
	vm->blank = NULL;
	vm_release(vm);
}

static int vm_new(const struct engine_env *env, const struct shape *shape, struct template *base,
		  struct vm **ret, struct err *err)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int rc;

	if (!vm)
		return err_set(err, -ENOMEM, "out of memory");
	vm->holds = 1;
	vm->env = env;
	vm->shape = *shape;
	vm->base = base ? template_ref(base) : NULL;
	rc = blank_get(env, shape->memory_max, shape->cpus_max, &blank_events, vm, &vm->blank, err);
	if (rc)
		vm_release(vm);
	else
		*ret = vm;
	return rc;
}

/* Send the first request to a new machine; done is called when it is answered. */
static int vm_begin(const struct engine_env *env, const struct shape *shape, struct template *base,
		    const struct parcel *parcel, struct pending loading, struct vm **ret, struct err *err)
{
	struct vm *vm;
	int rc = vm_new(env, shape, base, &vm, err);

	if (rc)
		return rc;
	rc = blank_send(vm->blank, &parcel->request, parcel->fds, parcel->n, err);
	if (rc) {
		free_vm(vm);
		return rc;
	}
	vm->loading = loading;
	*ret = vm;
	return 0;
}

static int kvm_boot(const struct engine_env *env, const struct shape *shape, const char *disk,
		    const struct vm_events *events, void *owner, done_fn done, void *arg, struct vm **ret,
		    struct err *err)
{
	struct parcel parcel = { .request.type = CONTROL_BOOT, .files = { -1, -1 } };
	char args[KERNEL_ARGS_SIZE];
	int rc;

	kernel_args(shape, args);
	snprintf(parcel.request.cmdline, sizeof(parcel.request.cmdline), KERNEL_ARGS " %s", args);
	rc = put_file(&parcel, 0, env->kernel, err);
	if (!rc)
		rc = put_file(&parcel, 1, env->initrd, err);
	if (!rc)
		rc = put_disk(&parcel, disk, err);
	if (!rc)
		rc = vm_begin(env, shape, NULL, &parcel, (struct pending){ done, arg }, ret, err);
	parcel_close(&parcel);
	if (rc)
		return rc;
	(*ret)->events = events;
	(*ret)->owner = owner;
	return 0;
}

static int kvm_prepare(const struct engine_env *env, struct template *template, const char *disk,
		       const struct vm_events *events, void *owner, done_fn done, void *arg, struct vm **ret,
		       struct err *err)
{
	struct parcel parcel = { .request.type = CONTROL_LOAD,
				 .fds = { template->ram_fd, template->state_fd },
				 .n = 2,
				 .files = { -1, -1 } };
	int rc = put_disk(&parcel, disk, err);

	if (!rc)
		rc = vm_begin(env, &template->shape, template, &parcel, (struct pending){ done, arg }, ret,
			      err);
	parcel_close(&parcel);
	if (rc)
		return rc;
	blank_pool_want(env, template->shape.memory_max, template->shape.cpus_max);
	(*ret)->events = events;
	(*ret)->owner = owner;
	return 0;
}

/* Send a request whose answer the caller waits for. */
static void request(struct vm *vm, enum control_type type, done_fn done, void *arg)
{
	const struct control_request message = { .type = type };
	struct err err;

	vm->op = (struct pending){ done, arg };
	vm->began_ns = now_mono_ns();
	vm->stopping = type == CONTROL_STOP;
	if (vm->dead)
		defer_answer(vm, &vm->why);
	else if (blank_send(vm->blank, &message, NULL, 0, &err))
		blank_break(vm->blank, &err);
}

static void kvm_background(struct vm *vm, bool background)
{
	blank_background(vm->blank, background);
}

static void kvm_start(struct vm *vm, const struct vm_events *events, void *owner, done_fn done, void *arg)
{
	vm->events = events;
	vm->owner = owner;
	request(vm, CONTROL_RUN, done, arg);
}

static void kvm_pause(struct vm *vm, done_fn done, void *arg)
{
	request(vm, CONTROL_STOP, done, arg);
}

static void kvm_resume(struct vm *vm, done_fn done, void *arg)
{
	request(vm, CONTROL_RUN, done, arg);
}

static void fail_capture(void *arg)
{
	struct vm *vm = arg;

	vm->holds++;
	capture_finish(vm, &vm->op_err, NULL);
	vm_release(vm);
}

static void kvm_capture(struct vm *vm, const char *next_disk, const struct vm_capture *capture)
{
	struct control_request message = { .type = CONTROL_CAPTURE };
	const char *slash = strrchr(next_disk, '/');
	struct err err = { 0 };
	int fd = -1;

	vm->capturing = true;
	vm->capture = *capture;
	vm->began_ns = now_mono_ns();
	snprintf(message.disk, sizeof(message.disk), "%s", slash ? slash + 1 : next_disk);
	if (vm->dead)
		err = vm->why;
	else
		fd = qcow2_open_file(AT_FDCWD, next_disk, true, &err);
	if (fd >= 0) {
		if (blank_send(vm->blank, &message, &fd, 1, &err))
			blank_break(vm->blank, &err);
		close(fd);
	} else {
		vm->op_err = err;
		timer_start(vm->env->loop, &vm->defer, 0, fail_capture, vm);
	}
}

static void kvm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	vm->destroyed = true;
	timer_stop(&vm->defer);
	free_vm(vm);
}

static int kvm_agent_fd(const struct vm *vm)
{
	return blank_agent_fd(vm->blank);
}

static int kvm_console_fd(const struct vm *vm)
{
	return blank_console_fd(vm->blank);
}

static int kvm_net_fd(const struct vm *vm)
{
	return blank_net_fd(vm->blank);
}

static pid_t kvm_pid(const struct vm *vm)
{
	return blank_pid(vm->blank);
}

static int kvm_usage(struct vm *vm, struct vm_usage *ret)
{
	const pid_t pid = blank_pid(vm->blank);
	int rc = pid < 0 ? -ESRCH : process_usage(pid, &vm->memory, ret);

	if (!rc)
		blank_stats(vm->blank, &ret->exits, &ret->disk_written);
	return rc;
}

static int kvm_engine_probe(const struct engine_env *env, char *how, size_t how_size, struct err *err)
{
	const struct kvm_probe *probe = kvm_probe();
	char program[PATH_MAX];

	if (probe->err.code) {
		if (err)
			*err = probe->err;
		return probe->err.code;
	}
	snprintf(program, sizeof(program), "%s/sbx-vmm", env->libexec);
	if (access(program, X_OK) < 0)
		return err_sys(err, -errno, "cannot run %s", program);
	snprintf(how, how_size, "KVM on %s", probe->how);
	return 0;
}

static void kvm_requires(struct buf *text)
{
	buf_printf(text, "state %d\n", STATE_VERSION);
	cpu_flags_put(text);
}

/* What the guest's CPUs were told is compared bit by bit when the state is loaded (cpuid.c). */
static bool kvm_provides(const char *key, const char *value)
{
	if (!strcmp(key, "state"))
		return strtoul(value, NULL, 10) == STATE_VERSION;
	return !strcmp(key, "cpu") && cpu_flags_have(value);
}

static void kvm_shutdown(void)
{
	blank_pool_clear();
	process_reap_abandoned();
}

const struct engine engine_kvm = {
	.name = "kvm",
	.probe = kvm_engine_probe,
	.requires = kvm_requires,
	.provides = kvm_provides,
	.boot = kvm_boot,
	.prepare = kvm_prepare,
	.background = kvm_background,
	.start = kvm_start,
	.pause = kvm_pause,
	.resume = kvm_resume,
	.capture = kvm_capture,
	.destroy = kvm_destroy,
	.agent_fd = kvm_agent_fd,
	.console_fd = kvm_console_fd,
	.net_fd = kvm_net_fd,
	.pid = kvm_pid,
	.usage = kvm_usage,
	.shutdown = kvm_shutdown,
};
