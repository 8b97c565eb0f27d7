/* SPDX-License-Identifier: MIT */
/* test_kvm_machine.c - whole machines with hand-made guests: they run, stop, are captured and forked */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/kvm_vm.h"
#include "vm/vmm/state.h"

/* ---- guests */

/* Arms the local APIC's timer, says 's', sleeps; the interrupt says 'T' and sleeps on. */
GUEST(timer, "mov $0x80000, %esp\n"
	     /* an interrupt gate for vector 0x40 at 0x201400, its table at 0x201000 */
	     "lea 2f(%rip), %rax\n"
	     "mov $0x201400, %edi\n"
	     "mov %ax, (%rdi)\n"
	     "movw $0x10, 2(%rdi)\n"
	     "movw $0x8e00, 4(%rdi)\n"
	     "shr $16, %rax\n"
	     "mov %ax, 6(%rdi)\n"
	     "movl $0, 8(%rdi)\n"
	     "movl $0, 12(%rdi)\n"
	     "mov $0x202000, %edi\n"
	     "movw $0xfff, (%rdi)\n"
	     "movq $0x201000, 2(%rdi)\n"
	     "lidt (%rdi)\n"
	     "mov $0xfee00000, %ebx\n"
	     "movl $0x1ff, 0xf0(%rbx)\n" /* software enable */
	     "movl $0x0b, 0x3e0(%rbx)\n" /* divide by 1 */
	     "movl $0x40, 0x320(%rbx)\n" /* one shot, vector 0x40 */
	     "mov $'s', %al\n"
	     "mov $0x3f8, %edx\n"
	     "out %al, %dx\n"
	     "movl $400000000, 0x380(%rbx)\n" /* 0.4 s of KVM's 1 GHz bus */
	     "sti\n"
	     "1: hlt\n"
	     "jmp 1b\n"
	     "2: mov $'T', %al\n"
	     "mov $0x3f8, %edx\n"
	     "out %al, %dx\n"
	     "movl $0, 0xb0(%rbx)\n" /* end of interrupt */
	     "iretq");

/* Starts the second CPU at AP_CODE, and counts. */
GUEST(two, "mov $0xfee00000, %ebx\n"
	   "movl $0x1ff, 0xf0(%rbx)\n"
	   "movl $0x01000000, 0x310(%rbx)\n"
	   "movl $0x00004500, 0x300(%rbx)\n" /* INIT */
	   "movl $0x01000000, 0x310(%rbx)\n"
	   "movl $0x00004608, 0x300(%rbx)\n" /* SIPI to page 8 */
	   "mov $0x200000, %ebx\n"
	   "1: incq (%rbx)\n"
	   "jmp 1b");

/* What it runs, in real mode: counts where the other CPU does not, and says so the first time. */
GUEST(second, ".code16\n"
	      "mov $0x3f8, %dx\n"
	      "mov $'2', %al\n"
	      "out %al, %dx\n"
	      "xor %ax, %ax\n"
	      "mov %ax, %ds\n"
	      "1: incl 0xf800\n"
	      "jmp 1b\n"
	      ".code64\n");

/* Writes to everywhere on the I/O ports until told by the power port. */
GUEST(off, "mov $0x600, %edx\n"
	   "mov $0x34, %al\n" /* S5 and SLP_EN */
	   "out %al, %dx\n"
	   "1: jmp 1b");

GUEST(fault, "ud2");

/* ---- tests */

static void a_guest_runs_and_stops_and_runs(void)
{
	struct test_vm vm;
	uint64_t before;

	vm_open(&vm, 1);
	vm_fill(&vm, guest_count, GUEST_SIZE(guest_count));
	vm_run(&vm);
	vm_run(&vm); /* again: nothing changes */
	vm_expect_step(&vm);
	vm_stop(&vm);
	vm_stop(&vm);
	vm_silence(&vm);
	before = vm_word(&vm, DATA);
	CHECK(before > 0 && vm.stats.exits > 0);
	CHECK(vm_word(&vm, DATA) == before);
	vm_run(&vm);
	vm_expect_step(&vm);
	vm_stop(&vm);
	CHECK(vm_word(&vm, DATA) > before);
	vm_close(&vm);
}

