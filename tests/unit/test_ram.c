/* SPDX-License-Identifier: MIT */
/* test_ram.c - the copy of a machine's RAM, with a child process as the machine */
#include "vm/qemu/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snap/template.h"
#include "tests/unit/unit.h"

enum { PAGES = 20000, SIZE = PAGES * RAM_PAGE }; /* more than one batch of page map entries */

struct child {
	pid_t pid;
};

static void fill(uint8_t *ram, unsigned page, uint8_t value)
{
	memset(ram + (size_t)page * RAM_PAGE, value, RAM_PAGE);
}

/* A process that maps the RAM and writes pages first, first + step... below PAGES; value 0 writes zeros. */
static struct child start(int fd, bool shared, unsigned first, unsigned step, uint8_t value)
{
	struct child child;
	int fds[2];
	uint8_t *ram;
	unsigned i;
	char c;

	CHECK(!pipe2(fds, O_CLOEXEC));
	child.pid = fork();
	CHECK(child.pid >= 0);
	if (!child.pid) {
		ram = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE, fd, 0);
		CHECK(ram != MAP_FAILED);
		for (i = first; i < PAGES; i += step)
			fill(ram, i, value);
		CHECK(write(fds[1], "x", 1) == 1);
		for (;;)
			pause();
	}
	close(fds[1]);
	CHECK(read(fds[0], &c, 1) == 1);
	close(fds[0]);
	return child;
}

static void stop(struct child child)
{
	kill(child.pid, SIGKILL);
	CHECK(waitpid(child.pid, NULL, 0) == child.pid);
}

static int new_ram(void)
{
	int fd = ram_memfd("test-ram", SIZE, NULL);

	CHECK(fd >= 0);
	return fd;
}

static void write_page(int fd, unsigned page, uint8_t value)
{
	uint8_t bytes[RAM_PAGE];

	memset(bytes, value, sizeof(bytes));
	CHECK(pwrite(fd, bytes, sizeof(bytes), (off_t)page * RAM_PAGE) == sizeof(bytes));
}

/* The value all bytes of a page have. */
static int page_value(const uint8_t *ram, unsigned page)
{
	const uint8_t *p = ram + (size_t)page * RAM_PAGE;
	unsigned i;

	for (i = 1; i < RAM_PAGE; i++)
		CHECK(p[i] == p[0]);
	return p[0];
}

static int copy(pid_t pid, int fd, bool shared)
{
	struct ram_copy *ram;
	struct err err;
	int out;

	CHECK(!ram_copy_new(pid, fd, SIZE, shared, &ram, NULL));
	CHECK(!ram_copy_live(ram, &err));
	CHECK(!ram_copy_rest(ram));
	out = ram_copy_take(ram, NULL);
	CHECK(out >= 0);
	ram_copy_free(ram);
	return out;
}

static const uint8_t *map(int fd)
{
	const uint8_t *ram = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);

	CHECK(ram != MAP_FAILED);
	return ram;
}

static void let_go(struct child child, const uint8_t *ram, int out, int fd)
{
	stop(child);
	munmap((void *)ram, SIZE);
	close(out);
	close(fd);
}

static uint64_t allocated(int fd)
{
	struct stat st;

	CHECK(!fstat(fd, &st));
	return (uint64_t)st.st_blocks * 512;
}

static void shared_ram_is_copied_whole(void)
{
	int fd = new_ram(), out;
	struct child child = start(fd, true, 3, 7, 9);
	const uint8_t *ram;
	unsigned i;

	out = copy(child.pid, fd, true);
	ram = map(out);
	for (i = 0; i < PAGES; i++)
		CHECK(page_value(ram, i) == (i % 7 == 3 ? 9 : 0));
	let_go(child, ram, out, fd);
}

static void own_pages_cover_those_of_the_template(void)
{
	int fd = new_ram(), out;
	const uint8_t *ram;
	struct child child;
	unsigned i;

	for (i = 0; i < PAGES; i += 3)
		write_page(fd, i, 5);
	child = start(fd, false, 0, 5, 8);
	out = copy(child.pid, fd, false);
	ram = map(out);
	for (i = 0; i < PAGES; i++)
		CHECK(page_value(ram, i) == (i % 5 == 0 ? 8 : i % 3 == 0 ? 5 : 0));
	let_go(child, ram, out, fd);
}

/* A page that was zeroed must not come back with what the template had. */
static void zeroed_pages_stay_zero_and_take_no_room(void)
{
	int fd = new_ram(), out;
	const uint8_t *ram;
	struct child child;
	unsigned i;

	for (i = 0; i < PAGES; i++)
		write_page(fd, i, 5);
	child = start(fd, false, 0, 2, 0);
	out = copy(child.pid, fd, false);
	CHECK(allocated(out) == SIZE / 2);
	ram = map(out);
	for (i = 0; i < PAGES; i++)
		CHECK(page_value(ram, i) == (i % 2 ? 5 : 0));
	let_go(child, ram, out, fd);
}

static void copying_fills_no_holes_of_the_template(void)
{
	int fd = new_ram(), out;
	struct child child;
	uint64_t before;

	write_page(fd, 100, 5);
	child = start(fd, false, 200, PAGES, 6);
	before = allocated(fd);
	out = copy(child.pid, fd, false);
	CHECK(allocated(fd) == before);
	CHECK(allocated(out) == 2 * RAM_PAGE);
	stop(child);
	close(out);
	close(fd);
}

static void the_copy_is_sealed(void)
{
	int fd = new_ram(), out;
	struct child child = start(fd, true, 0, 1000, 1);

	out = copy(child.pid, fd, true);
	CHECK(write(out, "x", 1) < 0 && errno == EPERM);
	CHECK(ftruncate(out, 0) < 0 && errno == EPERM);
	stop(child);
	close(out);
	close(fd);
}

static int live(pid_t pid, int fd, uint64_t size)
{
	struct ram_copy *ram;
	struct err err = { 0 };
	int rc;

	CHECK(!ram_copy_new(pid, fd, size, false, &ram, NULL));
	rc = ram_copy_live(ram, &err);
	CHECK(rc == err.code && (!rc || *err.text));
	ram_copy_free(ram);
	return rc;
}

static void a_process_without_the_ram_is_refused(void)
{
	int fd = new_ram(), other = new_ram();
	struct child child = start(fd, false, 0, 1000, 1);

	CHECK(live(child.pid, other, SIZE) == -EIO);
	/* One that maps more than the RAM is said to have. */
	CHECK(live(child.pid, fd, SIZE / 2) == -EIO);
	stop(child);
	close(fd);
	close(other);
}

static void a_process_that_dies_ends_the_copy(void)
{
	int fd = new_ram();
	struct child child = start(fd, false, 0, 3, 1);
	struct ram_copy *ram;
	struct err err;

	CHECK(!ram_copy_new(child.pid, fd, SIZE, false, &ram, NULL));
	stop(child);
	CHECK(ram_copy_live(ram, &err) < 0);
	ram_copy_free(ram);
	close(fd);
}

int main(void)
{
	TEST(shared_ram_is_copied_whole);
	TEST(own_pages_cover_those_of_the_template);
	TEST(zeroed_pages_stay_zero_and_take_no_room);
	TEST(copying_fills_no_holes_of_the_template);
	TEST(the_copy_is_sealed);
	TEST(a_process_without_the_ram_is_refused);
	TEST(a_process_that_dies_ends_the_copy);
	return 0;
}
