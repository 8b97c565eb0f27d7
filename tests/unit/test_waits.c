/* SPDX-License-Identifier: MIT */
/*
 * test_waits.c - nobody waits for a VMM that holds the locks of memory which it shares with the daemon
 *
 * tests/hostile/vmm.c does, behind the real jail and with 300 threads: an lseek to data takes seconds there, and who
 * looks for all data that way minutes. What the daemon does with such memory is to copy it, to save it, and to take it
 * for a template.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/parallel.h"
#include "snap/ramimage.h"
#include "snap/template.h"
#include "tests/unit/hostile_programs.h"
#include "tests/unit/unit.h"
#include "util/io.h"
#include "util/loop.h"
#include "vm/jail/jail.h"
#include "vm/process.h"
#include "vm/qemu/ram.h"
#include "vm/qemu/track.h"
#include "vm/qemu/vm.h"

enum {
	SIZE = 64 << 20,
	PART = 1 << 20,
	STATE = 1 << 20,
	/* Without anybody's locks each takes some 50 ms; 300 threads have the CPUs besides. */
	BOUND_MS = 4000,
};

static char dir[] = "/tmp/sbx-test-waits-XXXXXX";
static char nothing[PATH_MAX];
static struct loop *loop;
static struct jail_config config = { .uid_first = JAIL_UID_FIRST,
				     .uid_last = JAIL_UID_LAST,
				     .libexec = dir,
				     .kernel = nothing,
				     .initrd = nothing };

static void on_exit_process(void *arg, int status, const char *why)
{
	(void)status;
	(void)why;
	*(bool *)arg = true;
}

/* One who holds the locks of this memory. */
static void hold(int fd, struct process **ret, bool *ended)
{
	int ends[2], keep[2];
	const struct process_spec spec = { .kind = JAIL_VMM,
					   .args = (const char *const[]){ "holds", NULL },
					   .keep = keep,
					   .nkeep = 2,
					   .stdin_fd = -1 };
	struct err err = { 0 };
	char byte;

	CHECK(!pipe2(ends, O_CLOEXEC));
	keep[0] = fd;
	keep[1] = ends[1];
	*ended = false;
	if (process_spawn(loop, &spec, on_exit_process, ended, ret, &err))
		fprintf(stderr, "%s\n", err.text);
	CHECK(!err.code);
	close(ends[1]);
	CHECK(read(ends[0], &byte, 1) == 1);
	close(ends[0]);
}

/* Memory with a page of data in each MiB, and one who holds its locks. */
static int held(uint64_t size, bool seal, struct process **ret, bool *ended)
{
	const int fd = memfd_new("held", size);
	uint8_t page[RAM_PAGE];
	uint64_t at;

	memset(page, 7, sizeof(page));
	for (at = 0; at < size; at += PART)
		CHECK(fd >= 0 && !pwrite_all(fd, page, sizeof(page), at));
	CHECK(!seal || !memfd_seal(fd));
	hold(fd, ret, ended);
	return fd;
}

static void let_go(struct process *process, const bool *ended)
{
	process_kill(process, SIGKILL);
	while (!*ended)
		CHECK(!loop_once(loop, 1000));
}

static void check_quick(const char *what, uint64_t since)
{
	const uint64_t ms = (now_mono_ns() - since) / 1000000;

	if (ms >= BOUND_MS)
		fprintf(stderr, "%s took %llu ms\n", what, (unsigned long long)ms);
	CHECK(ms < BOUND_MS);
}

static void check_parts(int fd)
{
	uint8_t page[RAM_PAGE];
	uint64_t at;

	for (at = 0; at < SIZE; at += PART)
		CHECK(!pread_all(fd, page, sizeof(page), at) && page[0] == 7 && page[RAM_PAGE - 1] == 7);
}

static void its_ram_is_copied(void)
{
	struct process *process;
	bool ended;
	const int fd = held(SIZE, false, &process, &ended);
	const uint64_t began = now_mono_ns();
	struct ram_copy *copy;
	struct err err;
	int out;

	CHECK(!ram_copy_new(process_pid(process), fd, SIZE, true, &copy, &err));
	CHECK(!ram_copy_live(copy, &err) && !ram_copy_rest(copy));
	out = ram_copy_take(copy, &err);
	check_quick("copying", began);
	check_parts(out);
	ram_copy_free(copy);
	let_go(process, &ended);
	close(out);
	close(fd);
}

