/* SPDX-License-Identifier: MIT */
/*
 * test_qemu.c - the qemu engine when things go wrong
 *
 * The guest is a kernel in its first moments; nobody waits for it to come up, since a machine can be paused,
 * captured and forked at any time. What counts here: every callback comes once or, after a destroy, not at
 * all, and neither a descriptor nor a process is left.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/engine_fixture.h"
#include "vm/qemu/vm.h"

enum { WAIT_MS = 30000 };

static const struct shape shape = { .memory = 256 << 20, .memory_max = 256 << 20, .cpus = 1, .cpus_max = 2 };

static void reset(void)
{
	CHECK(!exit_clean);
	ndone = nfrozen = ncaptured = nexited = 0;
	captured = NULL;
}

static void await(const unsigned *count)
{
	const uint64_t limit = now_mono_ns() + WAIT_MS * 1000000ull;

	while (!*count && now_mono_ns() < limit)
		loop_once(env.loop, 1000);
	CHECK(*count == 1);
}

/* A running machine. */
static struct vm *boot(char disk[PATH_MAX])
{
	struct vm *vm;

	reset();
	make_overlay(NULL, disk);
	CHECK(!engine_qemu.boot(&env, &shape, disk, &events, NULL, on_done, NULL, &vm, NULL));
	await(&ndone);
	CHECK(!done_err.code);
	reset();
	return vm;
}

static void pause_vm(struct vm *vm)
{
	engine_qemu.pause(vm, on_done, NULL);
	CHECK(!ndone); /* never from inside the call */
	await(&ndone);
	CHECK(!done_err.code);
	reset();
}

static struct template *template_of(struct vm *vm, const char *disk, char next[PATH_MAX])
{
	make_overlay(disk, next);
	engine_qemu.capture(vm, next, &capture_calls);
	await(&ncaptured);
	CHECK(!captured_err.code && nfrozen == 1);
	return captured;
}

/* Let what is under way go on for n rounds of events. */
static void rounds(unsigned n)
{
	while (n--)
		loop_once(env.loop, 100);
}

static void settle(void)
{
	unsigned i;

	for (i = 0; i < 100 && process_count(); i++)
		loop_once(env.loop, 100);
	CHECK(!process_count() && !exit_clean);
	/* A thread of an aborted capture may still have its descriptors. */
	rounds(2);
}

static void a_machine_leaves_nothing(void)
{
	const unsigned before = open_fds();
	char disk[PATH_MAX], next[PATH_MAX], fork_disk[PATH_MAX];
	struct template *template;
	struct vm *vm, *child;

	vm = boot(disk);
	CHECK(engine_qemu.ends(vm).agent >= 0 && engine_qemu.ends(vm).console >= 0 &&
	      engine_qemu.ends(vm).net >= 0 && engine_qemu.pid(vm) > 0);
	pause_vm(vm);
	template = template_of(vm, disk, next);
	CHECK(template->ram_size == shape.memory && template->pause_ns > 0);
	reset();
	engine_qemu.resume(vm, on_done, NULL);
	await(&ndone);
	CHECK(!done_err.code);
	reset();
	make_overlay(disk, fork_disk);
	CHECK(!engine_qemu.prepare(&env, template, fork_disk, NULL, NULL, on_done, NULL, &child, NULL));
	template_unref(template);
	await(&ndone);
	CHECK(!done_err.code);
	reset();
	engine_qemu.start(child, &events, NULL, on_done, NULL);
	await(&ndone);
	CHECK(!done_err.code && !nexited);
	engine_qemu.destroy(vm);
	engine_qemu.destroy(child);
	settle();
	CHECK(open_fds() == before);
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
	char disk[PATH_MAX], next[PATH_MAX], fork_disk[PATH_MAX];
	struct template *template;
	struct vm *vm, *child;
	unsigned rounds = 0;

	vm = boot(disk);
	pause_vm(vm);
	template = template_of(vm, disk, next);
	reset();
	make_overlay(disk, fork_disk);
	CHECK(!engine_qemu.prepare(&env, template, fork_disk, NULL, NULL, on_prepared_nobody, NULL, &child,
				   NULL));
	engine_qemu.start(child, &events, NULL, on_done, NULL);
	while (!ndone && rounds++ < 1000)
		loop_once(env.loop, 100);
	CHECK(ndone == 1 && !done_err.code && !nexited);
	engine_qemu.destroy(child);
	engine_qemu.destroy(vm);
	template_unref(template);
	settle();
}