static void set_xmm7(struct test_vm *vm)
{
	/* The layout of XSAVE (Intel SDM volume 1, 13.4): XMM7 is at 272, the bitmap of parts in use at
	 * 512. */
	static union {
		struct kvm_xsave head;
		uint8_t bytes[65536]; /* KVM reads what its XSAVE2 size says */
	} xsave;

	CHECK(ioctl(vm->vmm->vcpus[0].fd, KVM_GET_XSAVE, &xsave) == 0);
	memset(xsave.bytes + 272, 0x5a, 16);
	xsave.bytes[512] |= 3; /* x87 and SSE */
	CHECK(ioctl(vm->vmm->vcpus[0].fd, KVM_SET_XSAVE, &xsave) == 0);
}

static void registers_and_memory_survive(void)
{
	struct test_vm source, fork, second;
	struct captured first_capture, second_capture;
	struct kvm_regs regs, forked;
	struct kvm_fpu fpu, forked_fpu;
	uint64_t count;

	vm_open(&source, 1);
	vm_fill(&source, guest_count, GUEST_SIZE(guest_count));
	/* Set from here: a KVM that interprets kernel mode knows no vector instructions. */
	set_xmm7(&source);
	vm_run(&source);
	vm_expect_step(&source);
	vm_stop(&source);
	vm_silence(&source);
	regs = vm_regs(&source);
	CHECK(ioctl(source.vmm->vcpus[0].fd, KVM_GET_FPU, &fpu) == 0);
	count = vm_word(&source, DATA);
	first_capture = vm_capture(&source);
	/* It has run on, perhaps through all the time that the copy took. */
	vm_expect_step(&source);
	vm_stop(&source);
	CHECK(vm_word(&source, DATA) > count);

	vm_fork(&fork, 1, &first_capture);
	forked = vm_regs(&fork);
	CHECK(!memcmp(&forked, &regs, sizeof(regs)));
	CHECK(vm_word(&fork, DATA) == count && forked.r12 == 0x1122334455667788);
	CHECK(ioctl(fork.vmm->vcpus[0].fd, KVM_GET_FPU, &forked_fpu) == 0);
	CHECK(!memcmp(forked_fpu.xmm, fpu.xmm, sizeof(fpu.xmm)) && fpu.xmm[7][15] == 0x5a);
	vm_run(&fork);
	vm_expect_step(&fork);
	vm_stop(&fork);
	CHECK(vm_word(&fork, DATA) > count);

	/* The second generation: what the fork wrote, and what it left to the template. */
	vm_silence(&fork);
	count = vm_word(&fork, DATA);
	second_capture = vm_capture(&fork);
	vm_fork(&second, 1, &second_capture);
	CHECK(vm_word(&second, DATA) == count);
	CHECK(!memcmp(guest_ptr(&second.vmm->memory, CODE, 16), guest_count, 16));
	vm_run(&second);
	vm_expect_step(&second);
	vm_stop(&second);
	CHECK(vm_word(&second, DATA) > count);

	vm_close(&second);
	vm_close(&fork);
	vm_close(&source);
	captured_close(&first_capture);
	captured_close(&second_capture);
}

static void zero_pages_are_holes(void)
{
	struct test_vm vm;
	struct captured captured;
	struct stat st;

	vm_open(&vm, 1);
	vm_fill(&vm, guest_count, GUEST_SIZE(guest_count));
	/* Touched, and zero again. */
	memset(guest_ptr(&vm.vmm->memory, 8 << 20, 4 << 20), 1, 4 << 20);
	memset(guest_ptr(&vm.vmm->memory, 8 << 20, 4 << 20), 0, 4 << 20);
	vm_run(&vm);
	vm_expect_step(&vm);
	vm_stop(&vm);
	captured = vm_capture(&vm);
	CHECK(fstat(captured.ram_fd, &st) == 0 && st.st_size == MEMORY);
	CHECK(st.st_blocks * 512 <= 64 * 4096);
	CHECK((fcntl(captured.ram_fd, F_GET_SEALS) & F_SEAL_WRITE) && fcntl(captured.state_fd, F_GET_SEALS));
	captured_close(&captured);
	vm_close(&vm);
}

