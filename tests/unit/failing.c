/* SPDX-License-Identifier: MIT */
/*
 * failing.c - an allocator, and system calls, that fail when they are told to
 *
 * The functions of malloc(3) are defined here, so the whole process uses them, libraries too; they count, and
 * then call those of the sanitizer, if there is one, or of the C library. While a body runs every block is
 * kept in a table with the address that asked for it, so that one that stays is found and named at once, and
 * in the run that lost it. What the dynamic linker allocates (a thread's storage, kept for the next thread) is
 * left out of the table.
 */
#include "tests/unit/failing.h"

#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/unit.h"

/* What the sanitizer's library has, where it is linked; the other names are the C library's own. */
extern void *__interceptor_malloc(size_t n) __attribute__((weak));
extern void *__interceptor_calloc(size_t n, size_t size) __attribute__((weak));
extern void *__interceptor_realloc(void *p, size_t n) __attribute__((weak));
extern void *__interceptor_memalign(size_t align, size_t n) __attribute__((weak));
extern void __interceptor_free(void *p) __attribute__((weak));
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);
extern void __libc_free(void *p);

enum { TABLE = 1 << 15, FDS = 256, FRAMES = 24, RUNS_MAX = 20000 };

enum round { NONE, ONE_ALLOCATION, ALL_ALLOCATIONS, SYSTEM_CALL, ROUNDS };
static const char *const round_names[] = { "nothing", "one allocation", "all allocations",
					   "one system call" };

static atomic_bool armed, running;
static __thread bool ours;   /* this thread is in our code, and not in what starts and ends threads */
static enum round round_now; /* what fails; changes between runs only */
static atomic_long left;     /* requests until one fails */
static atomic_int failed;    /* how many did */
static int failed_errno;
static long run_now;
static const char *body_name;
static void *frames[FRAMES];
static int nframes;

/* The sanitizer overlooks what the dynamic linker keeps, but only where that calls malloc of the sanitizer's own. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:ld-linux\n";
}

/* ---- blocks that are in use */

static struct {
	void *p, *caller;
} table[TABLE];
static atomic_flag table_lock = ATOMIC_FLAG_INIT;
static unsigned in_table;
/* Where the code of a library is, or of the program. */
struct range {
	const char *name;
	uintptr_t start, end;
};
static struct range linker = { .name = "ld-linux" }, program = { .name = "" };
static bool libraries_too;

static bool within(const struct range *range, const void *at)
{
	return (uintptr_t)at >= range->start && (uintptr_t)at < range->end;
}

static unsigned slot_of(const void *p)
{
	return (unsigned)(((uintptr_t)p >> 4) * 2654435761u) % TABLE;
}

static void lock(void)
{
	while (atomic_flag_test_and_set_explicit(&table_lock, memory_order_acquire))
		;
}

static void unlock(void)
{
	atomic_flag_clear_explicit(&table_lock, memory_order_release);
}

static void note(void *p, void *caller)
{
	unsigned i;

	if (!p || !running || within(&linker, caller) || (!libraries_too && !within(&program, caller)))
		return;
	lock();
	if (in_table == TABLE / 2)
		abort();
	for (i = slot_of(p); table[i].p; i = (i + 1) % TABLE)
		;
	table[i].p = p;
	table[i].caller = caller;
	in_table++;
	unlock();
}

static void forget(const void *p)
{
	unsigned i, hole, home;

	if (!p || !running)
		return;
	lock();
	for (i = slot_of(p); table[i].p && table[i].p != p; i = (i + 1) % TABLE)
		;
	if (table[i].p) {
		in_table--;
		/* Those behind move up, where the hole is between their place and their slot. */
		for (hole = i, i = (i + 1) % TABLE; table[i].p; i = (i + 1) % TABLE) {
			home = slot_of(table[i].p);
			if ((i - home) % TABLE >= (i - hole) % TABLE) {
				table[hole] = table[i];
				hole = i;
			}
		}
		table[hole].p = NULL;
	}
	unlock();
}

/* ---- failing */

void failing_arm(bool on)
{
	armed = on;
}

/* Whether this request fails. */
static bool refuse(bool allocation, int error, const void *caller)
{
	if (!armed || !ours || (!libraries_too && !within(&program, caller)) ||
	    (round_now == SYSTEM_CALL) == allocation || round_now == NONE)
		return false;
	if (atomic_fetch_sub(&left, 1) > 1)
		return false;
	if (round_now != ALL_ALLOCATIONS && failed)
		return false;
	if (!failed++) {
		failed_errno = error;
		armed = false;
		nframes = backtrace(frames, FRAMES);
		armed = true;
	}
	errno = error;
	return true;
}

bool failing_did(void)
{
	return failed;
}

bool failing_excuses(int rc)
{
	if (rc && (!failed || (rc != -failed_errno && rc != -ENOMEM))) {
		fprintf(stderr, "%s: %d (%s)\n", body_name, rc, strerror(-rc));
		return false;
	}
	return true;
}