static void a_killed_machine_says_so_once(void)
{
	char disk[PATH_MAX];
	struct vm *vm = boot(disk);

	kill(engine_qemu.pid(vm), SIGKILL);
	await(&nexited);
	CHECK(strstr(exit_why, "signal 9"));
	CHECK(engine_qemu.pid(vm) == -1);
	engine_qemu.pause(vm, on_done, NULL);
	CHECK(!ndone);
	await(&ndone);
	CHECK(done_err.code == -EHOSTDOWN);
	engine_qemu.capture(vm, "/none", &capture_calls);
	CHECK(!ncaptured);
	await(&ncaptured);
	CHECK(captured_err.code == -EHOSTDOWN && !nfrozen && nexited == 1);
	engine_qemu.destroy(vm);
	settle();
}

static void a_boot_that_fails_gives_qemus_reason(void)
{
	const uint32_t entries = htobe32(INT32_MAX);
	const uint64_t nowhere = ~0ull;
	char disk[PATH_MAX];
	struct vm *vm;
	struct err err;
	int fd;

	reset();
	CHECK(engine_qemu.boot(&env, &shape, "/none/disk.qcow2", &events, NULL, on_done, NULL, &vm, &err) ==
	      -ENOENT);
	CHECK(strstr(err.text, "/none"));
	/* A refcount table at a place where none can be: whoever asks for the reason or not, it is no disk. */
	make_overlay(NULL, disk);
	fd = open(disk, O_WRONLY | O_CLOEXEC);
	CHECK(pwrite(fd, &nowhere, sizeof(nowhere), 48) == sizeof(nowhere));
	CHECK(engine_qemu.boot(&env, &shape, disk, &events, NULL, on_done, NULL, &vm, NULL) == -EINVAL);
	close(fd);
	/* An L1 table with more entries than any disk of ours needs, and than QEMU takes. */
	make_overlay(NULL, disk);
	fd = open(disk, O_WRONLY | O_CLOEXEC);
	CHECK(pwrite(fd, &entries, sizeof(entries), 36) == sizeof(entries));
	close(fd);
	CHECK(!engine_qemu.boot(&env, &shape, disk, &events, NULL, on_done, NULL, &vm, NULL));
	await(&ndone);
	CHECK(done_err.code < 0 && strstr(done_err.text, "L1 table"));
	CHECK(nexited == 1);
	engine_qemu.destroy(vm);
	settle();
}

static void a_capture_that_fails_changes_nothing(void)
{
	char disk[PATH_MAX], next[PATH_MAX];
	struct vm *vm = boot(disk);

	pause_vm(vm);
	engine_qemu.capture(vm, "/none/next.qcow2", &capture_calls);
	await(&ncaptured);
	CHECK(captured_err.code < 0 && strstr(captured_err.text, "/none") && !nfrozen);
	reset();
	template_unref(template_of(vm, disk, next));
	reset();
	engine_qemu.resume(vm, on_done, NULL);
	await(&ndone);
	CHECK(!done_err.code && !nexited);
	engine_qemu.destroy(vm);
	settle();
}

/* A machine whose capture has gone on for n rounds of events. */
static struct vm *capturing(unsigned n)
{
	char disk[PATH_MAX], next[PATH_MAX];
	struct vm *vm = boot(disk);

	pause_vm(vm);
	make_overlay(disk, next);
	engine_qemu.capture(vm, next, &capture_calls);
	rounds(n);
	return vm;
}

static void a_machine_may_die_at_any_point_of_a_capture(void)
{
	const unsigned before = open_fds();
	struct vm *vm;
	unsigned i;

	for (i = 0; i < 8; i++) {
		vm = capturing(i);
		CHECK(engine_qemu.pid(vm) > 0);
		kill(engine_qemu.pid(vm), SIGKILL);
		await(&nexited);
		await(&ncaptured);
		/* It may have been complete by then; it is never half a template. */
		if (captured) {
			CHECK(nfrozen == 1 && captured->ram_fd >= 0 && captured->state_fd >= 0);
			template_unref(captured);
		}
		engine_qemu.destroy(vm);
		settle();
		CHECK(nexited == 1 && ncaptured == 1);
	}
	CHECK(open_fds() == before);
}

static void a_capture_may_be_destroyed_at_any_point(void)
{
	const unsigned before = open_fds();
	struct vm *vm;
	unsigned i, was;

	for (i = 0; i < 8; i++) {
		vm = capturing(i);
		was = ncaptured;
		engine_qemu.destroy(vm);
		settle();
		CHECK(ncaptured == was && !nexited);
		template_unref(captured);
	}
	CHECK(open_fds() == before);
}

