/* SPDX-License-Identifier: MIT */
/*
 * enter.c - a new process goes into its jail
 *
 * The order is forced: what needs capabilities comes first, then they go, and last what may go without. A
 * step that fails is the end; its sentence is the last line of the process's log, which the daemon reads.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vm/jail/priv.h"
#include "vm/jail/protocol.h"

enum {
	FAILED = 126,        /* exit status; 126 is a shell's "cannot execute" */
	PROCESSES_MAX = 512, /* and threads */
};

__attribute__((noreturn)) static void fail(const char *what)
{
	char line[256];
	int n = snprintf(line, sizeof(line), "jail: cannot %s: %s\n", what, strerror(errno));

	(void)!write(STDERR_FILENO, line, (size_t)n);
	_exit(FAILED);
}

static void must(bool ok, const char *what)
{
	if (!ok)
		fail(what);
}

/*
 * Descriptors to the numbers the program knows them by; every other one is closed by execve. First all of
 * them out of the way: a number that is wanted may be one that is still needed.
 */
static void arrange_fds(struct jail_entry *entry, int *root_fd, int *dir_fd)
{
	const int first_free = LAUNCH_FD + (int)entry->nfds;
	int moved[LAUNCH_FDS_MAX] = { -1, -1 };
	unsigned i;

	must(entry->nfds <= sizeof(moved) / sizeof(moved[0]), "take so many descriptors");
	for (i = 0; i < entry->nfds; i++) {
		moved[i] = fcntl(entry->fds[i], F_DUPFD_CLOEXEC, first_free);
		must(moved[i] >= 0, "arrange its descriptors");
	}
	must(dup2(moved[1], STDERR_FILENO) >= 0, "arrange its descriptors"); /* from here on it can say so */
	entry->launcher_fd = fcntl(entry->launcher_fd, F_DUPFD_CLOEXEC, first_free);
	if (*root_fd >= 0)
		*root_fd = fcntl(*root_fd, F_DUPFD_CLOEXEC, first_free);
	if (*dir_fd >= 0)
		*dir_fd = fcntl(*dir_fd, F_DUPFD_CLOEXEC, first_free);
	must(entry->launcher_fd >= 0, "arrange its descriptors");
	must(dup2(entry->null_fd, STDOUT_FILENO) >= 0 && dup2(moved[0], STDIN_FILENO) >= 0,
	     "arrange its descriptors");
	must(!close_range(LAUNCH_FD, ~0u, CLOSE_RANGE_CLOEXEC), "close the others' descriptors");
	for (i = 2; i < entry->nfds; i++)
		must(dup2(moved[i], LAUNCH_FD + (int)i - 2) >= 0, "arrange its descriptors");
}

/* Killed when the launcher ends. It may have ended already: then nobody would. */
static void die_with_launcher(const struct jail_entry *entry)
{
	struct pollfd ended = { .fd = entry->launcher_fd, .events = POLLIN };

	must(!prctl(PR_SET_PDEATHSIG, SIGKILL), "be killed with its parent");
	if (poll(&ended, 1, 0) != 0)
		_exit(FAILED);
}

static void enter_namespaces(const struct jail_entry *entry, int root_fd, int dir_fd)
{
	const struct jail *jail = entry->jail;

	/* Where the launcher is in a chroot, the root of the namespace is another than that of the jail. */
	must(!setns(root_fd, CLONE_NEWNS) && !fchdir(dir_fd) && !chroot("."), "enter its root");
	must(!unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP), "make its namespaces");
	must(jail->flags & JAIL_HOST_NET || !unshare(CLONE_NEWNET), "make its network namespace");
	must(!sethostname("sandbox", 7) && !setdomainname("", 0), "set its host name");
	if (!(jail->flags & JAIL_PROC))
		return;
	must(!mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "subset=pid"),
	     "mount its /proc");
	if (entry->userns)
		must(!umount2("/host", MNT_DETACH), "unmount the host's /proc");
}

static void limit(int resource, rlim_t value, const char *what)
{
	const struct rlimit limit = { value, value };

	must(!setrlimit(resource, &limit), what);
}

/* Where the host runs out of memory, machines and helpers go first: all of them depend on the daemon. */
static void be_spared_last(void)
{
	static const char score[] = "900";
	int fd;

	/* Who may not be looked at may not write there either, unless root. */
	must(!prctl(PR_SET_DUMPABLE, 1), "be looked at");
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	must(fd >= 0 && write(fd, score, strlen(score)) == (ssize_t)strlen(score),
	     "give way when memory runs out");
	close(fd);
	must(!prctl(PR_SET_DUMPABLE, 0), "be hidden again");
}

