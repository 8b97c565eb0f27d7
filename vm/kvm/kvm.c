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
#include "util/list.h"
#include "vm/cpu_flags.h"
#include "vm/disk_files.h"
#include "vm/handle.h"
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

struct kvm_machine {
	struct vm common;
	struct blank *blank;
	bool dead;
	struct err why;         /* if dead */
	bool loaded;            /* boot or prepare has been answered, for good or bad */
	bool capturing, frozen; /* the VMM has said so, in this capture */
	struct vm_capture capture;
	uint64_t pause_ns; /* the stop and the freeze */
	bool stopping;     /* the operation is a stop */
};

static struct kvm_machine *kvm_of(const struct vm *vm)
{
	return container_of(vm, struct kvm_machine, common);
}

/* ---- captures */

static void capture_finish(struct kvm_machine *vm, const struct err *err, struct template *template)
{
	const struct vm_capture calls = vm->capture;

	vm->capturing = false;
	calls.done(calls.arg, err, template);
}

static void on_frozen(struct kvm_machine *vm)
{
	vm->frozen = true;
	vm->pause_ns = vm->common.stop_ns + now_mono_ns() - vm->common.began_ns;
	vm->capture.frozen(vm->capture.arg);
}

static void on_captured(struct kvm_machine *vm, const struct err *failure, int fds[CONTROL_REPLY_FDS])
{
	struct template *const loaded = vm->common.base;
	struct template *template = NULL;
	struct template_files files;
	struct err err = *failure;

	if (!err.code && (!vm->frozen || fds[0] < 0 || fds[1] < 0))
		err_set(&err, -EPROTO, "sbx-vmm sent no capture");
	if (!err.code)
		template = template_new();
	if (!err.code && !template)
		err_set(&err, -ENOMEM, "out of memory for a template");
	if (template) {
		snprintf(template->engine, sizeof(template->engine), "%s", engine_kvm.name);
		template->shape = vm->common.shape;
		template->ram_size = vm->common.shape.memory_max;
		template->pause_ns = vm->pause_ns;
		if (fds[2] >= 0 && loaded)
			template->base = template_ref(loaded->base ? loaded->base : loaded);
		files = (struct template_files){ fds[0], fds[1], template->base ? fds[2] : -1 };
		if (!template_adopt(template, &files, &err)) {
			fds[0] = fds[1] = -1;
			fds[2] = template->base ? -1 : fds[2];
		} else {
			template_unref(template);
			template = NULL;
		}
	}
	capture_finish(vm, &err, template);
}

/* ---- what the process says */

static void on_done(struct kvm_machine *vm, const struct err *err)
{
	if (!vm->loaded) {
		vm->loaded = true;
		pending_end(&vm->common.loading, err);
		return;
	}
	if (vm->stopping)
		vm->common.stop_ns = now_mono_ns() - vm->common.began_ns;
	vm->stopping = false;
	pending_end(&vm->common.op, err);
}

static void on_reply(void *owner, const struct control_reply *reply, int fds[CONTROL_REPLY_FDS])
{
	struct kvm_machine *vm = owner;
	struct err err = { 0 };

	if (reply->code)
		err_set(&err, reply->code, "%s", reply->text);
	vm_hold(&vm->common);
	if (reply->type == CONTROL_DONE)
		on_done(vm, &err);
	else if (reply->type == CONTROL_FROZEN && vm->capturing && !vm->frozen)
		on_frozen(vm);
	else if (reply->type == CONTROL_CAPTURED && vm->capturing)
		on_captured(vm, &err, fds);
	else if (reply->type == CONTROL_STALLED)
		vm_stalled(&vm->common);
	vm_release(&vm->common);
}

static void on_ended(void *owner, bool clean, const struct err *why)
{
	struct kvm_machine *vm = owner;

	vm_hold(&vm->common);
	vm->dead = true;
	vm->why = *why;
	if (vm->capturing)
		capture_finish(vm, why, NULL);
	vm_gone(&vm->common, clean, why);
	vm_release(&vm->common);
}