static uint8_t *page_of(const struct test_vm *vm, unsigned page)
{
	return guest_ptr(&vm->vmm->memory, (uint64_t)page * 4096, 4096);
}

/* It goes on, and stands. */
static void step(struct test_vm *vm)
{
	vm_run(vm);
	vm_expect_step(vm);
	vm_stop(vm);
}

/* Pages of a map, and runs of them. */
static unsigned pages_in(int map_fd, unsigned *runs)
{
	uint8_t map[MEMORY / 4096 / 8];
	unsigned n = 0;
	bool in = false;

	CHECK(!pread_all(map_fd, map, sizeof(map), 0));
	*runs = 0;
	for (unsigned page = 0; page < MEMORY / 4096; page++) {
		const bool now = template_map_has(map, (uint64_t)page * RAM_PAGE);

		n += now;
		*runs += now && !in;
		in = now;
	}
	return n;
}

/* Pages that the tests below write: far from the guest's code, and from each other's gaps. */
enum {
	FIRST = 2048,
	KEPT = FIRST,
	CLEARED = FIRST + 100,
	NEW = FIRST + 200,
	AGAIN = FIRST + 300,
	BULK = FIRST + 400
};

static void a_capture_of_a_fork_is_what_it_wrote(void)
{
	struct test_vm vm[4];
	struct captured captured[3];
	struct stat st;
	unsigned page, runs;

	vm_open(&vm[0], 1);
	vm_fill(&vm[0], guest_count, GUEST_SIZE(guest_count));
	memset(page_of(&vm[0], KEPT), 1, 4096);
	memset(page_of(&vm[0], CLEARED), 2, 4096);
	memset(page_of(&vm[0], BULK), 3, 1 << 20);
	step(&vm[0]);
	captured[0] = vm_capture(&vm[0]);
	CHECK(captured[0].map_fd < 0);

	vm_fork(&vm[1], 1, &captured[0]);
	memset(page_of(&vm[1], CLEARED), 0, 4096);
	memset(page_of(&vm[1], NEW), 4, 4096);
	memset(page_of(&vm[1], NEW + 5), 5, 4096); /* the gap is copied */
	CHECK(page_of(&vm[1], KEPT)[9] == 1);      /* looked at: no page of its own */
	step(&vm[1]);
	captured[1] = vm_capture(&vm[1]);
	CHECK(captured[1].map_fd >= 0 && pages_in(captured[1].map_fd, &runs) < 30);
	CHECK(!fstat(captured[1].overlay_fd, &st) && st.st_size == MEMORY && st.st_blocks * 512 < 30 * 4096);
	CHECK((fcntl(captured[1].map_fd, F_GET_SEALS) & F_SEAL_WRITE) &&
	      (fcntl(captured[1].overlay_fd, F_GET_SEALS) & F_SEAL_WRITE));

	vm_fork(&vm[2], 1, &captured[1]);
	CHECK(page_of(&vm[2], KEPT)[9] == 1 && !page_of(&vm[2], CLEARED)[9] && page_of(&vm[2], NEW)[9] == 4);
	CHECK(!page_of(&vm[2], NEW + 1)[9] && page_of(&vm[2], NEW + 5)[4095] == 5 &&
	      !page_of(&vm[2], NEW + 6)[0]);
	/* The next generation has what the last one had of its own, and goes over the same base. */
	memset(page_of(&vm[2], CLEARED), 6, 4096);
	memset(page_of(&vm[2], AGAIN), 7, 4096);
	/* And so much that the one after it is whole again. */
	memset(page_of(&vm[2], BULK), 8, 1 << 20);
	step(&vm[2]);
	captured[2] = vm_capture(&vm[2]);
	CHECK(captured[2].map_fd >= 0 && pages_in(captured[2].map_fd, &runs) >= 256);
	vm_fork(&vm[3], 1, &captured[2]);
	captured_close(&captured[2]);
	for (unsigned whole = 0; whole < 2; whole++) {
		CHECK(page_of(&vm[3], KEPT)[9] == 1 && page_of(&vm[3], CLEARED)[9] == 6);
		CHECK(page_of(&vm[3], NEW)[9] == 4 && page_of(&vm[3], NEW + 5)[0] == 5);
		CHECK(page_of(&vm[3], AGAIN)[9] == 7 && !page_of(&vm[3], AGAIN + 1)[9]);
		for (page = 0; page < 256; page++)
			CHECK(page_of(&vm[3], BULK + page)[page] == 8);
		step(&vm[3]);
		if (whole)
			break;
		captured[2] = vm_capture(&vm[3]);
		CHECK(captured[2].map_fd < 0);
		vm_stop(&vm[3]);
		vm_close(&vm[3]);
		vm_fork(&vm[3], 1, &captured[2]);
	}
	for (unsigned i = 0; i < 4; i++)
		vm_close(&vm[i]);
	for (unsigned i = 0; i < 3; i++)
		captured_close(&captured[i]);
}

