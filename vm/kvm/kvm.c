/* SPDX-License-Identifier: MIT */
/*
 * kvm.c - machines run by sbx-vmm: the engine's calls as requests to a process (control.h)
 *
 * Requests need no waiting between them, because the process answers them in order: the answers to boot or
 * prepare, and then to one operation at a time, go to whoever is owed one first. A capture has answers of its
 * own, since a machine may be resumed and run while its RAM is still copied.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/pending.h"
#include "vm/cpu_flags.h"
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

static void on_captured(struct vm *vm, const struct err *failure, int fds[CONTROL_FDS_MAX])
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
		template->ram_fd = fds[0];
		template->state_fd = fds[1];
		template->pause_ns = vm->pause_ns;
		fds[0] = fds[1] = -1;
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

static void on_reply(void *owner, const struct control_reply *reply, int fds[CONTROL_FDS_MAX])
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
	for (i = 0; i < CONTROL_FDS_MAX; i++)
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

static int put_path(char field[CONTROL_PATH_MAX], const char *path, struct err *err)
{
	if (strlen(path) >= CONTROL_PATH_MAX)
		return err_set(err, -ENAMETOOLONG, "%.64s...: the path is too long", path);
	memcpy(field, path, strlen(path) + 1);
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

static int kvm_boot(const struct engine_env *env, const struct shape *shape, const char *disk,
		    const struct vm_events *events, void *owner, done_fn done, void *arg, struct vm **ret,
		    struct err *err)
{
	struct control_request request = { .type = CONTROL_BOOT };
	char args[KERNEL_ARGS_SIZE];
	struct vm *vm;
	int rc;

	kernel_args(shape, args);
	snprintf(request.cmdline, sizeof(request.cmdline), KERNEL_ARGS " %s", args);
	rc = put_path(request.disk, disk, err);
	if (!rc)
		rc = put_path(request.kernel, env->kernel, err);
	if (!rc)
		rc = put_path(request.initrd, env->initrd, err);
	if (!rc)
		rc = vm_new(env, shape, NULL, &vm, err);
	if (rc)
		return rc;
	rc = blank_send(vm->blank, &request, NULL, 0, err);
	if (rc) {
		free_vm(vm);
		return rc;
	}
	vm->events = events;
	vm->owner = owner;
	vm->loading = (struct pending){ done, arg };
	*ret = vm;
	return 0;
}

static int kvm_prepare(const struct engine_env *env, struct template *template, const char *disk,
		       const struct vm_events *events, void *owner, done_fn done, void *arg, struct vm **ret,
		       struct err *err)
{
	struct control_request request = { .type = CONTROL_LOAD };
	const int fds[] = { template->ram_fd, template->state_fd };
	struct vm *vm;
	int rc;

	rc = put_path(request.disk, disk, err);
	if (!rc)
		rc = vm_new(env, &template->shape, template, &vm, err);
	if (rc)
		return rc;
	rc = blank_send(vm->blank, &request, fds, 2, err);
	if (rc) {
		free_vm(vm);
		return rc;
	}
	blank_pool_want(env, template->shape.memory_max, template->shape.cpus_max);
	vm->events = events;
	vm->owner = owner;
	vm->loading = (struct pending){ done, arg };
	*ret = vm;
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
	struct err err = { 0 };

	vm->capturing = true;
	vm->capture = *capture;
	vm->began_ns = now_mono_ns();
	if (vm->dead)
		err = vm->why;
	else if (!put_path(message.disk, next_disk, &err) && blank_send(vm->blank, &message, NULL, 0, &err)) {
		blank_break(vm->blank, &err);
		return;
	}
	if (err.code) {
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

static int kvm_usage(const struct vm *vm, struct vm_usage *ret)
{
	const pid_t pid = blank_pid(vm->blank);
	int rc = pid < 0 ? -ESRCH : process_usage(pid, ret);

	if (!rc)
		blank_stats(vm->blank, &ret->exits, &ret->disk_written);
	return rc;
}

static int kvm_engine_probe(const struct engine_env *env, char *how, size_t how_size, struct err *err)
{
	const struct kvm_probe *probe = kvm_probe();
	char program[CONTROL_PATH_MAX];

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
