/* SPDX-License-Identifier: MIT */
/*
 * test_confine.c - a daemon that a guest has taken over tries what is left to user 0
 *
 * It is confined as the daemon is, in a child, and attacks this process and the host. What the daemon needs still
 * works.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "util/io.h"
#include "vm/jail/confine.h"

static char dir[] = "/tmp/sbx-test-confine-XXXXXX";
static char state[PATH_MAX], kernel[PATH_MAX], initrd[PATH_MAX], secret[PATH_MAX];
static int mine;

/* An attempt that succeeds is a hole. */
#define MUST_FAIL(what, attempt)                                                                             \
	do {                                                                                                 \
		if ((attempt) >= 0) {                                                                        \
			fprintf(stderr, "it can %s\n", what);                                                \
			_exit(1);                                                                            \
		}                                                                                            \
	} while (0)
#define MUST(what, ok)                                                                                       \
	do {                                                                                                 \
		if (!(ok)) {                                                                                 \
			fprintf(stderr, "it cannot %s: %s\n", what, strerror(errno));                        \
			_exit(1);                                                                            \
		}                                                                                            \
	} while (0)

static void confined(void)
{
	const struct confinement confinement = { .state = state, .kernel = kernel, .initrd = initrd };
	struct err err = { 0 };

	if (confine(&confinement, &err)) {
		fprintf(stderr, "%s\n", err.text);
		_exit(1);
	}
}

static void files(void)
{
	char path[2 * PATH_MAX];

	MUST_FAIL("read the host's secrets", open("/etc/shadow", O_RDONLY));
	MUST_FAIL("read what is beside its store", open(secret, O_RDONLY));
	snprintf(path, sizeof(path), "%s/../secret", state);
	MUST_FAIL("go up from its store", open(path, O_RDONLY));
	MUST_FAIL("name the program for core dumps", open("/proc/sys/kernel/core_pattern", O_WRONLY));
	MUST_FAIL("read the kernel's memory map", open("/proc/kallsyms", O_RDONLY));
	MUST_FAIL("use sysrq", open("/proc/sysrq-trigger", O_WRONLY));
	MUST_FAIL("write beside its store", open("/tmp/x", O_CREAT | O_WRONLY, 0600));
	MUST_FAIL("change the guest's kernel", open(kernel, O_WRONLY));
	MUST_FAIL("make a device", mknod("/x", S_IFBLK | 0600, 0));
	snprintf(path, sizeof(path), "%s/device", state);
	MUST_FAIL("make a device in its store", mknod(path, S_IFBLK | 0600, makedev(254, 0)));
	snprintf(path, sizeof(path), "/proc/%d/root/etc/shadow", getppid());
	MUST_FAIL("go through another process's root", open(path, O_RDONLY));
	snprintf(path, sizeof(path), "/proc/%d/cwd", getppid());
	MUST_FAIL("go through another process's directory", open(path, O_RDONLY));
}

static void processes(void)
{
	const pid_t parent = getppid();
	char path[64], byte = 0;
	struct iovec local = { &byte, 1 }, remote = { &mine, 1 };

	MUST_FAIL("signal another process", kill(parent, SIGTERM));
	MUST_FAIL("signal all processes", kill(-1, 0));
	MUST_FAIL("signal another thread", syscall(SYS_tgkill, parent, parent, SIGTERM));
	MUST_FAIL("signal through a pidfd", syscall(SYS_pidfd_open, parent, 0));
	MUST_FAIL("trace another process", ptrace(PTRACE_SEIZE, parent, NULL, NULL));
	MUST_FAIL("write another process's memory", process_vm_writev(parent, &local, 1, &remote, 1, 0));
	snprintf(path, sizeof(path), "/proc/%d/mem", parent);
	MUST_FAIL("open another process's memory", open(path, O_RDWR));
	snprintf(path, sizeof(path), "/proc/%d/environ", parent);
	MUST_FAIL("read another process's environment", open(path, O_RDONLY));
	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", parent);
	MUST_FAIL("have another process ended first", open(path, O_WRONLY));
	MUST_FAIL("start a program", execl("/proc/self/exe", "x", NULL));
	MUST_FAIL("start a program that it holds",
		  syscall(SYS_execveat, open(kernel, O_RDONLY), "", NULL, NULL, AT_EMPTY_PATH));
}

