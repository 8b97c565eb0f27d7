/* SPDX-License-Identifier: MIT */
/*
 * vmm.c - a VMM that a guest has taken over: it stands in for sbx-vmm behind the real jail, and attacks
 *
 *	sbx-vmm ATTACK [ARGUMENT...]
 *
 * tests/unit/test_jail.c starts it with the launcher. Its exit status is 0 if the attack failed at each
 * attempt, as it must, and 1 if something succeeded; what did is the last line of its log.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

static int succeeded;

__attribute__((format(printf, 1, 2))) static void report(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	succeeded = 1;
}

/* What must fail. */
#define TRY(what, call)                                                                                      \
	do {                                                                                                 \
		errno = 0;                                                                                   \
		if ((long)(call) >= 0)                                                                       \
			report("%s succeeded", what);                                                        \
	} while (0)

/* What must be so. */
#define EXPECT(what, condition)                                                                              \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			report("%s", what);                                                                  \
	} while (0)

/* ---- files */

static void try_open(const char *path)
{
	if (open(path, O_RDONLY) >= 0)
		report("%s opens", path);
	if (open(path, O_WRONLY) >= 0)
		report("%s opens for writing", path);
}

/* Every file there is. allowed: those that must be there, a list that NULL ends. */
static void walk(const char *dir, char **allowed)
{
	char path[4096];
	struct dirent *e;
	struct stat st;
	DIR *d = opendir(dir);
	char **a;

	if (!d)
		return;
	while ((e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		snprintf(path, sizeof(path), "%s/%s", strcmp(dir, "/") ? dir : "", e->d_name);
		if (lstat(path, &st) < 0)
			continue;
		if (!strcmp(path, "/proc")) /* of a sanitizer's build */
			continue;
		if (S_ISDIR(st.st_mode)) {
			walk(path, allowed);
			continue;
		}
		for (a = allowed; *a && strcmp(*a, path) != 0; a++)
			;
		if (!*a)
			report("there is a file %s", path);
		else if (strcmp(path, "/dev/kvm") != 0 && open(path, O_WRONLY) >= 0)
			report("%s opens for writing", path);
	}
	closedir(d);
}

/* Its filter says that there is no such call. */
static int hidden(long rc)
{
	return rc < 0 && errno == ENOSYS;
}

static void attack_files(char **argv)
{
	static const char *const places[] = { "/", "/tmp", "/dev", "/dev/shm", "/proc", "/etc", "/run" };
	char path[64];
	unsigned i;

	walk("/", argv);
	for (; *argv; argv++)
		;
	try_open("/etc/shadow");
	try_open("/etc/passwd");
	try_open("/proc/sys/kernel/core_pattern");
	try_open("/proc/kcore");
	try_open("/sys/kernel/uevent_helper");
	try_open("/dev/mem");
	try_open("/dev/tty");
	try_open("/dev/fuse");
	try_open("../../../../../etc/shadow");
	for (i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(path, sizeof(path), "%s/left", places[i]);
		TRY(path, open(path, O_CREAT | O_WRONLY, 0600));
		TRY(path, mkdir(path, 0700));
		TRY(path, symlink("/etc/shadow", path));
	}
	TRY("mknod", mknod("/tmp/disk", S_IFBLK | 0600, makedev(254, 0)));
	TRY("chroot", chroot("/"));
}

/* Another sandbox's layer, and whatever else the test names. */
static void attack_paths(char **argv)
{
	for (; *argv; argv++)
		try_open(*argv);
}

/* ---- other processes: argv are their pids, as the host counts them */

static void attack_processes(char **argv)
{
	char path[64], byte;
	struct iovec here = { &byte, 1 }, there = { (void *)&succeeded, 1 };
	pid_t pid;

	EXPECT("it sees its parent", getppid() == 0);
	EXPECT("it has no session of its own", hidden(getsid(0)) || getsid(0) == 1);
	TRY("kill of everybody", kill(-1, SIGKILL));
	for (; *argv; argv++) {
		pid = (pid_t)strtol(*argv, NULL, 10);
		TRY("kill", kill(pid, SIGKILL));
		TRY("kill of a group", kill(-pid, SIGKILL));
		TRY("ptrace", ptrace(PTRACE_ATTACH, pid, 0, 0));
		TRY("ptrace seize", ptrace(PTRACE_SEIZE, pid, 0, 0));
		TRY("reading memory", process_vm_readv(pid, &here, 1, &there, 1, 0));
		TRY("pidfd_open", syscall(SYS_pidfd_open, pid, 0));
		TRY("setpriority", setpriority(PRIO_PROCESS, (id_t)pid, 19));
		TRY("prlimit", prlimit(pid, RLIMIT_NOFILE, NULL, &(struct rlimit){ 0 }));
		TRY("sched_setaffinity", sched_setaffinity(pid, sizeof(cpu_set_t), &(cpu_set_t){ 0 }));
		snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
		try_open(path);
	}
}

/* ---- sockets: a port on the host's loopback, and an abstract name */

static void attack_network(char **argv)
{
	struct sockaddr_in in = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)strtoul(argv[0], NULL, 10)),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd;

	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd >= 0)
		TRY("connect to the loopback", connect(fd, (struct sockaddr *)&in, sizeof(in)));
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	memcpy(un.sun_path + 1, argv[1], strlen(argv[1]));
	if (fd >= 0)
		TRY("connect to a name",
		    connect(fd, (struct sockaddr *)&un,
			    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(argv[1]))));
	TRY("a packet socket", socket(AF_PACKET, SOCK_RAW, 0));
	TRY("a raw socket", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	TRY("netlink", socket(AF_NETLINK, SOCK_RAW, 0));
	TRY("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
}

/* ---- privileges */

static void attack_privileges(char **argv)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { { 0 } };
	int cap;

	EXPECT("it has another user id", getuid() == (uid_t)strtoul(argv[0], NULL, 10) || argv[0][0] == '-');
	EXPECT("it has root's id", getuid() && geteuid() && getgid() && getegid());
	EXPECT("it may gain privileges",
	       hidden(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)) || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	EXPECT("it has no filter",
	       hidden(prctl(PR_GET_SECCOMP, 0, 0, 0, 0)) || prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 2);
	if (!syscall(SYS_capget, &header, data))
		EXPECT("it has capabilities", !data[0].effective && !data[1].effective &&
						      !data[0].permitted && !data[1].permitted &&
						      !data[0].inheritable && !data[1].inheritable);
	for (cap = 0; cap < 64; cap++)
		EXPECT("its bounding set is not empty", prctl(PR_CAPBSET_READ, cap, 0, 0, 0) <= 0);
	TRY("setuid", setuid(0));
	TRY("setresuid", setresuid(0, 0, 0));
	TRY("setgid", setgid(0));
	data[0].permitted = data[0].effective = data[0].inheritable = ~0u;
	TRY("capset", syscall(SYS_capset, &header, data));
	TRY("an ambient capability", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0));
	TRY("mount", mount("tmpfs", "/", "tmpfs", 0, NULL));
	TRY("bind", mount("/", "/tmp", NULL, MS_BIND, NULL));
	TRY("remount", mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
	TRY("umount", umount2("/", MNT_DETACH));
	TRY("pivot_root", syscall(SYS_pivot_root, ".", "."));
	TRY("a user namespace", unshare(CLONE_NEWUSER));
	TRY("a mount namespace", unshare(CLONE_NEWNS));
	TRY("a child in a user namespace", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
	TRY("setns", setns(3, 0));
	TRY("keys", syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -3, 0));
	TRY("bpf", syscall(SYS_bpf, 0, NULL, 0));
	TRY("perf",
	    syscall(SYS_perf_event_open, &(struct perf_event_attr){ .size = sizeof(struct perf_event_attr) },
		    0, -1, -1, 0));
	TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
	TRY("io_uring", syscall(SYS_io_uring_setup, 1, NULL));
	TRY("shared memory", shmget(1, 4096, IPC_CREAT | 0600));
	TRY("the kernel's log", syscall(SYS_syslog, 3, &cap, sizeof(cap)));
	TRY("the host's name", sethostname("x", 1));
	TRY("more descriptors", setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 1 << 20, 1 << 20 }));
	TRY("core dumps", setrlimit(RLIMIT_CORE, &(struct rlimit){ 1 << 20, 1 << 20 }));
}