/* What a fork has not written is its template's, and others have that, too. */
static void a_template_that_others_hold_is_copied(void)
{
	struct process *process;
	bool ended;
	const int fd = held(SIZE, true, &process, &ended);
	const uint64_t began = now_mono_ns();
	struct ram_copy *copy;
	struct err err;
	int out;

	CHECK(!ram_copy_new(process_pid(process), fd, SIZE, false, &copy, &err));
	CHECK(!ram_copy_rest(copy));
	out = ram_copy_take(copy, &err);
	check_quick("copying a template", began);
	check_parts(out);
	ram_copy_free(copy);
	let_go(process, &ended);
	close(out);
	close(fd);
}

struct moving {
	struct ram_copy *copy;
	int uffd;
	bool done;
};

static int copy_moving(void *arg)
{
	struct moving *moving = arg;
	struct err err = { 0 };

	(void)ram_copy_ahead(moving->copy, moving->uffd, &err);
	return ram_copy_live(moving->copy, &err) ? err.code : ram_copy_rest(moving->copy);
}

static void on_copied(void *arg, int result)
{
	struct moving *moving = arg;

	(void)result;
	moving->done = true;
}

/* Its own copy may wait for it as long as it lives, and nobody else does: the loop goes on, and so does its end. */
static void memory_that_moves_holds_up_nobody_else(void)
{
	const int fd = memfd_new("held", SIZE);
	int ends[2], track[2], keep[3];
	const struct process_spec spec = { .kind = JAIL_QEMU,
					   .args = (const char *const[]){ "moves", NULL },
					   .keep = keep,
					   .nkeep = 3,
					   .stdin_fd = -1 };
	struct moving moving = { 0 };
	struct process *process;
	struct err err = { 0 };
	uint64_t began, turn;
	bool ended = false;
	char byte;

	CHECK(fd >= 0 && !pipe2(ends, O_CLOEXEC));
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, track));
	keep[0] = track[1];
	keep[1] = fd;
	keep[2] = ends[1];
	if (process_spawn(loop, &spec, on_exit_process, &ended, &process, &err))
		fprintf(stderr, "%s\n", err.text);
	CHECK(!err.code);
	close(track[1]);
	close(ends[1]);
	CHECK(read(ends[0], &byte, 1) == 1);
	close(ends[0]);
	moving.uffd = track_take(track[0], &err);
	close(track[0]);
	CHECK(!ram_copy_new(process_pid(process), fd, SIZE, false, &moving.copy, &err));
	CHECK(!loop_thread(loop, copy_moving, on_copied, &moving));
	*process_keeps(process) = moving.uffd;
	began = now_mono_ns();
	while (!moving.done && now_mono_ns() - began < 2000000000) {
		turn = now_mono_ns();
		CHECK(!loop_once(loop, 100));
		check_quick("a turn of the loop", turn);
	}
	began = now_mono_ns();
	let_go(process, &ended);
	while (!moving.done)
		CHECK(!loop_once(loop, 1000));
	ram_copy_free(moving.copy);
	check_quick("its end", began);
	close(fd);
}

static void its_state_is_taken(void)
{
	struct qemu_machine vm = { .kvm = false, .version = "7.2.0" };
	struct process *process;
	bool ended;
	const int fd = held(STATE, false, &process, &ended);
	uint64_t began = now_mono_ns();
	struct err err = { 0 };
	struct stat st;
	uint8_t byte;
	int own;

	CHECK(!state_take(fd, &vm, &own, &err));
	check_quick("taking a state", began);
	CHECK(!fstat(own, &st) && st.st_size == STATE);
	CHECK(!pread_all(own, &byte, 1, STATE_HEADER) && byte == 7);
	/* It is the daemon's own: what the VMM still has is another file. */
	CHECK((fcntl(own, F_GET_SEALS) & F_SEAL_WRITE) && write(own, "x", 1) < 0 && errno == EPERM);
	close(own);
	let_go(process, &ended);
	close(fd);
}

