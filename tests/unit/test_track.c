/* SPDX-License-Identifier: MIT */
/*
 * test_track.c - what is copied of a machine's RAM while it runs, with a child process as the machine
 *
 * What counts is how many pages are left to be copied when it stands (ram_copy_counts), and that the copy is what it
 * had then, page by page.
 */
#include "util/pagemap.h"
#include "vm/qemu/track.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snap/template.h"
#include "tests/unit/unit.h"
#include "util/io.h"
#include "util/message.h"
#include "vm/qemu/ram.h"

#ifdef __SANITIZE_ADDRESS__
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

enum { PAGES = 20000, SIZE = PAGES * RAM_PAGE };

enum what { WRITE, READ, GIVE_BACK, RUN, UNMAP, MOVE };

struct order {
	enum what what;
	unsigned first, end, step;
	uint8_t value;
};

struct child {
	pid_t pid;
	int orders;
	int ram_fd, uffd;
};

static uint8_t *ram;

static uint8_t *page_at(unsigned page)
{
	return ram + (size_t)page * RAM_PAGE;
}

/* Without end, each page of them in turn; the parent stops it somewhere. */
static void run(const struct order *order)
{
	uint8_t value = 0;
	unsigned i;

	for (;;)
		for (i = order->first, value++; i < order->end; i += order->step)
			memset(page_at(i), value, RAM_PAGE);
}

static void obey(const struct order *order)
{
	unsigned i;

	if (order->what == RUN)
		run(order);
	if (order->what == MOVE)
		CHECK(mremap(ram, SIZE / 2, SIZE / 2, MREMAP_MAYMOVE | MREMAP_FIXED,
			     ram + 2 * (size_t)SIZE) != MAP_FAILED);
	for (i = order->first; i < order->end; i += order->step)
		if (order->what == WRITE)
			memset(page_at(i), order->value, RAM_PAGE);
		else if (order->what == READ)
			(void)*(volatile uint8_t *)page_at(i);
		else if (order->what == GIVE_BACK)
			CHECK(!madvise(page_at(i), RAM_PAGE, MADV_DONTNEED));
		else if (order->what == UNMAP)
			CHECK(!munmap(page_at(i), RAM_PAGE));
}

/* As sbx-track.so does. */
static void send_tracker(int socket)
{
	const int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	const char byte = TRACK_BYTE;

	CHECK(fd >= 0 && !message_send(socket, &byte, 1, &fd, 1));
	close(fd);
}

static void be_machine(int ram_fd, int socket, int orders)
{
	struct order order;
	uint8_t *room;

	CHECK(!prctl(PR_SET_PDEATHSIG, SIGKILL));
	send_tracker(socket);
	close(socket);
	room = mmap(NULL, 4 * (size_t)SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ram = mmap(room, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, ram_fd, 0);
	CHECK(room != MAP_FAILED && ram != MAP_FAILED);
	while (read(orders, &order, sizeof(order)) == sizeof(order)) {
		CHECK(write(orders, "x", 1) == 1 || order.what == RUN);
		obey(&order);
		CHECK(write(orders, "x", 1) == 1);
	}
	_exit(0);
}

static struct child start(void)
{
	struct child child = { .ram_fd = ram_memfd("test-ram", SIZE, NULL) };
	uint8_t bytes[RAM_PAGE];
	int sockets[2], orders[2];
	struct err err = { 0 };
	unsigned i;

	/* What the template has. */
	memset(bytes, 5, sizeof(bytes));
	for (i = 0; i < PAGES; i += 3)
		CHECK(!pwrite_all(child.ram_fd, bytes, sizeof(bytes), (uint64_t)i * RAM_PAGE));
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets));
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, orders));
	child.pid = fork();
	CHECK(child.pid >= 0);
	if (!child.pid) {
		close(sockets[0]);
		close(orders[0]);
		be_machine(child.ram_fd, sockets[1], orders[1]);
	}
	close(sockets[1]);
	close(orders[1]);
	child.orders = orders[0];
	CHECK(fd_ready(sockets[0], POLLRDHUP, 10000)); /* the other end is closed */
	child.uffd = track_take(sockets[0], &err);
	if (child.uffd < 0)
		fprintf(stderr, "%s\n", err.text);
	CHECK(child.uffd >= 0);
	close(sockets[0]);
	return child;
}

static void tell(const struct child *child, struct order order)
{
	char byte;

	CHECK(write(child->orders, &order, sizeof(order)) == sizeof(order));
	CHECK(read(child->orders, &byte, 1) == 1);
	CHECK(order.what == RUN || read(child->orders, &byte, 1) == 1);
}