/* Says which run it was, when a CHECK() in a body ends the program. */
static void tell(void)
{
	if (!running)
		return;
	running = armed = false;
	fprintf(stderr, "%s: %s, number %ld, failed (%d in all):\n", body_name, round_names[round_now],
		run_now, failed);
	backtrace_symbols_fd(frames, nframes, STDERR_FILENO);
}

/* The program is lost anyway: better a word too many than none. */
/* NOLINTBEGIN(bugprone-signal-handler) */
static void tell_of_signal(int signal)
{
	void *here[FRAMES];
	int n = backtrace(here, FRAMES);

	fprintf(stderr, "%s, at:\n", strsignal(signal));
	backtrace_symbols_fd(here, n, STDERR_FILENO);
	tell();
	_exit(1);
}
/* NOLINTEND(bugprone-signal-handler) */

/* ---- malloc(3) */

#define CALLER __builtin_return_address(0)

/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name) */
void *malloc(size_t n)
{
	void *p;

	if (refuse(true, ENOMEM, CALLER))
		return NULL;
	p = __interceptor_malloc ? __interceptor_malloc(n) : __libc_malloc(n);
	note(p, CALLER);
	return p;
}

void *calloc(size_t n, size_t size)
{
	void *p;

	if (refuse(true, ENOMEM, CALLER))
		return NULL;
	p = __interceptor_calloc ? __interceptor_calloc(n, size) : __libc_calloc(n, size);
	note(p, CALLER);
	return p;
}

static void *resize(void *old, size_t n, void *caller)
{
	void *p;

	if (refuse(true, ENOMEM, caller))
		return NULL;
	forget(old);
	p = __interceptor_realloc ? __interceptor_realloc(old, n) : __libc_realloc(old, n);
	note(p, caller);
	return p;
}

void *realloc(void *old, size_t n)
{
	return resize(old, n, CALLER);
}

void *reallocarray(void *old, size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return resize(old, bytes, CALLER);
}

static void *aligned(size_t align, size_t n, void *caller)
{
	void *p;

	if (refuse(true, ENOMEM, caller))
		return NULL;
	p = __interceptor_memalign ? __interceptor_memalign(align, n) : __libc_memalign(align, n);
	note(p, caller);
	return p;
}

void *aligned_alloc(size_t align, size_t n)
{
	return aligned(align, n, CALLER);
}

void *memalign(size_t align, size_t n);
void *memalign(size_t align, size_t n)
{
	return aligned(align, n, CALLER);
}

int posix_memalign(void **ret, size_t align, size_t n)
{
	void *p = aligned(align, n, CALLER);

	if (!p)
		return ENOMEM;
	*ret = p;
	return 0;
}

static void *copy(const char *text, size_t n, void *caller)
{
	char *p;

	if (refuse(true, ENOMEM, caller))
		return NULL;
	p = __interceptor_malloc ? __interceptor_malloc(n + 1) : __libc_malloc(n + 1);
	if (p) {
		memcpy(p, text, n);
		p[n] = '\0';
	}
	note(p, caller);
	return p;
}

char *strdup(const char *text)
{
	return copy(text, strlen(text), CALLER);
}

char *strndup(const char *text, size_t max)
{
	return copy(text, strnlen(text, max), CALLER);
}

void free(void *p)
{
	forget(p);
	if (__interceptor_free)
		__interceptor_free(p);
	else
		__libc_free(p);
}

/* ---- system calls */

#define WRAP(type, name, error, bad, params, args)                                                           \
	type __real_##name params;                                                                           \
	type __wrap_##name params;                                                                           \
	type __wrap_##name params                                                                            \
	{                                                                                                    \
		return refuse(false, error, CALLER) ? (bad) : __real_##name args;                            \
	}

WRAP(int, openat64, EMFILE, -1, (int dir, const char *path, int flags, mode_t mode), (dir, path, flags, mode))
WRAP(int, open64, EMFILE, -1, (const char *path, int flags, mode_t mode), (path, flags, mode))
WRAP(void *, mmap64, ENOMEM, MAP_FAILED, (void *at, size_t n, int prot, int flags, int fd, off_t offset),
     (at, n, prot, flags, fd, offset))
WRAP(int, memfd_create, EMFILE, -1, (const char *name, unsigned flags), (name, flags))
WRAP(int, socketpair, EMFILE, -1, (int domain, int type, int protocol, int fds[2]),
     (domain, type, protocol, fds))
WRAP(int, pipe2, EMFILE, -1, (int fds[2], int flags), (fds, flags))
WRAP(int, epoll_create1, EMFILE, -1, (int flags), (flags))
WRAP(int, eventfd, EMFILE, -1, (unsigned count, int flags), (count, flags))
WRAP(int, ftruncate64, ENOSPC, -1, (int fd, off_t size), (fd, size))
WRAP(pid_t, fork, EAGAIN, -1, (void), ())