static void set_limits(const struct jail_entry *entry)
{
	/* With 0 the kernel still gives one to a program, if core_pattern names one; with 1 to nobody (core(5)). */
	limit(RLIMIT_CORE, 1, "limit core dumps");
	limit(RLIMIT_NOFILE, entry->jail->max_fds, "limit its descriptors");
	limit(RLIMIT_MEMLOCK, 0, "limit locked memory");
	limit(RLIMIT_MSGQUEUE, 0, "limit message queues");
	/* Where the id is the process's alone; otherwise the user's other processes would count. */
	if (!entry->userns)
		limit(RLIMIT_NPROC, PROCESSES_MAX, "limit its processes");
}

/* Hold these capabilities and no others. */
static bool hold(unsigned now)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	const struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { { .effective = now,
										 .permitted = now } };

	return !syscall(SYS_capset, &header, data);
}

static void drop_capabilities(const struct jail_entry *entry)
{
	const unsigned long secure = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
				     SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
	int cap;

	for (cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		must(!prctl(PR_CAPBSET_DROP, cap, 0, 0, 0), "empty its bounding set");
	must(!prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "empty its ambient set");
	/* For as long as it takes to lock the door from inside. */
	must(!prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "keep its capabilities for a moment");
	if (!entry->userns)
		must(!setgroups(0, NULL) && !setresgid(entry->uid, entry->uid, entry->uid) &&
			     !setresuid(entry->uid, entry->uid, entry->uid),
		     "take a user id of its own");
	must(hold(1u << CAP_SETPCAP), "drop its capabilities");
	must(!prctl(PR_SET_SECUREBITS, secure, 0, 0, 0), "set its secure bits");
	must(hold(0), "drop its last capabilities");
}

static void filter_calls(const struct jail *jail)
{
	must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "give up new privileges");
	must(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &jail->filter),
	     "enter its system call filter");
}

/* What it starts with, whatever the launcher's was. */
static void reset_process(void)
{
	const struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;
	int i;

	for (i = 1; i < NSIG; i++)
		(void)sigaction(i, &dfl, NULL); /* some have no handler to be set */
	sigemptyset(&none);
	must(!sigprocmask(SIG_SETMASK, &none, NULL), "reset its signals");
	must(setsid() >= 0, "leave the terminal");
	must(!chdir("/"), "go to its root");
	umask(077);
}

/* The loader takes blanks and colons for the ends of names, and nothing quotes them. */
static bool can_preload(const struct jail_entry *entry)
{
	return entry->jail->preload && (!entry->none || !strpbrk(entry->jail->preload, " :"));
}

static void make_environment(const struct jail_entry *entry, char *ret[], unsigned size)
{
	static char preload[PATH_MAX + 16];
	unsigned n = 0;

	ret[n++] = (char *)"LC_ALL=C";
	if (can_preload(entry)) {
		snprintf(preload, sizeof(preload), "LD_PRELOAD=%s",
			 entry->none ? entry->jail->preload : JAIL_PRELOAD);
		ret[n++] = preload;
	}
#ifdef __SANITIZE_ADDRESS__
	static const char *const names[] = { "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS" };
	static char text[3][512];

	for (unsigned i = 0; i < 3 && n + 1 < size; i++) {
		if (!getenv(names[i]))
			continue;
		snprintf(text[i], sizeof(text[i]), "%s=%s", names[i], getenv(names[i]));
		ret[n++] = text[i];
	}
#endif
	(void)size;
	ret[n] = NULL;
}

void jail_enter(const struct jail_entry *from)
{
	struct jail_entry entry = *from;
	int root_fd = entry.jail->root_fd, dir_fd = entry.jail->dir_fd;
	char *environment[8];

	arrange_fds(&entry, &root_fd, &dir_fd);
	die_with_launcher(&entry);
	make_environment(&entry, environment, 8);
	be_spared_last();
	if (!entry.none) {
		enter_namespaces(&entry, root_fd, dir_fd);
		set_limits(&entry);
	}
	reset_process();
	if (!entry.none) {
		drop_capabilities(&entry);
		/* Changing ids has cleared it. */
		die_with_launcher(&entry);
		filter_calls(entry.jail);
	}
	if (!entry.argv)
		_exit(0);
	execve(entry.jail->program, entry.argv, environment);
	fail("execute the program");
}
