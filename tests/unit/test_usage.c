/* SPDX-License-Identifier: MIT */
/* test_usage.c - what a process costs its host, of this very process */
#include "vm/usage.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "util/loop.h"

/* File pages come and go with what others map and what the host needs: what is asked of 64 MiB is
 * that all but a few count. */
enum { TOUCHED = 64 << 20, OTHERS = 8 << 20 };

static void touch(void)
{
	char *p = mmap(NULL, TOUCHED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	memset(p, 1, TOUCHED);
}

static struct loop *loop;
static struct vm_memory told;
static unsigned times;

static void on_memory(void *arg, const struct vm_memory *of, size_t n)
{
	CHECK(arg == &told && (n == 1 || n == 2));
	told = of[n - 1];
	times++;
}

static int own_memory(void)
{
	return open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
}

static struct vm_memory look(unsigned n)
{
	const int fds[] = { own_memory(), own_memory() };
	const unsigned before = times;

	CHECK(memory_look(loop, fds, n, on_memory, &told));
	if (n == 1)
		CHECK(!close(fds[1]));
	while (loop_working(loop))
		CHECK(!loop_once(loop, 10000));
	CHECK(times == before + 1);
	return told;
}

static void memory_is_what_the_kernel_says(void)
{
	const struct vm_memory first = look(1);
	struct vm_memory then;

	CHECK(first.resident > 0 && first.private > 0);
	touch();
	then = look(1);
	CHECK(then.private + OTHERS >= first.private + TOUCHED);
	CHECK(then.resident + OTHERS >= first.resident + TOUCHED);
	/* Of two each is told. */
	CHECK(look(2).private >= then.private - (4 << 20));
}

static void who_does_not_want_to_know_is_not_told(void)
{
	const int fd = own_memory();
	const unsigned before = times;
	struct memory_look *look = memory_look(loop, &fd, 1, on_memory, NULL);

	CHECK(look);
	memory_forget(look);
	memory_forget(NULL);
	while (loop_working(loop))
		CHECK(!loop_once(loop, 10000));
	CHECK(times == before);
}

/* A thread each, and a descriptor: not as many as somebody asks for. */
static void many_are_refused(void)
{
	const int probe = dup(0);
	unsigned n, before = times;
	int fd;

	CHECK(probe >= 0 && !close(probe));
	for (n = 0; n < 1000; n++) {
		fd = own_memory();
		CHECK(fd >= 0);
		if (!memory_look(loop, &fd, 1, on_memory, &told))
			break;
	}
	CHECK(n && n < 1000);
	while (loop_working(loop))
		CHECK(!loop_once(loop, 10000));
	CHECK(times == before + n);
	fd = dup(0);
	CHECK(fd == probe && !close(fd)); /* all are closed */
}

static void time_is_of_now(void)
{
	struct vm_usage first, usage;

	CHECK(!process_usage(getpid(), &first));
	touch();
	CHECK(!process_usage(getpid(), &usage) && usage.cpu_ns > first.cpu_ns);
}

static void a_process_that_is_gone_costs_nothing(void)
{
	struct vm_memory memory;
	struct vm_usage usage;
	char path[64];
	const pid_t pid = fork();
	int fd;

	if (!pid) {
		pause();
		_exit(0);
	}
	CHECK(pid > 0 && !process_usage(pid, &usage));
	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0 && !kill(pid, SIGKILL) && waitpid(pid, NULL, 0) == pid);
	CHECK(process_usage(pid, &usage) == -ESRCH && vm_memory_read(fd, &memory) == -ESRCH);
}

int main(void)
{
	loop = loop_new();
	CHECK(loop);
	TEST(memory_is_what_the_kernel_says);
	TEST(who_does_not_want_to_know_is_not_told);
	TEST(many_are_refused);
	TEST(time_is_of_now);
	TEST(a_process_that_is_gone_costs_nothing);
	loop_free(loop);
	return 0;
}