/* ---- what an allow-list leaves: QEMU's, which has no other filter of ours */

static void attack_calls(void)
{
	int ends[2] = { -1, -1 }, n;
	char *const argv[] = { (char *)"sh", NULL };

	TRY("a child", syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
	TRY("a child by vfork", syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0));
	TRY("clone3", syscall(SYS_clone3, NULL, 0) < 0 && errno != ENOSYS ? 0 : -1);
	TRY("another program", execve("/bin/sh", argv, NULL));
	TRY("a socket", socket(AF_UNIX, SOCK_STREAM, 0));
	TRY("a socket of the Internet", socket(AF_INET, SOCK_STREAM, 0));
	TRY("a pair of sockets", socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	TRY("a mode of a file", fchmod(2, 0777));
	TRY("an owner of a file", fchown(2, 0, 0));
	TRY("a limit", syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &(struct rlimit){ 1, 1 }, NULL));
	TRY("a request that is not KVM's", hidden(ioctl(2, FIONREAD, &n)) ? -1 : 0);
	TRY("a call of the future", hidden(syscall(1000)) ? -1 : 0);
	EXPECT("it cannot do its work", getpid() == 1 && syscall(SYS_memfd_create, "own", 0) >= 0);
}

/* ---- what it was given: argv[0] descriptors, argv[1...] words of the environment */

