/* SPDX-License-Identifier: MIT */
/*
 * test_kvm_traps.c - moments that are easily lost between a capture and its forks
 *
 * A CPU that sleeps, an interrupt that was promised, output that nobody has read, requests to the disk under
 * way, the clock; each through several generations where that may differ.
 */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sys/wait.h>

#include "snap/qcow2/chain.h"
#include "tests/unit/kvm_vm.h"
#include "tests/unit/virtio_driver.h"
#include "vm/vmm/virtio/blk.h"

/* ---- guests */

/* Stack and interrupt table; the interrupt at `vector` (with its gate's address) goes to the label. */
#define SET_GATE(gate, label)                                                                                \
	"mov $0x80000, %esp\n"                                                                               \
	"lea " label "(%rip), %rax\n"                                                                        \
	"mov $" gate ", %edi\n"                                                                              \
	"mov %ax, (%rdi)\n"                                                                                  \
	"movw $0x10, 2(%rdi)\n"                                                                              \
	"movw $0x8e00, 4(%rdi)\n"                                                                            \
	"shr $16, %rax\n"                                                                                    \
	"mov %ax, 6(%rdi)\n"                                                                                 \
	"movl $0, 8(%rdi)\n"                                                                                 \
	"movl $0, 12(%rdi)\n"                                                                                \
	"mov $0x202000, %edi\n"                                                                              \
	"movw $0xfff, (%rdi)\n"                                                                              \
	"movq $0x201000, 2(%rdi)\n"                                                                          \
	"lidt (%rdi)\n"                                                                                      \
	"mov $0xfee00000, %ebx\n"                                                                            \
	"movl $0x1ff, 0xf0(%rbx)\n" /* local APIC on */

/* Line 4 of the I/O APIC, the serial port's, to vector 0x41 of the first CPU. */
#define SET_SERIAL_LINE                                                                                      \
	"mov $0xfec00000, %edi\n"                                                                            \
	"movl $0x19, (%rdi)\n"                                                                               \
	"movl $0, 0x10(%rdi)\n"                                                                              \
	"movl $0x18, (%rdi)\n"                                                                               \
	"movl $0x41, 0x10(%rdi)\n"

#define SAY(c)                                                                                               \
	"mov $0x3f8, %edx\n"                                                                                 \
	"mov $'" c "', %al\n"                                                                                \
	"out %al, %dx\n"

#define END_OF_INTERRUPT                                                                                     \
	"mov $0xfee00000, %ebx\n"                                                                            \
	"movl $0, 0xb0(%rbx)\n"                                                                              \
	"iretq\n"

/* Sleeps; answers each character with the next one in the alphabet. */
GUEST(echo, SET_GATE("0x201410", "2f") SET_SERIAL_LINE /**/
      "mov $0x3f9, %edx\n"
      "mov $1, %al\n"
      "out %al, %dx\n" /* interrupt on input */
      SAY("s") "sti\n"
	       "1: hlt\n"
	       "jmp 1b\n"
	       "2: mov $0x3f8, %edx\n"
	       "in %dx, %al\n"
	       "inc %al\n"
	       "out %al, %dx\n" END_OF_INTERRUPT);

/* Says a to z for ever, as much as the port takes at each interrupt; R15, at 0x200000, counts. */
GUEST(talk, SET_GATE("0x201410", "2f") SET_SERIAL_LINE /**/
      "xor %r15d, %r15d\n"
      "mov $'a', %r14b\n"
      "mov $0x3f9, %edx\n"
      "mov $2, %al\n"
      "out %al, %dx\n" /* interrupt on an empty transmitter: at once */
      "sti\n"
      "1: hlt\n"
      "jmp 1b\n"
      "2: mov $0x3fa, %edx\n"
      "in %dx, %al\n" /* which interrupt: forgets it */
      "3: mov $0x3fd, %edx\n"
      "in %dx, %al\n"
      "test $0x20, %al\n"
      "jz 5f\n"
      "mov $0x3f8, %edx\n"
      "mov %r14b, %al\n"
      "out %al, %dx\n"
      "inc %r15\n"
      "mov $0x200000, %ebx\n"
      "mov %r15, (%rbx)\n"
      "inc %r14b\n"
      "cmp $'z', %r14b\n"
      "jbe 4f\n"
      "mov $'a', %r14b\n"
      "4: jmp 3b\n"
      "5: " END_OF_INTERRUPT);