static const struct blank_events blank_events = { .reply = on_reply, .ended = on_ended };

/* ---- the engine's calls */

/* A request whose descriptors are complete; they stay open until it is sent. */
struct parcel {
	struct control_request request;
	int fds[CONTROL_FDS_MAX];
	unsigned n, nfiles; /* the first are the parcel's own: kernel and initrd, or what a template has */
	struct disk disk;
};

static void parcel_close(struct parcel *parcel)
{
	for (unsigned i = 0; i < parcel->nfiles; i++)
		close(parcel->fds[i]);
	disk_close(&parcel->disk);
}

/* Before the disk. */
static int put_file(struct parcel *parcel, const char *path, struct err *err)
{
	const int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, -errno, "cannot open %s", path);
	parcel->fds[parcel->n++] = fd;
	parcel->nfiles++;
	return 0;
}

/*
 * A template's memory, to be read, with a descriptor of its own: others have forks of it, too, and whoever shared a
 * description with them could hold its lock for as long as a large read takes, which their captures would wait for.
 */
static int put_memory(struct parcel *parcel, int fd, struct err *err)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return put_file(parcel, path, err);
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

static void free_vm(struct kvm_machine *vm)
{
	blank_free(vm->blank);
	vm->blank = NULL;
	vm_release(&vm->common);
}

static int vm_new(const struct engine_env *env, const struct shape *shape, struct template *base,
		  struct kvm_machine **ret, struct err *err)
{
	struct kvm_machine *vm = calloc(1, sizeof(*vm));
	int rc;

	if (!vm)
		return err_set(err, -ENOMEM, "out of memory");
	vm_init(&vm->common, env, shape, base, NULL);
	rc = blank_get(env, shape->memory_max, shape->cpus_max, &blank_events, vm, &vm->blank, err);
	if (rc)
		vm_release(&vm->common);
	else
		*ret = vm;
	return rc;
}

/* A new machine that has its first request. */
static int make(const struct engine_env *env, const struct shape *shape, struct template *base,
		const struct parcel *parcel, struct kvm_machine **ret, struct err *err)
{
	struct kvm_machine *vm;
	int rc = vm_new(env, shape, base, &vm, err);

	if (rc)
		return rc;
	rc = blank_send(vm->blank, &parcel->request, parcel->fds, parcel->n, err);
	if (rc)
		free_vm(vm);
	else
		*ret = vm;
	return rc;
}

static int kvm_boot(const struct engine_env *env, const struct shape *shape, const char *disk,
		    const struct vm_events *events, void *owner, done_fn done, void *arg, struct vm **ret,
		    struct err *err)
{
	struct parcel parcel = { .request.type = CONTROL_BOOT };
	char args[KERNEL_ARGS_SIZE];
	struct kvm_machine *vm;
	int rc;

	kernel_args(shape, args);
	snprintf(parcel.request.cmdline, sizeof(parcel.request.cmdline), KERNEL_ARGS " %s", args);
	rc = put_file(&parcel, env->kernel, err);
	if (!rc)
		rc = put_file(&parcel, env->initrd, err);
	if (!rc)
		rc = put_disk(&parcel, disk, err);
	if (!rc)
		rc = make(env, shape, NULL, &parcel, &vm, err);
	parcel_close(&parcel);
	if (rc)
		return rc;
	vm_own(&vm->common, events, owner, done, arg);
	*ret = &vm->common;
	return 0;
}

static int kvm_prepare(const struct engine_env *env, struct template *template, const char *disk,
		       const struct vm_events *events, void *owner, done_fn done, void *arg, struct vm **ret,
		       struct err *err)
{
	struct parcel parcel = { .request.type = CONTROL_LOAD };
	const struct template *base = template->base ? template->base : template;
	struct kvm_machine *vm;
	int rc = put_memory(&parcel, base->ram_fd, err);