/* Only the first of these asks for memory. */
int __real_epoll_ctl(int epoll, int op, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll, int op, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
	return op == EPOLL_CTL_ADD && refuse(false, ENOMEM, CALLER) ? -1
								    : __real_epoll_ctl(epoll, op, fd, event);
}

typedef int (*child_fn)(void *arg);
int __real_clone(child_fn fn, void *stack, int flags, void *arg, ...);
int __wrap_clone(child_fn fn, void *stack, int flags, void *arg, int *pidfd);
int __wrap_clone(child_fn fn, void *stack, int flags, void *arg, int *pidfd)
{
	return refuse(false, EAGAIN, CALLER) ? -1 : __real_clone(fn, stack, flags, arg, pidfd);
}

typedef void *(*thread_fn)(void *arg);
int __real_pthread_create(pthread_t *ret, const pthread_attr_t *attr, thread_fn fn, void *arg);
int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attr, thread_fn fn, void *arg);

struct thread {
	thread_fn fn;
	void *arg;
};

static void *thread_main(void *arg)
{
	const struct thread thread = *(struct thread *)arg;
	void *result;

	__libc_free(arg);
	ours = true;
	result = thread.fn(thread.arg);
	ours = false;
	return result;
}

int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attr, thread_fn fn, void *arg)
{
	struct thread *thread;
	int rc;

	if (refuse(false, EAGAIN, CALLER))
		return EAGAIN;
	thread = __libc_malloc(sizeof(*thread));
	CHECK(thread);
	*thread = (struct thread){ fn, arg };
	rc = __real_pthread_create(ret, attr, thread_main, thread);
	if (rc)
		__libc_free(thread);
	return rc;
}
/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */

/* ---- runs */

static int find_range(struct dl_phdr_info *info, size_t size, void *arg)
{
	const char *slash = strrchr(info->dlpi_name, '/');
	struct range *range = arg;
	const char *name = slash ? slash + 1 : info->dlpi_name;

	(void)size;
	if (strncmp(name, range->name, *range->name ? strlen(range->name) : 1) != 0)
		return 0;
	range->start = info->dlpi_addr;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD)
			range->end =
				info->dlpi_addr + info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz;
	return 1;
}

static unsigned open_fds(bool fds[FDS])
{
	unsigned n = 0;

	for (int fd = 0; fd < FDS; fd++)
		n += fds[fd] = fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void check_nothing_stays(const bool fds[FDS])
{
	bool now[FDS];

	for (unsigned i = 0; in_table && i < TABLE; i++)
		if (table[i].p) {
			fprintf(stderr, "a block stays, asked for at:\n");
			backtrace_symbols_fd(&table[i].caller, 1, STDERR_FILENO);
		}
	open_fds(now);
	for (int fd = 0; fd < FDS; fd++)
		if (now[fd] != fds[fd])
			fprintf(stderr, "descriptor %d was %s\n", fd, now[fd] ? "left open" : "closed");
	CHECK(!in_table);
	CHECK(!memcmp(now, fds, sizeof(now)));
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
}

static void run_once(void (*body)(void), enum round round, long n)
{
	bool fds[FDS];

	open_fds(fds);
	memset(table, 0, sizeof(table));
	in_table = 0;
	round_now = round;
	run_now = n;
	left = n;
	failed = 0;
	nframes = 0;
	running = true;
	body();
	armed = false;
	check_nothing_stays(fds);
	running = false;
}

/* In a child nothing fails: what it is refused, the parent could not know. */
static void disarm(void)
{
	armed = false;
}

void failing_run(const char *name, void (*body)(void), bool libraries)
{
	static bool ready;
	long runs[ROUNDS] = { 0 };

	if (!ready) {
		ready = true;
		CHECK(dl_iterate_phdr(find_range, &linker) && dl_iterate_phdr(find_range, &program));
		nframes = backtrace(frames, FRAMES); /* what it loads, it loads now */
		atexit(tell);
		CHECK(!pthread_atfork(NULL, NULL, disarm));
		if (!__interceptor_malloc) { /* a sanitizer tells more */
			signal(SIGSEGV, tell_of_signal);
			signal(SIGABRT, tell_of_signal);
		}
	}
	ours = true;
	body_name = name;
	libraries_too = libraries;
	body(); /* what libraries keep for the next time, they have from now on */
	run_once(body, NONE, 0);
	for (enum round round = ONE_ALLOCATION; round < ROUNDS; round++) {
		do {
			CHECK(runs[round] < RUNS_MAX);
			run_once(body, round, ++runs[round]);
		} while (failed);
	}
	printf("ok %s, %ld allocations and %ld system calls failing\n", name, runs[ONE_ALLOCATION] - 1,
	       runs[SYSTEM_CALL] - 1);
	fflush(stdout);
}
