/* SPDX-License-Identifier: MIT */
/*
 * bench_kvm.c - how long a fork takes to its first guest instruction, without a guest kernel
 *
 * The guest is a loop of hand-made code, so this runs on any /dev/kvm. It touches `touch` MiB of its RAM and
 * is captured; then forks of it are timed to their first exit, which is an access to the serial port:
 *
 *   floor      the KVM calls alone: VM, memory slot over a private mapping of the template, irqchip, vCPU,
 *              registers, one exit
 *   cold       a sbx-vmm process from posix_spawn(3) to that exit
 *   generic    a sbx-vmm process with an empty machine, given the template
 *   restored   one that has loaded it, told to run
 *   empty_call a request to such a process that does nothing: what of the above is the socket
 *
 * Besides, the pause and the whole of a capture, of the machine that booted and of a fork that has written to
 * as much. One JSON object a line; times in microseconds.
 *
 * usage: bench_kvm [-n ROUNDS] [-m MIB] [-t TOUCHED_MIB] LIBEXEC
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/die.h"
#include "util/loop.h"
#include "util/message.h"
#include "vm/vmm/boot.h"
#include "vm/vmm/control.h"
#include "vm/vmm/freeze.h"
#include "vm/vmm/vmm.h"

enum { CODE = 0x100000 };

/* Says 'x' for ever. */
extern const char bench_guest[], bench_guest_end[];
__asm__(".pushsection .rodata\n"
	"bench_guest: mov $0x3f8, %edx\n"
	"mov $'x', %al\n"
	"1: out %al, %dx\n"
	"jmp 1b\n"
	"bench_guest_end:\n"
	".popsection\n");

struct bench {
	unsigned rounds;
	uint64_t memory, touched;
	const char *libexec;
	int ram_fd, state_fd;
};

static int compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Of sorted times. */
static double percentile_us(const uint64_t *ns, unsigned n, unsigned percent)
{
	const unsigned at = n * percent / 100;

	return (double)ns[at] / 1000;
}

static void report(const char *name, uint64_t *ns, unsigned n)
{
	qsort(ns, n, sizeof(*ns), compare);
	printf("{\"name\": \"%s\", \"n\": %u, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f}\n", name,
	       n, percentile_us(ns, n, 50), percentile_us(ns, n, 90), percentile_us(ns, n, 99));
	fflush(stdout);
}

/* ---- the source */

struct source {
	struct loop *loop;
	struct vmm *vmm;
	struct vmm_stats stats;
	int console;
	bool done;
	int ram_fd, state_fd;
};

static void on_ended(void *arg, bool clean, const char *why)
{
	(void)arg;
	(void)clean;
	die("the guest ended: %s", why);
}

static void on_captured(void *arg, const struct err *err, const struct template_files *files)
{
	struct source *source = arg;

	if (err->code)
		die("%s", err->text);
	source->done = true;
	source->ram_fd = dup(files->ram);
	source->state_fd = dup(files->state);
}

static void wait_console(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	char c;

	if (poll(&pfd, 1, 10000) != 1 || read(fd, &c, 1) != 1)
		die("the guest says nothing");
}

