/* SPDX-License-Identifier: MIT */
/*
 * test_seccomp.c - the system call filters of sbx-vmm and sbx-net: what each needs goes through, and nothing else
 *
 * Each call is made in a process of its own, which has entered the filter. One that is refused ends it with
 * DENIED_STATUS.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "util/denied.h"
#include "vm/net/stack.h"
#include "vm/vmm/seccomp.h"

enum { PAGE = 4096, FAILED = 9 };
enum where { LOOP, VCPU, NET };

static int enter(enum where where)
{
	int rc = where == NET ? net_seccomp_enter(NULL) : seccomp_enter(NULL);

	return !rc && where == VCPU ? seccomp_enter_vcpu(NULL) : rc;
}

static void *page; /* mapped before the filter */

static int in_filter(enum where where, int (*call)(void))
{
	const pid_t pid = fork();
	int status;

	if (!pid) {
		close(STDERR_FILENO); /* it says what it refuses */
		if (enter(where))
			_exit(FAILED);
		_exit(call() < 0 ? FAILED : 0);
	}
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

#define CALL(name, expression)                                                                               \
	static int name(void)                                                                                \
	{                                                                                                    \
		return (long)(expression) < 0 ? -1 : 0;                                                      \
	}

/* ---- what must go through */

CALL(reads_a_file, open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC))
CALL(looks_at_a_file, fstat(0, &(struct stat){ 0 }))
CALL(maps_memory,
     mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0)
CALL(makes_memory, memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING))
CALL(follows_its_parent, prctl(PR_SET_PDEATHSIG, SIGKILL))

static void *nothing(void *arg)
{
	return arg;
}

static int starts_a_thread(void)
{
	pthread_t thread;

	return pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL) ? -1 : 0;
}

static int copies_itself(void)
{
	const pid_t pid = _Fork();
	int status = -1;

	if (!pid)
		_exit(0);
	return pid > 0 && waitpid(pid, &status, 0) == pid && !status ? 0 : -1;
}

static int allocates_much(void)
{
	void *p = malloc(64 << 20), *more;

	if (!p)
		return -1;
	memset(p, 1, 64 << 20);
	more = realloc(p, 128 << 20);
	if (!more) {
		free(p);
		return -1;
	}
	free(more);
	return 0;
}

/* ---- what must not */

CALL(opens_to_write, open("/dev/null", O_WRONLY | O_CLOEXEC))
CALL(opens_to_read_and_write, open("/dev/null", O_RDWR | O_CLOEXEC))
CALL(makes_a_file, open("/tmp/sbx-test-seccomp", O_CREAT | O_RDONLY | O_CLOEXEC, 0600))
CALL(opens_a_directory, open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC))
CALL(removes_a_file, unlink("/tmp/sbx-test-seccomp"))
CALL(asks_for_a_path, access("/etc/passwd", R_OK))
CALL(stats_a_path, stat("/etc/passwd", &(struct stat){ 0 }))
CALL(maps_code, mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
CALL(makes_code, mprotect(page, PAGE, PROT_READ | PROT_EXEC))
CALL(makes_a_socket, socket(AF_UNIX, SOCK_STREAM, 0))
CALL(makes_an_internet_socket, socket(AF_INET, SOCK_STREAM, 0))
CALL(makes_a_packet_socket, socket(AF_PACKET, SOCK_RAW, 0))
CALL(makes_a_pair, socketpair(AF_UNIX, SOCK_STREAM, 0, (int[2]){ 0, 0 }))
CALL(executes, execl("/bin/true", "true", NULL))
/* Not libc's, which blocks all signals before: SIGSYS then kills, and nothing is said. */
CALL(makes_a_process, syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0))
CALL(makes_a_namespace, syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0))
CALL(leaves_a_namespace, unshare(CLONE_NEWUSER))
CALL(traces, ptrace(PTRACE_TRACEME, 0, 0, 0))
CALL(signals_its_parent, kill(getppid(), SIGTERM))
CALL(signals_a_thread_of_others, syscall(SYS_tgkill, 1, 1, SIGTERM))
CALL(becomes_dumpable, prctl(PR_SET_DUMPABLE, 1))
CALL(changes_a_handler, sigaction(SIGSYS, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL))
CALL(types_into_a_terminal, ioctl(0, TIOCSTI, "x"))
CALL(makes_a_machine, ioctl(0, KVM_CREATE_VM, 0))
CALL(gives_a_machine_memory, ioctl(0, KVM_SET_USER_MEMORY_REGION, 0))
CALL(hides_a_request, syscall(SYS_ioctl, 0, KVM_RUN | 1ull << 32, 0))
CALL(wants_signals, fcntl(0, F_SETOWN, getpid()))
CALL(raises_a_limit, setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 10, 10 }))
CALL(waits_for_notices, syscall(SYS_seccomp, 1, 8 /* SECCOMP_FILTER_FLAG_NEW_LISTENER */, 0))

#define MUST_GO(where, call) CHECK(in_filter(where, call) == 0)
#define MUST_NOT(where, call) CHECK(in_filter(where, call) == DENIED_STATUS)

static void *frees_much(void *arg)
{
	enum { BLOCKS = 400, BLOCK = 100 << 10 }; /* below what malloc(3) maps by itself */
	static char *blocks[BLOCKS];

	for (int i = 0; i < BLOCKS; i++) {
		blocks[i] = malloc(BLOCK);
		if (blocks[i])
			memset(blocks[i], 1, BLOCK);
	}
	/* From the end of the thread's heap, whose memory libc then gives back: it looks at overcommit_memory how. */
	for (int i = BLOCKS; i--;)
		free(blocks[i]);
	return arg;
}