static void put(const struct child *child, unsigned first, unsigned end, unsigned step, uint8_t value)
{
	tell(child, (struct order){ WRITE, first, end, step, value });
}

static void let_go(struct child *child)
{
	CHECK(!kill(child->pid, SIGKILL) && waitpid(child->pid, NULL, 0) == child->pid);
	close(child->orders);
	close(child->ram_fd);
	close(child->uffd);
}

static struct ram_copy *begin(const struct child *child)
{
	struct ram_copy *copy;
	struct err err = { 0 };

	CHECK(!ram_copy_new(child->pid, child->ram_fd, SIZE, false, &copy, &err));
	if (ram_copy_ahead(copy, child->uffd, &err))
		fprintf(stderr, "%s\n", err.text);
	CHECK(!err.code);
	return copy;
}

static const uint8_t *finish(struct ram_copy *copy, struct ram_counts *counts)
{
	struct err err = { 0 };
	const uint8_t *ret;
	int out;

	CHECK(!ram_copy_live(copy, &err) && !ram_copy_rest(copy));
	*counts = ram_copy_counts(copy);
	out = ram_copy_take(copy, &err);
	CHECK(out >= 0);
	ram_copy_free(copy);
	ret = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, out, 0);
	CHECK(ret != MAP_FAILED);
	close(out);
	return ret;
}

/* Where the machine has its memory. */
static uint64_t ram_of(const struct child *child)
{
	char path[64], *line = NULL;
	uint64_t start = 0;
	size_t size = 0;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", child->pid);
	maps = fopen(path, "re");
	while (!start && getline(&line, &size, maps) > 0)
		if (strstr(line, "test-ram"))
			start = strtoul(line, NULL, 16);
	free(line);
	fclose(maps);
	CHECK(start);
	return start;
}

static void nothing_is_protected(const struct child *child)
{
	const uint64_t start = ram_of(child);
	uint64_t entry;
	char path[64];
	unsigned i;
	int map;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", child->pid);
	map = open(path, O_RDONLY | O_CLOEXEC);
	for (i = 0; i < PAGES; i++)
		CHECK(!pread_all(map, &entry, sizeof(entry), (start / RAM_PAGE + i) * sizeof(entry)) &&
		      !(entry & PM_UFFD_WP));
	close(map);
}

/* Its memory as the machine itself sees it, page by page; the copy is let go of. */
static void check_same(const struct child *child, const uint8_t *copied)
{
	const uint64_t start = ram_of(child);
	uint8_t bytes[RAM_PAGE];
	char path[64];
	unsigned i;
	int mem;

	snprintf(path, sizeof(path), "/proc/%d/mem", child->pid);
	mem = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(mem >= 0);
	for (i = 0; i < PAGES; i++)
		CHECK(!pread_all(mem, bytes, RAM_PAGE, start + (uint64_t)i * RAM_PAGE) &&
		      !memcmp(bytes, copied + (size_t)i * RAM_PAGE, RAM_PAGE));
	close(mem);
	munmap((void *)copied, SIZE);
}

static void what_is_not_written_again_is_not_copied_again(void)
{
	struct child child = start();
	struct ram_counts counts;
	struct ram_copy *copy;
	const uint8_t *copied;

	put(&child, 0, PAGES, 2, 8);
	copy = begin(&child);
	counts = ram_copy_counts(copy);
	CHECK(counts.ahead == PAGES / 2 && !counts.stopped);
	put(&child, 100, 400, 3, 9); /* 50 of its own, and 50 of the template's */
	put(&child, 1000, 1100, 2, 0);
	copied = finish(copy, &counts);
	CHECK(counts.ahead == PAGES / 2 && counts.stopped == 150);
	CHECK(copied[(size_t)100 * RAM_PAGE] == 9 && copied[(size_t)1002 * RAM_PAGE] == 0);
	check_same(&child, copied);
	let_go(&child);
}

/* It has the template's again, or what it wrote after that. */
static void what_it_gave_back_is_the_templates(void)
{
	struct child child = start();
	struct ram_counts counts;
	struct ram_copy *copy;
	const uint8_t *copied;

	put(&child, 0, PAGES, 1, 8);
	copy = begin(&child);
	tell(&child, (struct order){ GIVE_BACK, 0, 3000, 1, 0 });
	put(&child, 0, 1000, 1, 7);
	tell(&child, (struct order){ READ, 1000, 2000, 1, 0 });
	copied = finish(copy, &counts);
	CHECK(counts.stopped >= 1000 && counts.stopped <= 2000);
	CHECK(copied[0] == 7 && copied[(size_t)1500 * RAM_PAGE] == 5 && copied[(size_t)1501 * RAM_PAGE] == 0);
	CHECK(copied[(size_t)2502 * RAM_PAGE] == 5 && copied[(size_t)3000 * RAM_PAGE] == 8);
	check_same(&child, copied);
	let_go(&child);
}