static void source_open(struct source *source, const struct bench *bench)
{
	struct vmm_config config = { .memory = bench->memory,
				     .cpus = 1,
				     .agent_fd = -1,
				     .net_fd = -1,
				     .stats = &source->stats,
				     .ended = on_ended };
	struct err err;
	int fds[2];

	memset(source, 0, sizeof(*source));
	source->loop = loop_new();
	if (!source->loop || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
		die("%m");
	source->console = fds[0];
	config.console_fd = fds[1];
	if (vmm_create(source->loop, &config, &source->vmm, &err))
		die("%s", err.text);
}

static void source_close(struct source *source)
{
	vmm_free(source->vmm);
	loop_free(source->loop);
	close(source->console);
}

static void touch(struct vmm *vmm, const struct bench *bench)
{
	memset(guest_ptr(&vmm->memory, 2 << 20, bench->touched), 0x5a, bench->touched);
}

/* As a machine that booted. */
static void source_boot(struct source *source, const struct bench *bench)
{
	struct vmm *vmm;
	struct err err;

	source_open(source, bench);
	vmm = source->vmm;
	if (guest_memory_map_zero(&vmm->memory, &err) || devices_add(vmm, NULL, &err) ||
	    boot_write_tables(&vmm->memory, &err) || boot_set_registers(vmm->vcpus[0].fd, CODE, &err))
		die("%s", err.text);
	memcpy(guest_ptr(&vmm->memory, CODE, 4096), bench_guest,
	       (size_t)((uintptr_t)bench_guest_end - (uintptr_t)bench_guest));
	touch(vmm, bench);
	vmm->content = VMM_FULL;
}

/* As a fork that has written to all of that again, for which it has small pages of its own. */
static void source_fork(struct source *source, const struct bench *bench)
{
	struct err err;
	const struct guest_template ram = { .ram_fd = dup(bench->ram_fd), .overlay_fd = -1, .map_fd = -1 };

	source_open(source, bench);
	if (vmm_load(source->vmm, &ram, bench->state_fd, NULL, &err))
		die("%s", err.text);
	touch(source->vmm, bench);
}

/* Capture it up to 20 times, and keep the last capture. */
static void capture_often(struct source *source, const struct bench *bench, const char *pause_name,
			  const char *whole_name)
{
	uint64_t pause[20] = { 0 }, whole[20] = { 0 }, start;
	struct freeze *capture;
	struct err err;
	unsigned i, n = bench->rounds < 20 ? bench->rounds : 20;

	for (i = 0; i < n; i++) {
		pthread_mutex_lock(&source->vmm->lock);
		if (vmm_run(source->vmm, &err))
			die("%s", err.text);
		pthread_mutex_unlock(&source->vmm->lock);
		wait_console(source->console);
		source->done = false;
		start = now_mono_ns();
		pthread_mutex_lock(&source->vmm->lock);
		if (vmm_stop(source->vmm, &err) ||
		    freeze_start(source->vmm, NULL, -1, on_captured, source, &capture, &err))
			die("%s", err.text);
		pause[i] = now_mono_ns() - start;
		pthread_mutex_unlock(&source->vmm->lock);
		while (!source->done)
			loop_once(source->loop, -1);
		whole[i] = now_mono_ns() - start;
		if (i + 1 < n) {
			close(source->ram_fd);
			close(source->state_fd);
		}
	}
	report(pause_name, pause, n);
	report(whole_name, whole, n);
}

/* The capture of the machine that booted is what all that follows forks. */
static void bench_capture(struct bench *bench)
{
	struct source source;

	source_boot(&source, bench);
	capture_often(&source, bench, "capture_pause", "capture");
	bench->ram_fd = source.ram_fd;
	bench->state_fd = source.state_fd;
	source_close(&source);

	source_fork(&source, bench);
	capture_often(&source, bench, "fork_capture_pause", "fork_capture");
	close(source.ram_fd);
	close(source.state_fd);
	source_close(&source);
}

/* ---- the floor */

static void set_floor_registers(int vcpu)
{
	struct err err;

	if (boot_set_registers(vcpu, CODE, &err))
		die("%s", err.text);
}

static uint64_t floor_once(int kvm_fd, const struct bench *bench, int run_size)
{
	const uint64_t start = now_mono_ns();
	struct kvm_userspace_memory_region region = { .memory_size = bench->memory };
	struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP };
	struct kvm_run *run;
	uint64_t ns;
	int vm, vcpu;
	void *ram;

	vm = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	ram = mmap(NULL, bench->memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, bench->ram_fd,
		   0);
	region.userspace_addr = (uintptr_t)ram;
	if (vm < 0 || ram == MAP_FAILED || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0 ||
	    ioctl(vm, KVM_ENABLE_CAP, &cap) < 0)
		die("floor: %m");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	run = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (vcpu < 0 || run == MAP_FAILED)
		die("floor: %m");
	set_floor_registers(vcpu);
	if (ioctl(vcpu, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_IO)
		die("floor: exit reason %u", run->exit_reason);
	ns = now_mono_ns() - start;
	munmap(run, (size_t)run_size);
	close(vcpu);
	close(vm);
	munmap(ram, bench->memory);
	return ns;
}

static void bench_floor(const struct bench *bench)
{
	uint64_t *ns = calloc(bench->rounds, sizeof(*ns));
	int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int run_size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	unsigned i;

	if (kvm_fd < 0)
		die("/dev/kvm: %m");
	for (i = 0; i < bench->rounds; i++)
		ns[i] = floor_once(kvm_fd, bench, run_size);
	report("floor", ns, bench->rounds);
	close(kvm_fd);
	free(ns);
}

/* ---- processes */

struct child {
	pid_t pid;
	int control, console;
	int stats; /* only kept open */
};

static void child_start(struct child *child, const struct bench *bench)
{
	char program[4096], args[4][24];
	const char *const argv[] = { program, "--control", args[0], "--console", args[1], "--stats",
				     args[2], "--memory",  args[3], "--cpus",    "1",     NULL };
	int control[2], console[2], rc;

	child->stats = memfd_create("stats", 0);
	if (child->stats < 0 || ftruncate(child->stats, sizeof(struct vmm_stats)) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, control) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM, 0, console) < 0)
		die("%m");
	/* The child must not hold our ends open: it ends when we do. */
	(void)fcntl(control[0], F_SETFD, FD_CLOEXEC);
	(void)fcntl(console[0], F_SETFD, FD_CLOEXEC);
	snprintf(program, sizeof(program), "%s/sbx-vmm", bench->libexec);
	snprintf(args[0], sizeof(args[0]), "%d", control[1]);
	snprintf(args[1], sizeof(args[1]), "%d", console[1]);
	snprintf(args[2], sizeof(args[2]), "%d", child->stats);
	snprintf(args[3], sizeof(args[3]), "%llu", (unsigned long long)bench->memory);
	rc = posix_spawn(&child->pid, program, NULL, NULL, (char *const *)argv, environ);
	if (rc)
		die("cannot start %s: %s", program, strerror(rc));
	close(control[1]);
	close(console[1]);
	child->control = control[0];
	child->console = console[0];
}

