/* SPDX-License-Identifier: MIT */
/*
 * kvm_vm.h - whole machines with hand-made guests, for tests
 *
 * The guests are 64-bit code that runs from a flat identity mapping (boot.h) and talks through the serial
 * port. They need no instruction beyond those of the first x86-64 CPUs and few of them, so the tests run
 * wherever /dev/kvm opens, even where it interprets the guest's kernel mode.
 */
#ifndef SBX_TESTS_KVM_VM_H
#define SBX_TESTS_KVM_VM_H

#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "util/io.h"
#include "vm/vmm/boot.h"
#include "vm/vmm/freeze.h"
#include "vm/vmm/vmm.h"

enum {
	CODE = 0x100000,
	DATA = 0x200000,
	AP_CODE = 0x8000,
	AP_DATA = 0xf800,
	MEMORY = 16 << 20,
	WAIT_MS = 20000
};

/* A blob of code between two symbols; it may not refer to its own address. */
#define GUEST(name, text)                                                                                    \
	extern const char guest_##name[], guest_##name##_end[];                                              \
	__asm__(".pushsection .rodata\nguest_" #name ":\n" text "\nguest_" #name "_end:\n.popsection\n")

#define GUEST_SIZE(name) ((size_t)((uintptr_t)name##_end - (uintptr_t)(name)))

/* Counts at two places, and puts '.' out after every step; what else is in registers stays there. */
GUEST(count, "mov $0x200000, %ebx\n"
	     "mov $0x1122334455667788, %r12\n"
	     "xor %r15d, %r15d\n"
	     "1: inc %r15\n"
	     "mov %r15, (%rbx)\n"
	     "mov %r15, 0x100000(%rbx)\n"
	     "mov $0x3f8, %edx\n"
	     "mov $'.', %al\n"
	     "out %al, %dx\n"
	     "jmp 1b");

/* ---- machines */

struct test_vm {
	struct loop *loop;
	struct vmm *vmm;
	struct vmm_stats stats;
	int console; /* what the guest says comes out here */
	int ended;   /* -1: not yet; else whether it was clean */
	char why[ERR_TEXT_MAX];
};

static inline void on_ended(void *arg, bool clean, const char *why)
{
	struct test_vm *vm = arg;

	vm->ended = clean;
	snprintf(vm->why, sizeof(vm->why), "%s", why);
}

static inline void vm_open(struct test_vm *vm, unsigned cpus)
{
	struct vmm_config config = { .memory = MEMORY,
				     .cpus = cpus,
				     .agent_fd = -1,
				     .net_fd = -1,
				     .stats = &vm->stats,
				     .ended = on_ended,
				     .arg = vm };
	struct err err = { 0 };
	int fds[2];

	memset(vm, 0, sizeof(*vm));
	vm->ended = -1;
	vm->loop = loop_new();
	CHECK(vm->loop && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
	vm->console = fds[0];
	config.console_fd = fds[1];
	if (vmm_create(vm->loop, &config, &vm->vmm, &err)) {
		fprintf(stderr, "%s\n", err.text);
		exit(1);
	}
}

static inline void vm_close(struct test_vm *vm)
{
	vmm_free(vm->vmm);
	CHECK(loop_once(vm->loop, 0) == 0);
	loop_free(vm->loop);
	close(vm->console);
}

/* Everything vmm_boot does for a kernel, for a blob of code. */
static inline void vm_fill(struct test_vm *vm, const char *code, size_t size)
{
	struct vmm *vmm = vm->vmm;
	struct err err = { 0 };

	CHECK(guest_memory_map_zero(&vmm->memory, &err) == 0 && devices_add(vmm, NULL, &err) == 0);
	memcpy(guest_ptr(&vmm->memory, CODE, size), code, size);
	CHECK(boot_write_tables(&vmm->memory, &err) == 0);
	CHECK(boot_set_registers(vmm->vcpus[0].fd, CODE, &err) == 0);
	vmm->content = VMM_FULL;
}

static inline void vm_run(struct test_vm *vm)
{
	struct err err = { 0 };

	pthread_mutex_lock(&vm->vmm->lock);
	CHECK(vmm_run(vm->vmm, &err) == 0);
	pthread_mutex_unlock(&vm->vmm->lock);
}

static inline void vm_stop(struct test_vm *vm)
{
	struct err err = { 0 };

	pthread_mutex_lock(&vm->vmm->lock);
	CHECK(vmm_stop(vm->vmm, &err) == 0);
	pthread_mutex_unlock(&vm->vmm->lock);
}

/* Wait until the guest has said this character. */
static inline void vm_expect(struct test_vm *vm, char want)
{
	struct pollfd pfd = { .fd = vm->console, .events = POLLIN };
	char c;

	do {
		CHECK(poll(&pfd, 1, WAIT_MS) == 1);
		CHECK(read(vm->console, &c, 1) == 1);
	} while (c != want);
}

/* Until guest_count has counted again: the first '.' may belong to the step it was stopped in. */
static inline void vm_expect_step(struct test_vm *vm)
{
	vm_expect(vm, '.');
	vm_expect(vm, '.');
}

static inline void vm_silence(struct test_vm *vm)
{
	char chunk[4096];

	while (read(vm->console, chunk, sizeof(chunk)) > 0)
		;
}

static inline uint64_t vm_word(const struct test_vm *vm, uint64_t gpa)
{
	uint64_t v;

	memcpy(&v, guest_ptr(&vm->vmm->memory, gpa, sizeof(v)), sizeof(v));
	return v;
}

struct captured {
	bool done;
	struct err err;
	int ram_fd, state_fd;
	int overlay_fd, map_fd; /* -1: all is in ram_fd */
};

static inline void on_captured(void *arg, const struct err *err, const struct template_files *files)
{
	*(struct captured *)arg = (struct captured){
		true, *err, dup(files->ram), dup(files->state), -1, files->map < 0 ? -1 : dup(files->map)
	};
}

/* Where it goes over what the machine has, that is its base. */
static inline void captured_over(struct captured *captured, const struct test_vm *vm)
{
	if (captured->map_fd < 0)
		return;
	captured->overlay_fd = captured->ram_fd;
	captured->ram_fd = dup(vm->vmm->memory.template_fd);
}

static inline int captured_load(struct vmm *vmm, const struct captured *captured, struct chain *disk,
				struct err *err)
{
	const struct guest_template ram = { dup(captured->ram_fd),
					    captured->overlay_fd < 0 ? -1 : dup(captured->overlay_fd),
					    captured->map_fd };

	return vmm_load(vmm, &ram, captured->state_fd, disk, err);
}

static inline void captured_wait(struct captured *captured, struct test_vm *vm)
{
	while (!captured->done)
		CHECK(loop_once(vm->loop, WAIT_MS) == 0);
	CHECK(captured->err.code == 0);
	captured_over(captured, vm);
}

/* Capture a stopped machine, which runs again before its RAM is copied. */
static inline struct captured vm_capture(struct test_vm *vm)
{
	struct captured captured = { .done = false };
	struct freeze *capture;
	struct err err = { 0 };

	pthread_mutex_lock(&vm->vmm->lock);
	CHECK(freeze_start(vm->vmm, NULL, -1, on_captured, &captured, &capture, &err) == 0);
	CHECK(vmm_run(vm->vmm, &err) == 0);
	pthread_mutex_unlock(&vm->vmm->lock);
	captured_wait(&captured, vm);
	return captured;
}

static inline void vm_fork(struct test_vm *vm, unsigned cpus, const struct captured *captured)
{
	struct err err = { 0 };

	vm_open(vm, cpus);
	if (captured_load(vm->vmm, captured, NULL, &err)) {
		fprintf(stderr, "%s\n", err.text);
		exit(1);
	}
}

static inline struct kvm_regs vm_regs(const struct test_vm *vm)
{
	struct kvm_regs regs;

	CHECK(ioctl(vm->vmm->vcpus[0].fd, KVM_GET_REGS, &regs) == 0);
	return regs;
}

static inline void captured_close(struct captured *captured)
{
	close_fd(&captured->ram_fd);
	close_fd(&captured->state_fd);
	close_fd(&captured->overlay_fd);
	close_fd(&captured->map_fd);
}

/* Until the guest has written there again. */
static inline void vm_expect_change(struct test_vm *vm, uint64_t gpa, uint64_t from)
{
	const uint64_t deadline = now_mono_ns() + WAIT_MS * 1000000ull;

	while (vm_word(vm, gpa) == from) {
		CHECK(now_mono_ns() < deadline);
		sched_yield();
	}
}

#endif