static void a_state_of_another_size_is_refused(void)
{
	static const uint64_t sizes[] = { 0, STATE_HEADER, (uint64_t)TEMPLATE_STATE_MAX + 1,
					  UINT64_C(1) << 40 };
	struct qemu_machine vm = { .version = "7.2.0" };
	unsigned i;

	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		const int fd = memfd_new("state", sizes[i]);
		struct err err = { 0 };
		int own;

		CHECK(fd >= 0 && state_take(fd, &vm, &own, &err) == -EPROTO && strstr(err.text, "size"));
		close(fd);
	}
}

static void it_is_taken_for_a_template_and_saved(void)
{
	struct process *process;
	bool ended;
	const int fd = held(SIZE, true, &process, &ended), state = memfd_new("state", STATE);
	const uint64_t began = now_mono_ns();
	struct template *template = template_new();
	const struct ramimage_content content = { .memfd = fd, .over_fd = -1, .size = SIZE };
	struct progress progress = { 0 };
	struct ramimage image;
	char path[PATH_MAX];
	struct err err = { 0 };
	int out;

	CHECK(template && state >= 0 && !memfd_seal(state));
	template->ram_size = SIZE;
	CHECK(!template_adopt(template, &(struct template_files){ fd, state, -1 }, &err));
	snprintf(path, sizeof(path), "%s/ram", dir);
	out = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	CHECK(out >= 0);
	CHECK(!ramimage_write(&content, NULL, NULL, out, &progress, &image, &err));
	check_quick("saving", began);
	ramimage_release(&image);
	close(out);
	let_go(process, &ended);
	template_unref(template);
}

/* A machine's table of connections, which its second helper takes over, and statistics of a VMM. */
static void what_is_shared_again_has_a_fixed_size(void)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	struct process *process;
	bool ended;
	uint64_t began;
	uint8_t *first, *again;
	struct stat st;
	int fd = -1, other;

	CHECK(!memfd_share("shared", SIZE, &fd, (void **)&first) && fcntl(fd, F_GET_SEALS) == seals);
	hold(fd, &process, &ended);
	other = fd;
	began = now_mono_ns();
	CHECK(!memfd_share("shared", SIZE, &fd, (void **)&again) && fd == other);
	check_quick("sharing again", began);
	let_go(process, &ended);
	/* What it was left with cannot become what kills its reader, or what the next one cannot write. */
	CHECK(fcntl(fd, F_GET_SEALS) == seals && !fstat(fd, &st) && st.st_size == SIZE);
	CHECK(ftruncate(fd, 0) < 0 && errno == EPERM);
	CHECK(ftruncate(fd, 2 * SIZE) < 0 && errno == EPERM);
	CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EPERM);
	CHECK(!pwrite_all(fd, "x", 1, SIZE - 1) && first[SIZE - 1] == 'x' && again[SIZE - 1] == 'x');
	munmap(first, SIZE);
	munmap(again, SIZE);
	close(fd);
	/* What is not sealed yet is; what cannot be is not shared. */
	fd = memfd_create("x", MFD_CLOEXEC);
	CHECK(fd >= 0 && !ftruncate(fd, SIZE));
	other = fd;
	CHECK(memfd_share("shared", SIZE, &fd, (void **)&first) == -EPERM && fd == other);
	close(fd);
}

int main(void)
{
	struct err err = { 0 };

	scratch_dir(dir);
	hostile_programs(dir);
	snprintf(nothing, sizeof(nothing), "%s/nothing", dir);
	sh_in(dir, "touch nothing && chmod 644 nothing");
	loop = loop_new();
	CHECK(loop);
	if (launcher_start(&config, &err))
		fprintf(stderr, "%s\n", err.text);
	CHECK(!err.code && launcher_jails());
	TEST(its_ram_is_copied);
	TEST(a_template_that_others_hold_is_copied);
	TEST(memory_that_moves_holds_up_nobody_else);
	TEST(its_state_is_taken);
	TEST(a_state_of_another_size_is_refused);
	TEST(it_is_taken_for_a_template_and_saved);
	TEST(what_is_shared_again_has_a_fixed_size);
	launcher_stop();
	loop_free(loop);
	return 0;
}