static void child_end(struct child *child)
{
	kill(child->pid, SIGKILL);
	waitpid(child->pid, NULL, 0);
	close(child->control);
	close(child->console);
	close(child->stats);
}

static void expect(struct child *child, enum control_type type)
{
	struct pollfd pfd = { .fd = child->control, .events = POLLIN };
	struct control_reply reply;
	int fds[CONTROL_REPLY_FDS];

	if (poll(&pfd, 1, 10000) != 1 || message_recv(child->control, &reply, sizeof(reply), NULL, fds,
						      CONTROL_REPLY_FDS, MSG_DONTWAIT) < 0)
		die("sbx-vmm does not answer");
	if (reply.type != (uint32_t)type || reply.code)
		die("sbx-vmm: %s", reply.text);
}

static void send_request(struct child *child, enum control_type type, const struct bench *bench)
{
	const struct control_request request = { .type = type };
	const int fds[] = { bench->ram_fd, bench->state_fd };

	if (message_send(child->control, &request, sizeof(request), fds, type == CONTROL_LOAD ? 2 : 0))
		die("cannot send to sbx-vmm");
}

enum readiness { COLD, GENERIC, RESTORED };

static void bench_forks(const struct bench *bench, const char *name, enum readiness readiness)
{
	uint64_t *ns = calloc(bench->rounds, sizeof(*ns)), start;
	struct child child;
	unsigned i;

	for (i = 0; i < bench->rounds; i++) {
		start = now_mono_ns();
		child_start(&child, bench);
		if (readiness >= GENERIC) {
			expect(&child, CONTROL_READY);
			start = now_mono_ns();
		}
		send_request(&child, CONTROL_LOAD, bench);
		if (readiness == RESTORED) {
			expect(&child, CONTROL_DONE);
			start = now_mono_ns();
		}
		send_request(&child, CONTROL_RUN, bench);
		wait_console(child.console);
		ns[i] = now_mono_ns() - start;
		child_end(&child);
	}
	report(name, ns, bench->rounds);
	free(ns);
}

static void bench_call(const struct bench *bench)
{
	uint64_t *ns = calloc(bench->rounds, sizeof(*ns)), start;
	struct child child;
	unsigned i;

	child_start(&child, bench);
	expect(&child, CONTROL_READY);
	send_request(&child, CONTROL_STOP, bench);
	expect(&child, CONTROL_DONE);
	for (i = 0; i < bench->rounds; i++) {
		start = now_mono_ns();
		send_request(&child, CONTROL_STOP, bench); /* it stands already */
		expect(&child, CONTROL_DONE);
		ns[i] = now_mono_ns() - start;
	}
	child_end(&child);
	report("empty_call", ns, bench->rounds);
	free(ns);
}

int main(int argc, char **argv)
{
	struct bench bench = { .rounds = 200, .memory = 256 << 20, .touched = 64 << 20 };
	int c;

	while ((c = getopt(argc, argv, "n:m:t:")) != -1) {
		if (c == 'n')
			bench.rounds = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 'm')
			bench.memory = strtoull(optarg, NULL, 10) << 20;
		else if (c == 't')
			bench.touched = strtoull(optarg, NULL, 10) << 20;
	}
	if (optind + 1 != argc || !bench.rounds || bench.touched + (2 << 20) > bench.memory ||
	    bench.memory > GUEST_LOW_MAX)
		die("usage: bench_kvm [-n ROUNDS] [-m MIB] [-t TOUCHED_MIB] LIBEXEC");
	bench.libexec = argv[optind];
	bench_capture(&bench);
	bench_floor(&bench);
	bench_forks(&bench, "cold", COLD);
	bench_forks(&bench, "generic", GENERIC);
	bench_forks(&bench, "restored", RESTORED);
	bench_call(&bench);
	return 0;
}