	if (!rc)
		rc = put_memory(&parcel, template->state_fd, err);
	if (!rc && template->base) {
		parcel.request.layered = 1;
		rc = put_memory(&parcel, template->ram_fd, err);
		if (!rc)
			rc = put_memory(&parcel, template->map_fd, err);
	}
	if (!rc)
		rc = put_disk(&parcel, disk, err);
	if (!rc)
		rc = make(env, &template->shape, template, &parcel, &vm, err);
	parcel_close(&parcel);
	if (rc)
		return rc;
	blank_pool_want(env, template->shape.memory_max, template->shape.cpus_max);
	vm_own(&vm->common, events, owner, done, arg);
	*ret = &vm->common;
	return 0;
}

/* Send a request whose answer the caller waits for. */
static void request(struct kvm_machine *vm, enum control_type type, done_fn done, void *arg)
{
	const struct control_request message = { .type = type };
	struct err err;

	vm_begin(&vm->common, done, arg);
	vm->stopping = type == CONTROL_STOP;
	if (vm->dead)
		vm_fail(&vm->common, &vm->why);
	else if (blank_send(vm->blank, &message, NULL, 0, &err))
		blank_break(vm->blank, &err);
}

static void kvm_background(struct vm *handle, bool background)
{
	blank_background(kvm_of(handle)->blank, background);
}

static void kvm_start(struct vm *handle, const struct vm_events *events, void *owner, done_fn done, void *arg)
{
	struct kvm_machine *vm = kvm_of(handle);

	handle->events = events;
	handle->owner = owner;
	handle->loading.done = NULL;
	request(vm, CONTROL_RUN, done, arg);
}

static void kvm_pause(struct vm *handle, done_fn done, void *arg)
{
	request(kvm_of(handle), CONTROL_STOP, done, arg);
}

static void kvm_resume(struct vm *handle, done_fn done, void *arg)
{
	request(kvm_of(handle), CONTROL_RUN, done, arg);
}

static void fail_capture(void *arg)
{
	struct kvm_machine *vm = arg;

	vm_hold(&vm->common);
	capture_finish(vm, &vm->common.failed, NULL);
	vm_release(&vm->common);
}

static void kvm_capture(struct vm *handle, const char *next_disk, const struct vm_capture *capture)
{
	struct kvm_machine *vm = kvm_of(handle);
	struct control_request message = { .type = CONTROL_CAPTURE };
	const char *slash = strrchr(next_disk, '/');
	struct err err = { 0 };
	int fd = -1;

	vm->capturing = true;
	vm->frozen = false;
	vm->capture = *capture;
	vm->common.began_ns = now_mono_ns();
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
		vm->common.failed = err;
		timer_start(vm->common.env->loop, &vm->common.defer, 0, fail_capture, vm);
	}
}

static void kvm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	vm->destroyed = true;
	timer_stop(&vm->defer);
	free_vm(kvm_of(vm));
}

static struct vm_ends kvm_ends(const struct vm *handle)
{
	return blank_ends(kvm_of(handle)->blank);
}

static pid_t kvm_pid(const struct vm *handle)
{
	return blank_pid(kvm_of(handle)->blank);
}

static int kvm_usage(struct vm *handle, struct vm_usage *ret)
{
	struct kvm_machine *vm = kvm_of(handle);
	const pid_t pid = blank_pid(vm->blank);
	int rc = pid < 0 ? -ESRCH : process_usage(pid, ret);

	if (!rc)
		blank_stats(vm->blank, &ret->exits, &ret->disk_written);
	return rc;
}

static int kvm_memory(const struct vm *handle)
{
	const pid_t pid = kvm_pid(handle);

	return pid < 0 ? -ESRCH : process_memory(pid);
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
	.ends = kvm_ends,
	.pid = kvm_pid,
	.usage = kvm_usage,
	.memory = kvm_memory,
	.shutdown = kvm_shutdown,
};