static void attack_leftovers(char **argv)
{
	const int given = 3 + (int)strtol(argv[0], NULL, 10);
	struct rlimit limit;
	struct utsname names;
	char **word;
	char c = 'x';
	int fd;

	for (fd = 0; fd < 4096; fd++)
		if (fcntl(fd, F_GETFD) >= 0 && fd >= given)
			report("it has descriptor %d", fd);
	for (fd = 0; fd < given; fd++) {
		if (isatty(fd))
			report("descriptor %d is a terminal", fd);
		/* The kernel looks at the lower half of a request. */
		if (ioctl(fd, TIOCSTI, &c) >= 0 || syscall(SYS_ioctl, fd, 1UL << 32 | TIOCSTI, &c) >= 0)
			report("it typed into descriptor %d", fd);
	}
	for (word = environ; *word; word++)
		if (strcmp(*word, "LC_ALL=C") != 0 && !strstr(*word, "SAN_OPTIONS="))
			report("its environment has %s", *word);
	EXPECT("its limits are wrong", !getrlimit(RLIMIT_CORE, &limit) && limit.rlim_max == 1);
	EXPECT("it may have many descriptors", !getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_max <= 1024);
	EXPECT("its files are open to others", umask(0) == 077);
	EXPECT("it knows the host's name", !uname(&names) && !strcmp(names.nodename, "sandbox"));
}

/* A child in a session of its own, deaf to signals, that holds what the test watches: descriptor 3. */
static void attack_orphan(void)
{
	if (fork())
		return;
	if (fork())
		_exit(0);
	setsid();
	for (int i = 1; i < NSIG; i++)
		signal(i, SIG_IGN);
	(void)!write(3, "x", 1);
	for (;;)
		pause();
}

/* Fill the log, with what a terminal would obey. */
static void attack_log(void)
{
	static const char text[] = "\033]0;owned\007\033[2J\n";
	int i;

	for (i = 0; i < 1 << 20; i++)
		(void)!write(2, text, sizeof(text) - 1);
	lseek(2, 1ll << 40, SEEK_SET);
	(void)!write(2, text, sizeof(text) - 1);
	lseek(2, 0, SEEK_SET);
	(void)!write(2, "\033[31mred\n", 9);
	TRY("a larger log", ftruncate(2, 1 << 20));
}

/* ---- memory that whoever reads it waits for */

/* QEMU may make a userfaultfd, which the daemon uses; it has no use for it itself. */
static void try_userfaultfd(bool may)
{
	const int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
	TRY("userfaultfd of the user's own faults", syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY));
	TRY("userfaultfd of all faults", syscall(SYS_userfaultfd, O_CLOEXEC));
	TRY("userfaultfd that does not block",
	    syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY));
	EXPECT("whether it may have a userfaultfd is wrong", (fd >= 0) == may);
	if (!may)
		return;
	TRY("a handshake with userfaultfd", hidden(ioctl(fd, UFFDIO_API, &api)) ? -1 : 0);
	TRY("pages of userfaultfd's", hidden(ioctl(fd, UFFDIO_REGISTER, &range)) ? -1 : 0);
}

/* Pages that are there when somebody says so. */
static void attack_waits(bool may)
{
	try_userfaultfd(may);
	TRY("/dev/userfaultfd", open("/dev/userfaultfd", O_RDWR));
	TRY("/dev/fuse", open("/dev/fuse", O_RDWR));
	TRY("/dev/cuse", open("/dev/cuse", O_RDWR));
	TRY("a mount of FUSE", mount("x", "/", "fuse", 0, "fd=3,rootmode=40000,user_id=0,group_id=0"));
	TRY("a filesystem", syscall(SYS_fsopen, "fuse", 0));
	TRY("pages of another's pipe", syscall(SYS_vmsplice, 3, NULL, 0, 0));
	TRY("io_uring", syscall(SYS_io_uring_setup, 1, NULL));
}