/* Arms the local APIC's timer by the TSC, says 's', sleeps; the interrupt says 'T'. */
GUEST(deadline, SET_GATE("0x201400", "2f") /**/
      "movl $0x40040, 0x320(%rbx)\n"       /* vector 0x40, TSC deadline */
      SAY("s") "rdtsc\n"
	       "shl $32, %rdx\n"
	       "or %rdx, %rax\n"
	       "add $0x30000000, %rax\n" /* 0.2 to 0.4 s */
	       "mov %rax, %rdx\n"
	       "shr $32, %rdx\n"
	       "mov $0x6e0, %ecx\n"
	       "wrmsr\n"
	       "sti\n"
	       "1: hlt\n"
	       "jmp 1b\n"
	       "2: " SAY("T") END_OF_INTERRUPT);

/* Starts the second CPU, waits until there is something at 0x200000, and wakes it with an NMI. */
GUEST(waker, "mov $0xfee00000, %ebx\n"
	     "movl $0x1ff, 0xf0(%rbx)\n"
	     "movl $0x01000000, 0x310(%rbx)\n"
	     "movl $0x00004500, 0x300(%rbx)\n" /* INIT */
	     "movl $0x01000000, 0x310(%rbx)\n"
	     "movl $0x00004608, 0x300(%rbx)\n" /* SIPI to page 8 */
	     "mov $0x200000, %edi\n"
	     "1: cmpl $0, (%rdi)\n"
	     "je 1b\n"
	     "movl $0x01000000, 0x310(%rbx)\n"
	     "movl $0x00004400, 0x300(%rbx)\n" /* NMI */
	     "2: jmp 2b");

/* What it runs, in real mode at 0800:0000: sleeps, and says 'N' when an NMI comes. */
GUEST(sleeper, ".code16\n"
	       "1: xor %ax, %ax\n"
	       "mov %ax, %ds\n"
	       "mov %ax, %ss\n"
	       "mov $0xf800, %sp\n"
	       "movw $3f - 1b, 8\n" /* vector 2 */
	       "movw $0x800, 10\n"
	       "mov $0x3f8, %dx\n"
	       "mov $'2', %al\n"
	       "out %al, %dx\n"
	       "2: hlt\n"
	       "jmp 2b\n"
	       "3: mov $0x3f8, %dx\n"
	       "mov $'N', %al\n"
	       "out %al, %dx\n"
	       "iret\n"
	       ".code64\n");

/* ---- helpers */

static bool is_halted(const struct test_vm *vm, unsigned cpu)
{
	struct kvm_mp_state state;

	CHECK(ioctl(vm->vmm->vcpus[cpu].fd, KVM_GET_MP_STATE, &state) == 0);
	return state.mp_state == KVM_MP_STATE_HALTED;
}

/* Stop it at a moment when this CPU sleeps. */
static void stop_asleep(struct test_vm *vm, unsigned cpu)
{
	const uint64_t deadline = now_mono_ns() + WAIT_MS * 1000000ull;

	for (;;) {
		vm_stop(vm);
		if (is_halted(vm, cpu))
			return;
		CHECK(now_mono_ns() < deadline);
		vm_run(vm);
		(void)poll(NULL, 0, 1); /* it comes nearer to its sleep only while it runs */
	}
}

/* The guest gets a character. */
static void type(struct test_vm *vm, char c)
{
	CHECK(write(vm->console, &c, 1) == 1);
	CHECK(loop_once(vm->loop, WAIT_MS) == 0);
}