/* Gaps that are just too long to be copied, until there are too many of them. */
static void pages_far_and_wide_are_few_runs(void)
{
	struct test_vm source, fork, second;
	struct captured first_capture, second_capture;
	unsigned page, runs;

	vm_open(&source, 1);
	vm_fill(&source, guest_count, GUEST_SIZE(guest_count));
	vm_run(&source);
	vm_stop(&source);
	first_capture = vm_capture(&source);
	vm_fork(&fork, 1, &first_capture);
	for (page = FIRST; page < MEMORY / 4096; page += 20)
		page_of(&fork, page)[0] = (uint8_t)(page % 251 + 1);
	vm_run(&fork);
	vm_stop(&fork);
	second_capture = vm_capture(&fork);
	CHECK(pages_in(second_capture.map_fd, &runs) > (MEMORY / 4096 - FIRST) / 20 + 500);
	CHECK(runs >= 64 && runs < 64 + 8);
	vm_fork(&second, 1, &second_capture);
	for (page = FIRST; page < MEMORY / 4096; page += 20)
		CHECK(page_of(&second, page)[0] == page % 251 + 1 && !page_of(&second, page + 1)[0]);
	vm_close(&second);
	vm_close(&fork);
	vm_close(&source);
	captured_close(&first_capture);
	captured_close(&second_capture);
}

static void a_timer_fires_in_every_fork(void)
{
	struct test_vm source, fork;
	struct captured captured;

	vm_open(&source, 1);
	vm_fill(&source, guest_timer, GUEST_SIZE(guest_timer));
	vm_run(&source);
	vm_expect(&source, 's');
	vm_stop(&source); /* armed, and asleep or about to be */
	captured = vm_capture(&source);
	vm_expect(&source, 'T');
	vm_fork(&fork, 1, &captured);
	vm_run(&fork);
	vm_expect(&fork, 'T');
	CHECK(source.ended < 0 && fork.ended < 0);
	vm_close(&fork);
	vm_close(&source);
	captured_close(&captured);
}

static void two_cpus_survive(void)
{
	struct test_vm source, fork;
	struct captured captured;
	uint64_t first, second;

	vm_open(&source, 2);
	vm_fill(&source, guest_two, GUEST_SIZE(guest_two));
	memcpy(guest_ptr(&source.vmm->memory, AP_CODE, 256), guest_second, GUEST_SIZE(guest_second));
	vm_run(&source);
	vm_expect(&source, '2');
	vm_stop(&source);
	first = vm_word(&source, DATA);
	second = vm_word(&source, AP_DATA);
	captured = vm_capture(&source);
	vm_expect_change(&source, DATA, first);
	vm_expect_change(&source, AP_DATA, second);
	vm_fork(&fork, 2, &captured);
	CHECK(vm_word(&fork, DATA) == first && vm_word(&fork, AP_DATA) == second);
	vm_run(&fork);
	vm_expect_change(&fork, DATA, first);
	vm_expect_change(&fork, AP_DATA, second);
	vm_close(&fork);
	vm_close(&source);
	captured_close(&captured);
}