static void privileges(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	const struct __user_cap_data_struct all[_LINUX_CAPABILITY_U32S_3] = { { ~0u, ~0u, 0 },
									      { ~0u, ~0u, 0 } };

	MUST_FAIL("take capabilities back", syscall(SYS_capset, &header, all));
	MUST_FAIL("mount", mount("x", state, "tmpfs", 0, NULL));
	MUST_FAIL("unmount", umount2(state, MNT_DETACH));
	MUST_FAIL("make a user namespace", unshare(CLONE_NEWUSER));
	MUST_FAIL("make namespaces by clone",
		  syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, 0));
#ifndef __SANITIZE_ADDRESS__
	MUST_FAIL("make processes", fork());
#endif
	MUST_FAIL("become somebody", setresuid(1000, 1000, 1000));
	MUST_FAIL("change its root", chroot(state));
	MUST_FAIL("load a module", syscall(SYS_init_module, NULL, 0, ""));
	MUST_FAIL("reboot", reboot(RB_DISABLE_CAD));
	MUST_FAIL("load a program into the kernel", syscall(SYS_bpf, 0, NULL, 0));
	MUST_FAIL("use keys", syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 1));
	MUST_FAIL("open files by handle", syscall(SYS_open_by_handle_at, AT_FDCWD, NULL, 0));
	MUST_FAIL("take a raw socket", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	MUST_FAIL("be more important", setpriority(PRIO_PROCESS, 0, -5));
}

static void *thread(void *arg)
{
	return arg;
}

/* What the daemon does all day. */
static void its_work(void)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	char path[2 * PATH_MAX], again[64], byte;
	pthread_t id;
	int fd, other;

	snprintf(path, sizeof(path), "%s/file", state);
	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	MUST("make a file in its store", fd >= 0 && write(fd, "x", 1) == 1 && !fsync(fd));
	snprintf(again, sizeof(again), "/proc/self/fd/%d", fd);
	other = open(again, O_RDONLY | O_CLOEXEC);
	MUST("open a file once more", other >= 0 && read(other, &byte, 1) == 1);
	MUST("open the guest's kernel", open(kernel, O_RDONLY) >= 0 && open(initrd, O_RDONLY) >= 0);
	snprintf(path, sizeof(path), "/proc/%d/status", getppid());
	MUST("ask for a caller's umask", open(path, O_RDONLY) >= 0);
	fd = memfd_new("x", 4096);
	MUST("make memory", fd >= 0 && !memfd_seal(fd));
	/* Whether somebody has the port already is another matter. */
	in.sin_port = htons(7);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	MUST("try a low port",
	     fd >= 0 && (!bind(fd, (struct sockaddr *)&in, sizeof(in)) || errno == EADDRINUSE));
	MUST("make a thread", !pthread_create(&id, NULL, thread, NULL) && !pthread_join(id, NULL));
	MUST("signal itself", !raise(0));
}