static int a_thread_frees_much(void)
{
	pthread_t thread;

	return pthread_create(&thread, NULL, frees_much, NULL) || pthread_join(thread, NULL) ? -1 : 0;
}

static void a_vmm_can_work(void)
{
	MUST_GO(LOOP, reads_a_file);
	MUST_GO(LOOP, looks_at_a_file);
	MUST_GO(LOOP, maps_memory);
	MUST_GO(LOOP, makes_memory);
	MUST_GO(LOOP, follows_its_parent);
	MUST_GO(LOOP, starts_a_thread);
	MUST_GO(LOOP, copies_itself);
	MUST_GO(LOOP, allocates_much);
	MUST_GO(LOOP, a_thread_frees_much);
}

static void nothing_else_goes_through(void)
{
	MUST_NOT(LOOP, opens_to_write);
	MUST_NOT(LOOP, opens_to_read_and_write);
	MUST_NOT(LOOP, makes_a_file);
	MUST_NOT(LOOP, opens_a_directory);
	MUST_NOT(LOOP, removes_a_file);
	MUST_NOT(LOOP, asks_for_a_path);
	MUST_NOT(LOOP, stats_a_path);
	MUST_NOT(LOOP, maps_code);
	MUST_NOT(LOOP, makes_code);
	MUST_NOT(LOOP, makes_a_socket);
	MUST_NOT(LOOP, makes_a_pair);
	MUST_NOT(LOOP, executes);
	MUST_NOT(LOOP, makes_a_namespace);
	MUST_NOT(LOOP, leaves_a_namespace);
	MUST_NOT(LOOP, traces);
	MUST_NOT(LOOP, signals_its_parent);
	MUST_NOT(LOOP, signals_a_thread_of_others);
	MUST_NOT(LOOP, becomes_dumpable);
	MUST_NOT(LOOP, changes_a_handler);
	MUST_NOT(LOOP, types_into_a_terminal);
	MUST_NOT(LOOP, makes_a_machine);
	MUST_NOT(LOOP, gives_a_machine_memory);
	MUST_NOT(LOOP, hides_a_request);
	MUST_NOT(LOOP, wants_signals);
	MUST_NOT(LOOP, raises_a_limit);
	MUST_NOT(LOOP, waits_for_notices);
}

static void a_vcpu_needs_less(void)
{
	MUST_GO(VCPU, looks_at_a_file);
	MUST_GO(VCPU, maps_memory);
	MUST_GO(VCPU, starts_a_thread);
	MUST_GO(VCPU, allocates_much);
	MUST_GO(VCPU, a_thread_frees_much);
	CHECK(in_filter(VCPU, reads_a_file) == FAILED); /* it may go on */
	MUST_NOT(VCPU, opens_to_write);
	MUST_NOT(VCPU, makes_memory);
	MUST_NOT(VCPU, copies_itself);
	MUST_NOT(VCPU, follows_its_parent);
}

static void a_network_is_sockets(void)
{
	MUST_GO(NET, looks_at_a_file);
	MUST_GO(NET, allocates_much);
	MUST_GO(NET, makes_an_internet_socket);
	/* refused with an errno that its libraries live with */
	CHECK(in_filter(NET, reads_a_file) == FAILED);
	CHECK(in_filter(NET, makes_a_socket) == FAILED);
	MUST_NOT(NET, makes_a_packet_socket);
	MUST_NOT(NET, makes_a_pair);
	MUST_NOT(NET, makes_memory);
	MUST_NOT(NET, makes_a_process);
	MUST_NOT(NET, executes);
	MUST_NOT(NET, traces);
	MUST_NOT(NET, signals_its_parent);
	MUST_NOT(NET, removes_a_file);
	MUST_NOT(NET, changes_a_handler);
	MUST_NOT(NET, raises_a_limit);
	MUST_NOT(NET, waits_for_notices);
}

static void says_which(enum where where, int (*call)(void), int number)
{
	char text[128] = "", want[64];
	int ends[2], status;
	pid_t pid;

	CHECK(!pipe2(ends, O_CLOEXEC));
	pid = fork();
	if (!pid) {
		dup2(ends[1], STDERR_FILENO);
		if (!enter(where))
			(void)call();
		_exit(0);
	}
	close(ends[1]);
	CHECK(read(ends[0], text, sizeof(text) - 1) > 0);
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == DENIED_STATUS);
	snprintf(want, sizeof(want), "refuses system call %d", number);
	for (char *c = text; *c; c++) /* numbers are right-aligned */
		if (c[0] == ' ' && c[1] == ' ')
			memmove(c, c + 1, strlen(c)), c--;
	CHECK(strstr(text, want));
	close(ends[0]);
}

static void the_log_says_which(void)
{
	says_which(LOOP, makes_a_socket, SYS_socket);
	says_which(NET, makes_a_packet_socket, SYS_socket);
	says_which(NET, makes_a_pair, SYS_socketpair);
}

int main(void)
{
#ifdef __SANITIZE_ADDRESS__
	printf("skipped: no filter holds with AddressSanitizer\n");
	return 0;
#endif
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED);
	CHECK(!starts_a_thread()); /* a VMM has threads before, and libc sets handlers with the first */
	TEST(a_vmm_can_work);
	TEST(nothing_else_goes_through);
	TEST(a_vcpu_needs_less);
	TEST(a_network_is_sockets);
	TEST(the_log_says_which);
	return 0;
}
