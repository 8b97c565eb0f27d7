/* SPDX-License-Identifier: MIT */
/*
 * test_kvm_engine.c - the kvm engine: sbx-vmm processes from boot to end, when things go well and when not
 *
 * The guest is a kernel file of hand-made code that runs on any /dev/kvm. It waits for a letter on its serial
 * port: '+' counts and answers with the digit, 'q' powers off, 'f' makes a fault no CPU survives. The program
 * is run from the build directory, where sbx-vmm is.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/bzimage.h"
#include "tests/unit/engine_fixture.h"

enum { WAIT_MS = 60000, SETUP_SECTS = 1 };

extern const char engine_guest[], engine_guest_end[];
__asm__(".pushsection .rodata\n"
	"engine_guest: xor %ebx, %ebx\n"
	"mov $'0', %bl\n"
	"1: mov $0x3fd, %edx\n" /* line status: is there a character? */
	"in %dx, %al\n"
	"test $1, %al\n"
	"jz 1b\n"
	"mov $0x3f8, %edx\n"
	"in %dx, %al\n"
	"cmp $'q', %al\n"
	"je 2f\n"
	"cmp $'f', %al\n"
	"je 3f\n"
	"inc %ebx\n"
	"mov %ebx, %eax\n"
	"out %al, %dx\n"
	"jmp 1b\n"
	"2: mov $0x600, %edx\n"
	"mov $0x34, %al\n"
	"out %al, %dx\n"
	"jmp 1b\n"
	"3: ud2\n"
	"engine_guest_end:\n"
	".popsection\n");

static const struct shape shape = { .memory = 32 << 20, .memory_max = 32 << 20, .cpus = 1, .cpus_max = 2 };

/* ---- events */

static void await(unsigned *count)
{
	const uint64_t limit = now_mono_ns() + WAIT_MS * 1000000ull;

	while (!*count && now_mono_ns() < limit)
		CHECK(loop_once(env.loop, 1000) == 0);
	CHECK(*count == 1);
	*count = 0;
}

static void await_success(void)
{
	await(&ndone);
	if (done_err.code)
		fprintf(stderr, "%s\n", done_err.text);
	CHECK(done_err.code == 0);
}

/* ---- files */

/* A bzImage: a sector of setup with the header, another one, and the kernel, entered at 0x200. */
static void make_kernel(const char *path)
{
	static uint8_t file[(SETUP_SECTS + 1) * 512 + 4096];
	const struct setup_header header = bzimage_header(SETUP_SECTS, 1 << 20, 4096);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	memcpy(file + 0x1f1, &header, sizeof(header));
	memcpy(file + (SETUP_SECTS + 1) * 512 + 0x200, engine_guest,
	       (size_t)((uintptr_t)engine_guest_end - (uintptr_t)engine_guest));
	CHECK(fd >= 0 && write(fd, file, sizeof(file)) == sizeof(file) && close(fd) == 0);
}

/* ---- machines */

static struct vm *boot(char disk[PATH_MAX])
{
	struct vm *vm;
	struct err err;

	make_overlay(NULL, disk);
	CHECK(engine_kvm.boot(&env, &shape, disk, &events, NULL, on_done, NULL, &vm, &err) == 0);
	await_success();
	return vm;
}

/* Let it count; the digit. */
static char count(const struct vm *vm)
{
	struct pollfd pfd = { .fd = engine_kvm.ends(vm).console, .events = POLLIN };
	char c = '+';

	CHECK(write(pfd.fd, &c, 1) == 1);
	CHECK(poll(&pfd, 1, WAIT_MS) == 1 && read(pfd.fd, &c, 1) == 1);
	return c;
}

static void tell(const struct vm *vm, char c)
{
	CHECK(write(engine_kvm.ends(vm).console, &c, 1) == 1);
}

static struct template *capture(struct vm *vm, char disk[PATH_MAX])
{
	char next[PATH_MAX];

	engine_kvm.pause(vm, on_done, NULL);
	await_success();
	make_overlay(disk, next);
	engine_kvm.capture(vm, next, &capture_calls);
	await(&nfrozen);
	engine_kvm.resume(vm, on_done, NULL); /* while RAM is copied */
	await_success();
	while (!ncaptured)
		CHECK(loop_once(env.loop, WAIT_MS) == 0);
	await(&ncaptured);
	CHECK(captured_err.code == 0 && !strcmp(captured->engine, "kvm") && captured->pause_ns > 0);
	CHECK(captured->ram_size == shape.memory_max && captured->shape.cpus_max == 2);
	memcpy(disk, next, PATH_MAX);
	return captured;
}

/* A running fork, on an overlay of its own on the template's disk. */
static struct vm *fork_of(struct template *template, const char *base, char disk[PATH_MAX])
{
	struct vm *vm;
	struct err err;