static void a_machine_that_never_rests_is_copied_as_it_stands(void)
{
	struct child child = start();
	struct ram_counts counts;
	const uint8_t *copied;
	struct ram_copy *copy;
	unsigned i;
	int status;

	put(&child, 0, PAGES, 1, 8);
	tell(&child, (struct order){ RUN, 0, PAGES, 7, 0 });
	for (i = 0; i < 5; i++) {
		copy = begin(&child);
		CHECK(!kill(child.pid, SIGSTOP) && waitpid(child.pid, &status, WUNTRACED) == child.pid);
		copied = finish(copy, &counts);
		CHECK(counts.ahead >= PAGES && counts.stopped <= PAGES / 7 + 1);
		check_same(&child, copied);
		CHECK(!kill(child.pid, SIGCONT));
	}
	let_go(&child);
}

/* What the one that was given up had copied, the next does not have. */
static void one_that_was_given_up_leaves_nothing_out(void)
{
	struct child child = start();
	struct ram_counts counts;
	const uint8_t *copied;
	struct ram_copy *copy;

	put(&child, 0, PAGES, 2, 8);
	ram_copy_free(begin(&child));
	copy = begin(&child);
	CHECK(ram_copy_counts(copy).ahead == PAGES / 2);
	copied = finish(copy, &counts);
	CHECK(!counts.stopped);
	check_same(&child, copied);
	nothing_is_protected(&child);
	/* Without that, as on an older kernel, all is copied as it stands. */
	CHECK(!ram_copy_new(child.pid, child.ram_fd, SIZE, false, &copy, NULL));
	copied = finish(copy, &counts);
	CHECK(counts.stopped == PAGES / 2 && !counts.ahead);
	check_same(&child, copied);
	let_go(&child);
}

/* Whatever it does to its address space, it ends, and harms none but its own copy. */
static void a_machine_that_moves_its_ram_ends_it(void)
{
	static const struct order orders[] = { { UNMAP, 5, PAGES, 700, 0 }, { MOVE, 0, 0, 1, 0 } };
	struct ram_counts counts;
	struct ram_copy *copy;
	struct child child;
	struct err err;
	unsigned i;

	for (i = 0; i < 2; i++) {
		child = start();
		put(&child, 0, PAGES, 1, 8);
		copy = begin(&child);
		tell(&child, orders[i]);
		munmap((void *)finish(copy, &counts), SIZE);
		let_go(&child);
	}
	child = start();
	put(&child, 0, PAGES, 1, 8);
	copy = begin(&child);
	tell(&child, (struct order){ UNMAP, 0, PAGES, 1, 0 });
	CHECK(ram_copy_live(copy, &err) == -EIO);
	ram_copy_free(copy);
	let_go(&child);
}

static void a_machine_that_ends_is_said_to(void)
{
	struct child child = start();
	struct ram_copy *copy;
	struct err err = { 0 };

	CHECK(!ram_copy_new(child.pid, child.ram_fd, SIZE, false, &copy, NULL));
	CHECK(!kill(child.pid, SIGKILL) && waitpid(child.pid, NULL, 0) == child.pid);
	CHECK(ram_copy_ahead(copy, child.uffd, &err) < 0 && err.code && *err.text);
	ram_copy_free(copy);
	close(child.orders);
	close(child.ram_fd);
	close(child.uffd);
}

/* With another process' userfaultfd nothing is followed, and all is copied as it stands. */
static void what_cannot_be_followed_is_copied_as_it_stands(void)
{
	struct child child = start(), other = start();
	struct ram_counts counts;
	struct ram_copy *copy;
	const uint8_t *copied;
	struct err err = { 0 };

	put(&child, 0, PAGES, 2, 8);
	CHECK(!ram_copy_new(child.pid, child.ram_fd, SIZE, false, &copy, NULL));
	CHECK(!kill(other.pid, SIGKILL) && waitpid(other.pid, NULL, 0) == other.pid);
	CHECK(ram_copy_ahead(copy, other.uffd, &err) < 0 && *err.text);
	put(&child, 0, 100, 2, 9);
	copied = finish(copy, &counts);
	CHECK(counts.stopped == PAGES / 2);
	check_same(&child, copied);
	let_go(&child);
	close(other.orders);
	close(other.ram_fd);
	close(other.uffd);
}

/* ---- what comes over the socket */