static void loop_until_end(struct test_vm *vm)
{
	bool ended = false;

	while (!ended) {
		CHECK(loop_once(vm->loop, 10) == 0);
		pthread_mutex_lock(&vm->vmm->lock);
		ended = vm->ended >= 0;
		pthread_mutex_unlock(&vm->vmm->lock);
	}
}

static void the_end_of_a_guest_is_told(void)
{
	struct test_vm vm;

	vm_open(&vm, 1);
	vm_fill(&vm, guest_off, GUEST_SIZE(guest_off));
	vm_run(&vm);
	loop_until_end(&vm);
	CHECK(vm.ended == 1 && !strcmp(vm.why, "the guest powered off"));
	vm_close(&vm);

	vm_open(&vm, 1);
	vm_fill(&vm, guest_fault, GUEST_SIZE(guest_fault));
	vm_run(&vm);
	loop_until_end(&vm);
	CHECK(vm.ended == 0 && *vm.why);
	vm_close(&vm);
}

static void an_empty_machine_does_not_run(void)
{
	struct test_vm vm;
	struct err err = { 0 };
	const struct vmm_boot boot = { .kernel_fd = open("/dev/null", O_RDONLY | O_CLOEXEC),
				       .initrd_fd = -1,
				       .cmdline = "" };

	vm_open(&vm, 1);
	CHECK(vmm_run(vm.vmm, &err) == -EBUSY);
	CHECK(vmm_boot(vm.vmm, &boot, &err) == -EINVAL);
	CHECK(vmm_run(vm.vmm, &err) == -EBUSY);
	CHECK(vmm_boot(vm.vmm, &boot, &err) == -EBUSY);
	close(boot.kernel_fd);
	vm_close(&vm);
}

/* Load these bytes into a fresh machine. */
static int load_bytes(const uint8_t *bytes, size_t n, unsigned cpus, struct err *err)
{
	struct test_vm vm;
	struct reader reader = reader_init(bytes, n);
	int rc;

	vm_open(&vm, cpus);
	CHECK(guest_memory_map_zero(&vm.vmm->memory, err) == 0 && devices_add(vm.vmm, NULL, err) == 0);
	rc = state_parse(vm.vmm, &reader, err);
	vm_close(&vm);
	return rc;
}

static void hostile_states_are_refused(void)
{
	struct test_vm vm;
	struct buf buf = { 0 };
	struct err err = { 0 };
	uint8_t *bytes;
	size_t i;

	vm_open(&vm, 1);
	vm_fill(&vm, guest_count, GUEST_SIZE(guest_count));
	vm_run(&vm);
	vm_expect_step(&vm);
	vm_stop(&vm);
	CHECK(state_save(vm.vmm, &buf, &err) == 0);
	vm_close(&vm);
	bytes = buf_bytes(&buf);

	CHECK(load_bytes(bytes, buf.len, 1, &err) == 0);
	CHECK(load_bytes(bytes, buf.len, 2, &err) == -EINVAL && strstr(err.text, "CPUs"));
	for (i = 0; i < buf.len; i += i < 64 ? 1 : 977)
		CHECK(load_bytes(bytes, i, 1, &err) == -EINVAL);
	bytes[8]++; /* version */
	CHECK(load_bytes(bytes, buf.len, 1, &err) == -EINVAL && strstr(err.text, "format 4"));
	bytes[8]--;
	/* A length in the middle that goes past the end. */
	memset(bytes + 16, 0xff, 4);
	CHECK(load_bytes(bytes, buf.len, 1, &err) == -EINVAL && strstr(err.text, "cut short"));
	buf_release(&buf);
}

int main(void)
{
	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		printf("skipped: no /dev/kvm\n");
		return 0;
	}
	TEST(an_empty_machine_does_not_run);
	TEST(a_guest_runs_and_stops_and_runs);
	TEST(registers_and_memory_survive);
	TEST(zero_pages_are_holes);
	TEST(a_capture_of_a_fork_is_what_it_wrote);
	TEST(pages_far_and_wide_are_few_runs);
	TEST(a_timer_fires_in_every_fork);
	TEST(two_cpus_survive);
	TEST(the_end_of_a_guest_is_told);
	TEST(hostile_states_are_refused);
	return 0;
}