	make_overlay(base, disk);
	CHECK(engine_kvm.prepare(&env, template, disk, NULL, NULL, on_done, NULL, &vm, &err) == 0);
	await_success();
	engine_kvm.start(vm, &events, NULL, on_done, NULL);
	await_success();
	return vm;
}

/* ---- tests */

static void forks_go_on_where_their_source_was(void)
{
	char disk[PATH_MAX], layer[PATH_MAX], fork_disk[PATH_MAX], fork_layer[PATH_MAX], other[PATH_MAX];
	struct template *first, *second;
	struct vm *source, *fork, *grandchild;
	struct vm_usage usage;

	source = boot(disk);
	CHECK(count(source) == '1');
	CHECK(count(source) == '2');
	memcpy(layer, disk, PATH_MAX);
	first = capture(source, disk);
	CHECK(count(source) == '3');
	CHECK(count(source) == '4');
	fork = fork_of(first, layer, fork_disk);
	CHECK(count(fork) == '3' && count(source) == '5');
	CHECK(engine_kvm.pid(fork) > 0 && engine_kvm.usage(fork, &usage) == 0 && usage.exits > 0);

	/* A fork of a fork, and of the same source again. */
	memcpy(fork_layer, fork_disk, PATH_MAX);
	second = capture(fork, fork_disk);
	engine_kvm.destroy(fork);
	grandchild = fork_of(second, fork_layer, other);
	CHECK(count(grandchild) == '4');
	fork = fork_of(first, layer, other);
	CHECK(count(fork) == '3');
	template_unref(first);
	CHECK(count(fork) == '4'); /* it holds what it maps */

	engine_kvm.destroy(fork);
	engine_kvm.destroy(grandchild);
	engine_kvm.destroy(source);
	template_unref(second);
}

static void a_paused_machine_stands_still(void)
{
	struct vm *vm;
	char disk[PATH_MAX];
	struct pollfd pfd = { .events = POLLIN };

	vm = boot(disk);
	pfd.fd = engine_kvm.ends(vm).console;
	CHECK(count(vm) == '1');
	engine_kvm.pause(vm, on_done, NULL);
	await_success();
	engine_kvm.pause(vm, on_done, NULL);
	await_success();
	tell(vm, '+');
	CHECK(poll(&pfd, 1, 50) == 0);
	engine_kvm.resume(vm, on_done, NULL);
	await_success();
	CHECK(poll(&pfd, 1, WAIT_MS) == 1);
	engine_kvm.resume(vm, on_done, NULL);
	await_success();
	engine_kvm.destroy(vm);
}

/* Whoever started it hears of it alone. */
static void on_prepared_nobody(void *arg, const struct err *err)
{
	(void)arg;
	(void)err;
	CHECK(false);
}

static void start_may_come_before_prepared(void)
{
	char disk[PATH_MAX], layer[PATH_MAX];
	struct template *template;
	struct vm *source, *fork;
	struct err err;
	unsigned i;

	source = boot(disk);
	memcpy(layer, disk, PATH_MAX);
	template = capture(source, disk);
	/* More than the pool has ready, so that some wait for their process to be made. */
	for (i = 0; i < 6; i++) {
		make_overlay(layer, disk);
		CHECK(engine_kvm.prepare(&env, template, disk, NULL, NULL, on_prepared_nobody, NULL, &fork,
					 &err) == 0);
		engine_kvm.start(fork, &events, NULL, on_done, NULL);
		while (!ndone)
			CHECK(loop_once(env.loop, WAIT_MS) == 0 && !done_err.code);
		ndone = 0;
		CHECK(count(fork) == '1');
		engine_kvm.destroy(fork);
	}
	engine_kvm.destroy(source);
	template_unref(template);
}

static void the_end_is_told_once(void)
{
	char disk[PATH_MAX];
	struct vm *vm;

	vm = boot(disk);
	tell(vm, 'q');
	await(&nexited);
	CHECK(exit_clean && !strcmp(exit_why, "the guest powered off"));
	CHECK(engine_kvm.pid(vm) == -1);
	engine_kvm.pause(vm, on_done, NULL); /* too late, and said so */
	CHECK(!ndone);
	await(&ndone);
	CHECK(done_err.code == -EHOSTDOWN);
	engine_kvm.destroy(vm);

	vm = boot(disk);
	tell(vm, 'f');
	await(&nexited);
	CHECK(!exit_clean && *exit_why);
	engine_kvm.destroy(vm);

	vm = boot(disk);
	CHECK(kill(engine_kvm.pid(vm), SIGKILL) == 0);
	await(&nexited);
	CHECK(!exit_clean && strstr(exit_why, "signal 9"));
	engine_kvm.destroy(vm);
	CHECK(!ndone && !nexited);
}