/* ---- tests */

static void a_sleeping_cpu_wakes_in_every_generation(void)
{
	struct test_vm vm[4];
	struct captured captured[3];
	unsigned i;

	vm_open(&vm[0], 1);
	vm_fill(&vm[0], guest_echo, GUEST_SIZE(guest_echo));
	vm_run(&vm[0]);
	vm_expect(&vm[0], 's');
	for (i = 0; i < 3; i++) {
		stop_asleep(&vm[i], 0);
		captured[i] = vm_capture(&vm[i]);
		vm_fork(&vm[i + 1], 1, &captured[i]);
		CHECK(is_halted(&vm[i + 1], 0));
		vm_run(&vm[i + 1]);
		type(&vm[i + 1], (char)('a' + i));
		vm_expect(&vm[i + 1], (char)('b' + i));
	}
	for (i = 0; i < 4; i++) {
		type(&vm[i], 'x');
		vm_expect(&vm[i], 'y');
		CHECK(vm[i].ended < 0);
		vm_close(&vm[i]);
		if (i < 3)
			captured_close(&captured[i]);
	}
}

/* Reads this many characters, which go on from `at` in the alphabet without a gap. */
static void expect_alphabet(struct test_vm *vm, uint64_t at, uint64_t n)
{
	struct pollfd pfd = { .fd = vm->console, .events = POLLIN };
	const uint64_t deadline = now_mono_ns() + WAIT_MS * 1000000ull;
	char chunk[512];
	ssize_t got, i;

	while (n) {
		CHECK(now_mono_ns() < deadline);
		/* What waits in the port gets out when there is room, which is the loop's work. */
		CHECK(loop_once(vm->loop, 0) == 0);
		if (poll(&pfd, 1, 10) < 1)
			continue;
		got = read(vm->console, chunk, n < sizeof(chunk) ? (size_t)n : sizeof(chunk));
		CHECK(got > 0);
		for (i = 0; i < got; i++)
			CHECK(chunk[i] == (char)('a' + (at + (uint64_t)i) % 26));
		at += (uint64_t)got;
		n -= (uint64_t)got;
	}
}

static void pending_output_stays_and_its_interrupt_comes(void)
{
	struct test_vm source, fork;
	struct captured captured;
	uint64_t count;

	vm_open(&source, 1);
	/* The least there is, so that the port is full soon. */
	CHECK(setsockopt(source.vmm->config.console_fd, SOL_SOCKET, SO_SNDBUF, &(int){ 1 }, sizeof(int)) ==
	      0);
	vm_fill(&source, guest_talk, GUEST_SIZE(guest_talk));
	vm_run(&source);
	vm_expect_change(&source, DATA, 0);
	stop_asleep(&source, 0); /* until the port can take more, which nobody reads */
	count = vm_word(&source, DATA);
	CHECK(count >= SERIAL_OUT_MAX);
	captured = vm_capture(&source);
	CHECK(vm_word(&source, DATA) == count);

	/* The fork has a console of its own, with nothing in it: it goes on with the next character. */
	vm_fork(&fork, 1, &captured);
	vm_run(&fork);
	expect_alphabet(&fork, count, 2000);
	/* And its source has lost none. */
	expect_alphabet(&source, 0, count + 2000);
	CHECK(source.ended < 0 && fork.ended < 0);
	vm_close(&fork);
	vm_close(&source);
	captured_close(&captured);
}

static bool has_tsc_deadline(const struct test_vm *vm)
{
	const struct kvm_cpuid2 *cpuid = vm->vmm->vm.cpuid;
	uint32_t i;

	for (i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 1)
			return cpuid->entries[i].ecx >> 24 & 1;
	return false;
}