/* A socket for the daemon, in whose hands closing it takes a minute. */
static void attack_lingers(void)
{
	const struct linger linger = { 1, 60 };
	const int one = 1;

	TRY("a close that waits", setsockopt(3, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)));
	TRY("the same with bits that the kernel does not look at",
	    syscall(SYS_setsockopt, 3, 1ul << 32 | SOL_SOCKET, 1ul << 32 | SO_LINGER, &linger,
		    sizeof(linger)));
	EXPECT("it may not use its socket", !setsockopt(3, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
}

enum { HOLDERS = 300 };
static off_t held_size;
static void *held_to;

/* The lock of a memfd: what fallocate(2) has while it looks at each page. */
static void *hold_file(void *arg)
{
	for (;;)
		(void)fallocate(*(int *)arg, 0, 0, held_size);
	return NULL;
}

/* That of the description, which the daemon's descriptor shares, while read(2) reads. */
static void *hold_offset(void *arg)
{
	for (;;) {
		lseek(*(int *)arg, 0, SEEK_SET);
		(void)!read(*(int *)arg, held_to, (size_t)held_size);
	}
	return NULL;
}

/* Hold the locks of descriptor 3; 4 is told that it begins. */
static void attack_holds(void)
{
	static int fd = 3;
	pthread_t thread;
	struct stat st;
	int i;

	if (fstat(fd, &st) < 0)
		return;
	held_size = st.st_size;
	held_to = mmap(NULL, (size_t)held_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (i = 0; i < HOLDERS; i++)
		if (pthread_create(&thread, NULL, i % 10 ? hold_file : hold_offset, &fd))
			return;
	sleep(1);
	(void)!write(4, "x", 1);
	for (;;)
		pause();
}

enum { MOVERS = 100 };
static char *moved;

/* Never the same memory for long, and the lock of it as often as can be. */
static void *move_memory(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	const size_t pages = (size_t)held_size >> 12;
	char *at;
	size_t n;

	for (;;) {
		at = moved + ((size_t)rand_r(&seed) % pages << 12);
		n = (size_t)(moved + held_size - at);
		switch (rand_r(&seed) % 5) {
		case 0:
			madvise(at, n, MADV_DONTNEED);
			break;
		case 1:
			mprotect(at, 4096, PROT_READ);
			break;
		case 2:
			mprotect(at, n, PROT_READ | PROT_WRITE);
			break;
		case 3:
			munmap(at, 4096);
			break;
		default:
			(void)mmap(moved, (size_t)held_size, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_FIXED | MAP_POPULATE, 4, 0);
		}
	}
	return NULL;
}

/*
 * In QEMU's place: a userfaultfd goes over the socket 3, as sbx-track.so sends it; then descriptor 4 is mapped as a fork's
 * RAM is, and nothing stays where it is. A byte at 5 tells that it begins.
 */
static void attack_moves(void)
{
	const int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct iovec iov = { (void *)"u", 1 };
	char space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = { 0 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&msg);
	pthread_t thread;
	struct stat st;
	intptr_t i;

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	if (fstat(4, &st) < 0 || sendmsg(3, &msg, 0) != 1)
		return;
	close(3);
	close(fd);
	held_size = st.st_size;
	moved = mmap(NULL, (size_t)held_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, 4, 0);
	if (moved == MAP_FAILED)
		return;
	for (i = 0; i < held_size; i += 8192)
		moved[i] = 1;
	for (i = 1; i <= MOVERS; i++)
		if (pthread_create(&thread, NULL, move_memory, (void *)i))
			return;
	(void)!write(5, "x", 1);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	const char *attack = argc > 1 ? argv[1] : "";
	char **args = argv + 2;

	if (getpid() != 1) /* no jail: whatever follows would hit the host */
		report("it is not process 1");
	else if (!strcmp(attack, "files"))
		attack_files(args);
	else if (!strcmp(attack, "paths"))
		attack_paths(args);
	else if (!strcmp(attack, "processes"))
		attack_processes(args);
	else if (!strcmp(attack, "network") && argc > 3)
		attack_network(args);
	else if (!strcmp(attack, "privileges") && argc > 2)
		attack_privileges(args);
	else if (!strcmp(attack, "leftovers") && argc > 2)
		attack_leftovers(args);
	else if (!strcmp(attack, "waits"))
		attack_waits(argc > 2);
	else if (!strcmp(attack, "lingers"))
		attack_lingers();
	else if (!strcmp(attack, "holds"))
		attack_holds();
	else if (!strcmp(attack, "moves"))
		attack_moves();
	else if (!strcmp(attack, "calls"))
		attack_calls();
	else if (!strcmp(attack, "orphan"))
		attack_orphan();
	else if (!strcmp(attack, "log"))
		attack_log();
	else if (!strcmp(attack, "sleep"))
		for (;;)
			pause();
	else if (!strcmp(attack, "uid"))
		fprintf(stderr, "uid %u\n", (unsigned)getuid()), succeeded = 1;
	else
		report("there is no attack %s", attack);
	if (!strcmp(attack, "orphan"))
		for (;;)
			pause();
	return succeeded;
}
