/* SPDX-License-Identifier: MIT */
/* test_usage.c - what a process costs its host, of this very process */
#include "vm/usage.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "util/loop.h"

enum { TOUCHED = 64 << 20 };

static void touch(void)
{
	char *p = mmap(NULL, TOUCHED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	memset(p, 1, TOUCHED);
}

/* However often somebody asks, the kernel walks the memory once in a second. */
static void memory_is_asked_for_once_in_a_second(void)
{
	struct process_memory memory = { 0 };
	struct vm_usage first, usage;
	uint64_t asked_ns, end_ns, n = 0;

	CHECK(!process_usage(getpid(), &memory, &first));
	CHECK(first.resident > 0 && first.private > 0);
	asked_ns = memory.until_ns - MEMORY_KEPT_MS * 1000000ull;
	touch();
	end_ns = now_mono_ns() + 20000000000;
	do {
		CHECK(!process_usage(getpid(), &memory, &usage));
		CHECK(usage.cpu_ns >= first.cpu_ns);
		n += usage.private == first.private;
		CHECK(now_mono_ns() < end_ns);
	} while (usage.private < first.private + TOUCHED);
	CHECK(now_mono_ns() - asked_ns >= MEMORY_KEPT_MS * 1000000ull);
	CHECK(n > 100);
	/* The processor's time is of now, and of the loop above. */
	CHECK(usage.cpu_ns > first.cpu_ns);
}

static void a_process_that_is_gone_costs_nothing(void)
{
	struct process_memory memory = { 0 };
	struct vm_usage usage;
	const pid_t pid = fork();

	if (!pid) {
		pause();
		_exit(0);
	}
	CHECK(pid > 0 && !process_usage(pid, &memory, &usage));
	CHECK(!kill(pid, SIGKILL) && waitpid(pid, NULL, 0) == pid);
	CHECK(process_usage(pid, &memory, &usage) == -ESRCH); /* what was kept is not told */
}

int main(void)
{
	TEST(memory_is_asked_for_once_in_a_second);
	TEST(a_process_that_is_gone_costs_nothing);
	return 0;
}