static void a_tsc_deadline_survives(void)
{
	struct test_vm source, fork;
	struct captured captured;

	vm_open(&source, 1);
	if (!has_tsc_deadline(&source)) {
		printf("   this host has no TSC deadline timer\n");
		vm_close(&source);
		return;
	}
	vm_fill(&source, guest_deadline, GUEST_SIZE(guest_deadline));
	vm_run(&source);
	vm_expect(&source, 's');
	stop_asleep(&source, 0);
	captured = vm_capture(&source);
	vm_fork(&fork, 1, &captured);
	vm_run(&fork);
	vm_expect(&fork, 'T');
	vm_expect(&source, 'T');
	vm_close(&fork);
	vm_close(&source);
	captured_close(&captured);
}

static uint64_t tsc_of(const struct test_vm *vm)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = { .head.nmsrs = 1, .entry.index = 0x10 };

	CHECK(ioctl(vm->vmm->vcpus[0].fd, KVM_GET_MSRS, &msrs) == 1);
	return msrs.entry.data;
}

/* Also where the fork's machine is so young that KVM takes the TSC for one that is to be synchronised. */
static void the_tsc_does_not_go_back(void)
{
	struct test_vm source, fork;
	struct captured captured;
	uint64_t khz, before;

	vm_open(&source, 1);
	khz = (uint64_t)ioctl(source.vmm->vcpus[0].fd, KVM_GET_TSC_KHZ, 0);
	vm_fill(&source, guest_count, GUEST_SIZE(guest_count));
	vm_run(&source);
	vm_expect_step(&source);
	vm_stop(&source);
	while (tsc_of(&source) < 500 * khz) /* half a second old */
		sched_yield();
	before = tsc_of(&source);
	captured = vm_capture(&source);
	vm_fork(&fork, 1, &captured);
	CHECK(tsc_of(&fork) >= before && tsc_of(&fork) - before < 10000 * khz);
	vm_close(&fork);
	vm_close(&source);
	captured_close(&captured);
}

/* Of both vCPUs alike, if this KVM tells. */
static void check_tsc_offsets(const struct test_vm *vm)
{
	uint64_t offsets[2] = { 0 };
	unsigned i;

	for (i = 0; i < 2; i++) {
		const struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
						      .attr = KVM_VCPU_TSC_OFFSET,
						      .addr = (uintptr_t)&offsets[i] };

		if (ioctl(vm->vmm->vcpus[i].fd, KVM_GET_DEVICE_ATTR, &attr) < 0)
			return;
	}
	CHECK(offsets[0] == offsets[1]);
}

static void a_second_cpu_sleeps_on(void)
{
	struct test_vm source, fork;
	struct captured captured;

	vm_open(&source, 2);
	vm_fill(&source, guest_waker, GUEST_SIZE(guest_waker));
	memcpy(guest_ptr(&source.vmm->memory, AP_CODE, 256), guest_sleeper, GUEST_SIZE(guest_sleeper));
	vm_run(&source);
	vm_expect(&source, '2');
	stop_asleep(&source, 1);
	captured = vm_capture(&source);
	vm_fork(&fork, 2, &captured);
	CHECK(is_halted(&fork, 1) && !is_halted(&fork, 0));
	check_tsc_offsets(&fork);
	*(uint32_t *)guest_ptr(&fork.vmm->memory, DATA, 4) = 1;
	vm_run(&fork);
	vm_expect(&fork, 'N');
	*(uint32_t *)guest_ptr(&source.vmm->memory, DATA, 4) = 1;
	vm_expect(&source, 'N');
	CHECK(source.ended < 0 && fork.ended < 0);
	vm_close(&fork);
	vm_close(&source);
	captured_close(&captured);
}