static void what_fails_says_why(void)
{
	char disk[PATH_MAX], missing[PATH_MAX];
	struct template *template, bad;
	struct vm *vm, *fork;
	struct err err;
	int rc;

	snprintf(missing, sizeof(missing), "%s/missing.qcow2", dir);
	CHECK(engine_kvm.boot(&env, &shape, missing, &events, NULL, on_done, NULL, &vm, &err) == -EINVAL);
	CHECK(strstr(err.text, "missing.qcow2 is missing") && !ndone);

	/* A capture onto a disk that is not there: the machine goes on, and can be captured. */
	vm = boot(disk);
	CHECK(count(vm) == '1');
	engine_kvm.pause(vm, on_done, NULL);
	await_success();
	engine_kvm.capture(vm, missing, &capture_calls);
	await(&ncaptured);
	CHECK(captured_err.code == -EINVAL && !nfrozen);
	engine_kvm.resume(vm, on_done, NULL);
	await_success();
	CHECK(count(vm) == '2');
	template = capture(vm, disk);

	/* A state that is none. */
	bad = *template;
	bad.refs = 2;
	bad.state_fd = memfd_create("bad", MFD_CLOEXEC);
	rc = (int)write(bad.state_fd, "nonsense", 8);
	CHECK(rc == 8);
	CHECK(engine_kvm.prepare(&env, &bad, disk, &events, NULL, on_done, NULL, &fork, &err) == 0);
	await(&ndone);
	CHECK(done_err.code == -EINVAL && strstr(done_err.text, "not a machine saved"));
	engine_kvm.start(fork, &events, NULL, on_done, NULL);
	await(&ndone);
	CHECK(done_err.code == -EBUSY);
	engine_kvm.destroy(fork);
	close(bad.state_fd);
	template_unref(template);
	engine_kvm.destroy(vm);
}

static void a_destroyed_machine_is_silent(void)
{
	char disk[PATH_MAX], next[PATH_MAX];
	struct vm *vm;
	struct err err;
	int round, i;

	for (round = 0; round < 6; round++) {
		make_overlay(NULL, disk);
		CHECK(engine_kvm.boot(&env, &shape, disk, &events, NULL, on_done, NULL, &vm, &err) == 0);
		if (round >= 2) {
			await_success();
			engine_kvm.pause(vm, on_done, NULL);
		}
		if (round >= 3) {
			await_success();
			make_overlay(disk, next);
			engine_kvm.capture(vm, next, &capture_calls);
		}
		if (round >= 4)
			await(&nfrozen);
		if (round == 5)
			kill(engine_kvm.pid(vm), SIGKILL);
		engine_kvm.destroy(vm);
		for (i = 0; i < 20; i++)
			CHECK(loop_once(env.loop, 5) == 0);
		CHECK(!ndone && !nfrozen && !ncaptured && !nexited);
	}
}

/* Run a test, then see that it has left nothing. */
static void clean(void (*test)(void))
{
	const unsigned before = open_fds();

	test();
	engine_kvm.shutdown();
	while (process_count())
		CHECK(loop_once(env.loop, WAIT_MS) == 0);
	CHECK(loop_once(env.loop, 0) == 0 && open_fds() == before);
	CHECK(!ndone && !nfrozen && !ncaptured && !nexited);
}

#define CLEAN_TEST(test)                                                                                     \
	do {                                                                                                 \
		clean(test);                                                                                 \
		printf("ok %s\n", #test);                                                                    \
		fflush(stdout);                                                                              \
	} while (0)

int main(void)
{
	char kernel[PATH_MAX], libexec[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", libexec, sizeof(libexec) - 1);
	struct err err = { 0 };

	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		printf("skipped: no /dev/kvm\n");
		return 0;
	}
	CHECK(n > 0);
	libexec[n] = '\0';
	scratch_dir(dir);
	snprintf(kernel, sizeof(kernel), "%s/kernel", dir);
	make_kernel(kernel);
	env = (struct engine_env){ .loop = loop_new(),
				   .kernel = kernel,
				   .initrd = kernel, /* the guest does not look at it */
				   .libexec = dirname(dirname(libexec)) };
	CHECK(env.loop);
	jail = (struct jail_config){ .uid_first = JAIL_UID_FIRST,
				     .uid_last = JAIL_UID_LAST,
				     .libexec = env.libexec,
				     .kernel = kernel,
				     .initrd = kernel,
				     .layers = dir };
	if (launcher_start(&jail, &err))
		fprintf(stderr, "%s\n", err.text);
	CHECK(!err.code && launcher_layers() >= 0); /* it stays open */
	CLEAN_TEST(forks_go_on_where_their_source_was);
	CLEAN_TEST(a_paused_machine_stands_still);
	CLEAN_TEST(start_may_come_before_prepared);
	CLEAN_TEST(the_end_is_told_once);
	CLEAN_TEST(what_fails_says_why);
	CLEAN_TEST(a_destroyed_machine_is_silent);
	launcher_stop();
	loop_free(env.loop);
	return 0;
}