static void a_fork_may_die_or_be_destroyed_while_it_loads(void)
{
	char disk[PATH_MAX], next[PATH_MAX], fork_disk[PATH_MAX];
	struct vm *vm = boot(disk), *child;
	struct template *template;
	unsigned i, before;

	pause_vm(vm);
	template = template_of(vm, disk, next);
	before = open_fds();
	for (i = 0; i < 6; i++) {
		reset();
		make_overlay(disk, fork_disk);
		CHECK(!engine_qemu.prepare(&env, template, fork_disk, &events, NULL, on_done, NULL, &child,
					   NULL));
		rounds(i / 2);
		if (i % 2) {
			kill(engine_qemu.pid(child), SIGKILL);
			await(&nexited);
			CHECK(ndone == 1);
		}
		engine_qemu.destroy(child);
		rounds(3);
	}
	/* Only the source's process may be left. */
	for (i = 0; i < 100 && process_count() > 1; i++)
		loop_once(env.loop, 100);
	CHECK(process_count() == 1);
	CHECK(open_fds() == before);
	engine_qemu.destroy(vm);
	template_unref(template);
	settle();
}

/* A copy of the state, of at most `size` bytes, with another first line if there is one. */
static int altered_state(int from, size_t size, const char *head)
{
	char line[STATE_HEADER] = { 0 };
	char *data = malloc(size);
	ssize_t n = pread(from, data, size, 0);
	int fd = memfd_create("test-state", MFD_CLOEXEC);

	CHECK(n > STATE_HEADER && fd >= 0);
	if (head) {
		snprintf(line, sizeof(line), "%s", head);
		memcpy(data, line, sizeof(line));
	}
	CHECK(write(fd, data, (size_t)n) == n);
	free(data);
	return fd;
}

/* A state that this QEMU did not write ends in an error, never in a running machine. */
static void a_foreign_state_is_refused(void)
{
	static const struct {
		size_t size;
		const char *head;
	} cases[] = {
		{ 1 << 20, "" },
		{ 1 << 20, "sbxfs-qemu-1 kvm 7.2.0 tsc 1\n" },
		{ 1 << 20, "sbxfs-qemu-1 tcg 1.0.0 tsc 1\n" },
		{ 1000, NULL }, /* cut off */
	};
	char disk[PATH_MAX], next[PATH_MAX], fork_disk[PATH_MAX];
	struct vm *vm = boot(disk), *child;
	struct template *template;
	unsigned i;
	int good;

	pause_vm(vm);
	template = template_of(vm, disk, next);
	good = template->state_fd;
	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		template->state_fd = altered_state(good, cases[i].size, cases[i].head);
		reset();
		make_overlay(disk, fork_disk);
		CHECK(!engine_qemu.prepare(&env, template, fork_disk, &events, NULL, on_done, NULL, &child,
					   NULL));
		await(&ndone);
		CHECK(done_err.code < 0 && *done_err.text && nexited == 1);
		engine_qemu.destroy(child);
		close(template->state_fd);
	}
	template->state_fd = good;
	engine_qemu.destroy(vm);
	template_unref(template);
	settle();
}

int main(void)
{
	env = (struct engine_env){ .loop = loop_new(),
				   .kernel = getenv("SBX_KERNEL") ? getenv("SBX_KERNEL")
								  : "build/guest/vmlinuz",
				   .libexec = "" };
	env.initrd = env.kernel; /* any file: no guest gets that far */
	CHECK(env.loop);
	scratch_dir(dir);
	jail = (struct jail_config){ .uid_first = JAIL_UID_FIRST,
				     .uid_last = JAIL_UID_LAST,
				     .libexec = "build",
				     .kernel = env.kernel,
				     .initrd = env.initrd };
	CHECK(!launcher_start(&jail, NULL));
	TEST(a_machine_leaves_nothing);
	TEST(start_may_come_before_prepared);
	TEST(a_killed_machine_says_so_once);
	TEST(a_boot_that_fails_gives_qemus_reason);
	TEST(a_capture_that_fails_changes_nothing);
	TEST(a_machine_may_die_at_any_point_of_a_capture);
	TEST(a_capture_may_be_destroyed_at_any_point);
	TEST(a_fork_may_die_or_be_destroyed_while_it_loads);
	TEST(a_foreign_state_is_refused);
	engine_qemu.shutdown();
	launcher_stop();
	loop_free(env.loop);
	return 0;
}