static void the_clock_goes_on_where_it_stood(void)
{
	struct test_vm source, fork;
	struct captured captured;
	struct kvm_clock_data clock;
	uint64_t saved, start, passed;

	vm_open(&source, 1);
	vm_fill(&source, guest_count, GUEST_SIZE(guest_count));
	vm_run(&source);
	vm_expect_step(&source);
	vm_stop(&source);
	saved = source.vmm->clock.clock;
	captured = vm_capture(&source);
	poll(NULL, 0, 300); /* time that a fork must not see */
	vm_fork(&fork, 1, &captured);
	start = now_mono_ns();
	vm_run(&fork);
	CHECK(ioctl(fork.vmm->vm.vm_fd, KVM_GET_CLOCK, &clock) == 0);
	passed = now_mono_ns() - start;
	CHECK(clock.clock >= saved && clock.clock - saved <= passed + 1000000);
	vm_close(&fork);
	vm_close(&source);
	captured_close(&captured);
}

/* ---- the disk */

enum { RING = 0x300000, REQUESTS = 40, REQUEST = 4096, HEADERS = 0x500000, BUFFERS = 0x600000 };

static char dir[] = "/tmp/sbx-traps-XXXXXX";

#define sh(...) sh_in(dir, __VA_ARGS__)

/* We are the driver of its disk, in its RAM: the machine's guest leaves that alone. */
static void drive(struct driver *d, struct test_vm *vm)
{
	struct virtio_mmio *mmio = &vm->vmm->virtio[VIRTIO_BLK];

	d->ram = vm->vmm->memory;
	d->regs = virtio_mmio_region(mmio, 0);
}

static void start_driver(struct driver *d)
{
	const uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
				VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;

	driver_negotiate(d, UINT64_MAX);
	d->heap = RING;
	driver_queue(d, 0, 128);
	set_reg(d, VIRTIO_MMIO_STATUS, status);
	CHECK(!needs_reset(d));
}

/* The same rings, in the RAM of a fork. */
static struct driver follow(const struct driver *d, struct test_vm *fork)
{
	struct driver next = *d;
	struct driver_queue *q = &next.q[0];
	const uint8_t *old = d->ram.host;

	drive(&next, fork);
	q->desc = at(&next, (uint64_t)((uint8_t *)q->desc - old));
	q->avail = at(&next, (uint64_t)((uint8_t *)q->avail - old));
	q->used = at(&next, (uint64_t)((uint8_t *)q->used - old));
	return next;
}

static void submit(struct driver *d, uint32_t type)
{
	struct virtio_blk_outhdr *header;
	uint16_t head, n;
	uint64_t i;

	for (i = 0; i < REQUESTS; i++) {
		header = at(d, HEADERS + 32 * i);
		*header = (struct virtio_blk_outhdr){ .type = type, .sector = i * (REQUEST / 512) };
		*(uint8_t *)at(d, HEADERS + 32 * i + 16) = 0xff;
		head = put_desc(d, 0, HEADERS + 32 * i, sizeof(*header), false);
		n = put_next(d, 0, head, BUFFERS + i * REQUEST, REQUEST, type == VIRTIO_BLK_T_IN);
		put_next(d, 0, n, HEADERS + 32 * i + 16, 1, true);
		put_avail(d, 0, head);
	}
	kick(d, 0);
}

/* All are answered, once and well, and the buffers hold the pattern. */
static void expect_answers(struct driver *d, struct test_vm *vm)
{
	struct vring_used_elem elem;
	unsigned n = 0;
	uint64_t i;

	while (n < REQUESTS) {
		if (take_used(d, 0, &elem))
			n++;
		else
			CHECK(loop_once(vm->loop, WAIT_MS) == 0);
	}
	CHECK(loop_once(vm->loop, 0) == 0 && !take_used(d, 0, &elem));
	for (i = 0; i < REQUESTS; i++)
		CHECK(*(uint8_t *)at(d, HEADERS + 32 * i + 16) == VIRTIO_BLK_S_OK);
	for (i = 0; i < REQUESTS * REQUEST; i++)
		CHECK(*(uint8_t *)at(d, BUFFERS + i) == (uint8_t)(i * 7 + i / REQUEST));
}

static struct chain *open_chain(const char *file)
{
	struct chain *chain = NULL;
	char path[64];

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	CHECK(chain_open_path(path, true, &chain, NULL) == 0);
	return chain;
}