static int take(const int *fds, unsigned nfds, const char *bytes, unsigned messages, bool close_it)
{
	struct err err = { 0 };
	int ends[2], rc;

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
	for (; messages; messages--)
		CHECK(!message_send(ends[1], bytes, strlen(bytes), fds, nfds));
	if (close_it)
		close_fd(&ends[1]);
	rc = track_take(ends[0], &err);
	CHECK(rc == err.code && rc < 0 && *err.text);
	close(ends[0]);
	close_fd(&ends[1]);
	return rc;
}

static void what_is_no_userfaultfd_is_refused(void)
{
	const int own[] = { (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY),
			    (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY) };
	struct uffdio_api api = { .api = UFFD_API };
	const int memory = memfd_new("anon_inode:[userfaultfd]", RAM_PAGE);
	int pipe_ends[2];

	CHECK(own[0] >= 0 && own[1] >= 0 && memory >= 0 && !pipe2(pipe_ends, O_CLOEXEC));
	CHECK(take(NULL, 0, "u", 0, true) == -EPIPE);
	CHECK(take(NULL, 0, "u", 0, false) == -EAGAIN);
	CHECK(take(NULL, 0, "u", 1, true) == -EPROTO);
	CHECK(take(&memory, 1, "u", 1, true) == -EPROTO);
	CHECK(take(&pipe_ends[0], 1, "u", 1, true) == -EPROTO); /* a read of it would wait */
	CHECK(take(own, 2, "u", 1, true) == -EPROTO);
	CHECK(take(own, 1, "x", 1, true) == -EPROTO);
	CHECK(take(own, 1, "uu", 1, true) == -EPROTO);
	CHECK(take(own, 1, "u", 2, true) == -EPROTO);
	CHECK(take(own, 1, "u", 1, false) == -EPROTO);
	/* One that somebody has set up otherwise. */
	CHECK(!ioctl(own[0], UFFDIO_API, &api) && take(own, 1, "u", 1, true) < 0);
	close(own[0]);
	close(own[1]);
	close(memory);
	close(pipe_ends[0]);
	close(pipe_ends[1]);
}

/* ---- sbx-track.so */

static char self[PATH_MAX - 32];

/* In the program that it was loaded into. */
static int preloaded(void)
{
	if (getenv("LD_PRELOAD"))
		return 2;
	if (fcntl(TRACK_FD, F_GETFD) >= 0)
		return 3;
	if (syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY) >= 0 || errno != EPERM)
		return 4;
	return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 2 ? 0 : 5;
}

/* Into this program, with the socket at its place or, to see that it ends all the same, without. */
static int load_into_self(int socket)
{
	char preload[PATH_MAX];
	char *const argv[] = { self, (char *)"preloaded", NULL };
	char *const envp[] = { preload, NULL };
	const pid_t pid = fork();
	int status;

	snprintf(preload, sizeof(preload), "LD_PRELOAD=%.*s/../sbx-track.so",
		 (int)(strrchr(self, '/') - self), self);
	if (!pid) {
		close(TRACK_FD);
		if (socket >= 0)
			CHECK(dup2(socket, TRACK_FD) == TRACK_FD);
		CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		execve(self, argv, envp);
		_exit(99);
	}
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void a_program_it_is_loaded_into_sends_one_and_has_no_other(void)
{
	struct err err = { 0 };
	int ends[2], fd;

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
	CHECK(!load_into_self(ends[1]));
	close(ends[1]);
	fd = track_take(ends[0], &err);
	if (fd < 0)
		fprintf(stderr, "%s\n", err.text);
	CHECK(fd >= 0);
	close(fd);
	close(ends[0]);
	CHECK(!load_into_self(-1));
}

int main(int argc, char **argv)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UINT64_C(1) << 15 };
	int fd;

	if (argc > 1 && !strcmp(argv[1], "preloaded"))
		return preloaded();
	CHECK(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	TEST(what_is_no_userfaultfd_is_refused);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0) {
		printf("skipped the rest: this kernel is older than Linux 6.7\n");
		return 0;
	}
	if (!SANITIZED) /* their run-time wants to be the first that is loaded */
		TEST(a_program_it_is_loaded_into_sends_one_and_has_no_other);
	TEST(what_is_not_written_again_is_not_copied_again);
	TEST(what_it_gave_back_is_the_templates);
	TEST(a_machine_that_never_rests_is_copied_as_it_stands);
	TEST(one_that_was_given_up_leaves_nothing_out);
	TEST(a_machine_that_moves_its_ram_ends_it);
	TEST(a_machine_that_ends_is_said_to);
	TEST(what_cannot_be_followed_is_copied_as_it_stands);
	return 0;
}