/* An ordinary user's daemon: the files are its user's, and the kernel's calls are not. */
static void calls(void)
{
	struct err err = { 0 };
	int fd;

	MUST("give up its ids", !setresgid(1000, 1000, 1000) && !setresuid(1000, 1000, 1000));
	MUST("be confined", !confine_calls(&err));
	MUST_FAIL("start a program", execl("/bin/true", "true", NULL));
	MUST_FAIL("signal another process", kill(getppid(), 0));
	MUST_FAIL("make a user namespace", unshare(CLONE_NEWUSER));
	MUST_FAIL("take a netlink socket", socket(AF_NETLINK, SOCK_RAW, 0));
	MUST_FAIL("take a socket of a kind that there is none of", socket(0, SOCK_STREAM, 0));
	MUST_FAIL("use the kernel's ciphers", socket(AF_ALG, SOCK_SEQPACKET, 0));
	MUST_FAIL("talk to other machines", socket(AF_VSOCK, SOCK_STREAM, 0));
	MUST_FAIL("make semaphores", syscall(SYS_semget, 0, 1, 0600));
	MUST_FAIL("type into a terminal", ioctl(0, TIOCSTI, ""));
	MUST_FAIL("use an io_uring", syscall(SYS_io_uring_enter, 0, 0, 0, 0, NULL, 0));
#ifndef __SANITIZE_ADDRESS__
	/* These, and whatever a kernel will have. */
	MUST("have no call that it does not need",
	     syscall(SYS_quotactl_fd, 0, 0, 0, 0) < 0 && errno == ENOSYS);
	MUST("have no call of the future", syscall(1000) < 0 && errno == ENOSYS);
	MUST_FAIL("read what terminals are asked", ioctl(0, FIONREAD, &fd));
	MUST_FAIL("signal by way of a descriptor",
		  fcntl(socket(AF_UNIX, SOCK_STREAM, 0), F_SETOWN, getppid()));
	MUST_FAIL("change another's limits",
		  prlimit(getppid(), RLIMIT_NOFILE, &(struct rlimit){ 1, 1 }, NULL));
	MUST_FAIL("make another less important", setpriority(PRIO_PROCESS, (id_t)getppid(), 19));
	MUST_FAIL("trace itself", ptrace(PTRACE_TRACEME, 0, NULL, NULL));
	MUST_FAIL("make processes", fork());
	MUST_FAIL("make memory a program",
		  mprotect((void *)((uintptr_t)&calls & ~4095ul), 4096, PROT_READ | PROT_EXEC));
	MUST("map none",
	     mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
	fd = memfd_new("x", 4096);
	MUST("be refused pages of its own making by the filter",
	     ioctl(fd, UFFDIO_COPY, NULL) < 0 && errno == ENOSYS);
	/* What it follows QEMU's writes with: refused by what it asks here, and by no filter. */
	MUST("ask a userfaultfd", ioctl(fd, UFFDIO_API, NULL) < 0 && errno == ENOTTY);
	MUST("have writes followed", ioctl(fd, UFFDIO_REGISTER, NULL) < 0 && errno == ENOTTY);
	MUST("have them followed no more", ioctl(fd, UFFDIO_UNREGISTER, NULL) < 0 && errno == ENOTTY);
	MUST("scan a page map", ioctl(fd, _IOWR('f', 16, char[96]), NULL) < 0 && errno == ENOTTY);
#endif
	MUST("be without new privileges", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
	MUST("read its user's files", fd >= 0);
	MUST("take sockets that it uses",
	     socket(AF_INET6, SOCK_DGRAM, 0) >= 0 && socket(AF_UNIX, SOCK_STREAM, 0) >= 0);
}

static void in_child(void (*before)(void), void (*attack)(void))
{
	const pid_t pid = fork();
	int status;

	if (!pid) {
		if (before)
			before();
		attack();
		_exit(0);
	}
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status));
}

static void it_reaches_no_files(void)
{
	in_child(confined, files);
}

static void it_reaches_no_other_process(void)
{
	in_child(confined, processes);
}

static void it_has_no_privileges(void)
{
	in_child(confined, privileges);
}

static void it_can_do_its_work(void)
{
	in_child(confined, its_work);
}

static void an_ordinary_users_has_the_filter(void)
{
	in_child(NULL, calls);
}

static void what_is_not_there_is_said(void)
{
	const struct confinement confinement = { .state = "/nonexistent",
						 .kernel = kernel,
						 .initrd = initrd };
	const pid_t pid = fork();
	struct err err = { 0 };
	int status;

	if (!pid)
		_exit(confine(&confinement, &err) != -ENOENT || !strstr(err.text, "/nonexistent"));
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status));
}

int main(void)
{
	if (geteuid()) {
		printf("skipped: only root's daemon is confined\n");
		return 0;
	}
	scratch_dir(dir);
	snprintf(state, sizeof(state), "%s/state", dir);
	snprintf(kernel, sizeof(kernel), "%s/vmlinuz", dir);
	snprintf(initrd, sizeof(initrd), "%s/initramfs", dir);
	snprintf(secret, sizeof(secret), "%s/secret", dir);
	sh_in(dir, "mkdir state && cp /bin/true vmlinuz && echo x > initramfs && echo x > secret");
	TEST(it_reaches_no_files);
	TEST(it_reaches_no_other_process);
	TEST(it_has_no_privileges);
	TEST(it_can_do_its_work);
	TEST(what_is_not_there_is_said);
	TEST(an_ordinary_users_has_the_filter);
	return 0;
}