static struct captured capture_with_disk(struct test_vm *vm, const char *next_disk)
{
	struct captured captured = { .done = false };
	struct freeze *capture;
	struct err err = { 0 };
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, next_disk);
	fd = qcow2_open_file(AT_FDCWD, path, true, &err);
	CHECK(fd >= 0);
	vm_stop(vm);
	pthread_mutex_lock(&vm->vmm->lock);
	CHECK(freeze_start(vm->vmm, next_disk, fd, on_captured, &captured, &capture, &err) == 0);
	pthread_mutex_unlock(&vm->vmm->lock);
	captured_wait(&captured, vm);
	return captured;
}

static void load_with_disk(struct test_vm *vm, const struct captured *captured, const char *disk)
{
	struct err err = { 0 };

	vm_open(vm, 1);
	CHECK(captured_load(vm->vmm, captured, open_chain(disk), &err) == 0);
}

/* Requests are under way at the capture: source and fork have the answers to all of them. */
static void requests_under_way(uint32_t type)
{
	struct test_vm source, fork;
	struct driver d = { .loop = NULL }, forked;
	struct captured captured;
	struct err err = { 0 };
	uint64_t i;

	sh("rm -f * && qemu-img create -q -f qcow2 disk.qcow2 16M");
	sh("qemu-img create -q -f qcow2 -F qcow2 -b disk.qcow2 next.qcow2 && cp next.qcow2 forked.qcow2");
	vm_open(&source, 1);
	CHECK(guest_memory_map_zero(&source.vmm->memory, &err) == 0);
	CHECK(devices_add(source.vmm, open_chain("disk.qcow2"), &err) == 0);
	drive(&d, &source);
	start_driver(&d);
	CHECK(boot_set_registers(source.vmm->vcpus[0].fd, CODE, &err) == 0);
	source.vmm->content = VMM_FULL;
	for (i = 0; i < REQUESTS * REQUEST; i++)
		*(uint8_t *)at(&d, BUFFERS + i) = (uint8_t)(i * 7 + i / REQUEST);
	if (type == VIRTIO_BLK_T_IN) {
		submit(&d, VIRTIO_BLK_T_OUT);
		expect_answers(&d, &source);
		memset(at(&d, BUFFERS), 0, REQUESTS * REQUEST);
	}
	submit(&d, type);
	captured = capture_with_disk(&source, "next.qcow2");
	load_with_disk(&fork, &captured, "forked.qcow2");
	forked = follow(&d, &fork);
	expect_answers(&forked, &fork);
	expect_answers(&d, &source);
	/* And the disk of each has it. */
	memset(at(&forked, BUFFERS), 0, REQUESTS * REQUEST);
	submit(&forked, VIRTIO_BLK_T_IN);
	expect_answers(&forked, &fork);
	vm_close(&fork);
	vm_close(&source);
	captured_close(&captured);
	sh("qemu-img check -q disk.qcow2 && qemu-img check -q next.qcow2 && qemu-img check -q forked.qcow2");
}

static void reads_under_way_are_answered_in_source_and_fork(void)
{
	requests_under_way(VIRTIO_BLK_T_IN);
}

static void writes_under_way_are_answered_in_source_and_fork(void)
{
	requests_under_way(VIRTIO_BLK_T_OUT);
}

int main(void)
{
	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		printf("skipped: no /dev/kvm\n");
		return 0;
	}
	scratch_dir(dir);
	TEST(a_sleeping_cpu_wakes_in_every_generation);
	TEST(pending_output_stays_and_its_interrupt_comes);
	TEST(a_tsc_deadline_survives);
	TEST(the_tsc_does_not_go_back);
	TEST(a_second_cpu_sleeps_on);
	TEST(the_clock_goes_on_where_it_stood);
	TEST(reads_under_way_are_answered_in_source_and_fork);
	TEST(writes_under_way_are_answered_in_source_and_fork);
	return 0;
}
