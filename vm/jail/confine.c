/* SPDX-License-Identifier: MIT */
/* confine.c - the daemon gives up what it does not need */
#include "vm/jail/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/denied.h"
#include "util/io.h"
#include "util/pagemap.h"
#include "vm/jail/calls.h"
#include "vm/jail/priv.h"

/* ---- files */

static int take_places(const struct confinement *confinement, int fds[3], struct err *err)
{
	int rc = jail_take(confinement->state, AT_RECURSIVE, &fds[0], err);

	if (!rc)
		rc = jail_take(confinement->kernel, 0, &fds[1], err);
	return rc ? rc : jail_take(confinement->initrd, 0, &fds[2], err);
}

static int make_root(const struct confinement *confinement, int fds[3], struct err *err)
{
	const uint64_t inert = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
	int rc = jail_stage(err);

	if (!rc)
		rc = jail_place(fds[0], confinement->state, inert, err);
	if (!rc)
		rc = jail_place(fds[1], confinement->kernel, inert | MOUNT_ATTR_RDONLY, err);
	if (!rc)
		rc = jail_place(fds[2], confinement->initrd, inert | MOUNT_ATTR_RDONLY, err);
	if (!rc)
		rc = jail_proc(err);
	return rc ? rc : jail_turn(err);
}

static int enter_root(const struct confinement *confinement, struct err *err)
{
	int fds[3] = { -1, -1, -1 }, rc;
	unsigned i;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_sys(err, -errno, "cannot have mounts of the daemon's own");
	rc = take_places(confinement, fds, err);
	if (!rc)
		rc = make_root(confinement, fds, err);
	for (i = 0; i < 3; i++)
		close_fd(&fds[i]);
	return rc;
}

/* ---- capabilities */

static int drop_capabilities(struct err *err)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	/* `publish` is answered with whether a port can be listened at. */
	const unsigned kept = 1u << CAP_NET_BIND_SERVICE;
	const struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { { .effective = kept,
										 .permitted = kept } };
	const unsigned long secure = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
				     SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
	int cap, rc = 0;

	for (cap = 0; !rc && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		rc = prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	if (rc || prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECUREBITS, secure, 0, 0, 0) < 0 || syscall(SYS_capset, &header, data) < 0)
		return err_sys(err, -errno, "cannot drop the daemon's capabilities");
	return 0;
}

/* ---- system calls */

#ifndef __SANITIZE_ADDRESS__
/*
 * All that the daemon, libc and the libraries that it uses call after its start, but for those below that are looked
 * at more closely. What is not here the kernel does not seem to have: a newer libc does without.
 */
static const int allowed[] = {
	/* files: by name those of its store, and /proc */
	CALLS_LOOK,
	SCMP_SYS(getcwd),
	SCMP_SYS(mkdir),
	SCMP_SYS(mkdirat),
	SCMP_SYS(rmdir),
	SCMP_SYS(link),
	SCMP_SYS(linkat),
	SCMP_SYS(symlink),
	SCMP_SYS(symlinkat),
	SCMP_SYS(unlink),
	SCMP_SYS(unlinkat),
	SCMP_SYS(rename),
	SCMP_SYS(renameat),
	SCMP_SYS(renameat2),
	SCMP_SYS(chmod),
	SCMP_SYS(fchmod),
	SCMP_SYS(fchmodat),
	SCMP_SYS(umask),
	/* what is open */
	SCMP_SYS(read),
	SCMP_SYS(readv),
	SCMP_SYS(pread64),
	SCMP_SYS(preadv),
	SCMP_SYS(write),
	SCMP_SYS(writev),
	SCMP_SYS(pwrite64),
	SCMP_SYS(pwritev),
	SCMP_SYS(lseek),
	451, /* cachestat, which libseccomp 2.5 does not know */
	SCMP_SYS(splice),
	SCMP_SYS(copy_file_range),
	SCMP_SYS(fsync),
	SCMP_SYS(fdatasync),
	SCMP_SYS(syncfs),
	SCMP_SYS(fallocate),
	SCMP_SYS(ftruncate),
	SCMP_SYS(fadvise64),
	CALLS_DUP,
	SCMP_SYS(pipe2),
	/* memory */
	SCMP_SYS(brk),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(msync),
	SCMP_SYS(memfd_create),
	/* sockets */
	CALLS_CONNECT,
	CALLS_SOCKET,
	SCMP_SYS(setsockopt),
	/* the loop, threads and time */
	CALLS_WAIT,
	SCMP_SYS(eventfd2),
	SCMP_SYS(signalfd4),
	SCMP_SYS(futex),
	SCMP_SYS(membarrier),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(rseq),
	CALLS_CLOCK,
	SCMP_SYS(getrandom),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(setitimer), /* snap/store_lock.c */
	SCMP_SYS(restart_syscall),
	/* what it is, and what its host is; its children's end, and its own */
	SCMP_SYS(getpid),
	SCMP_SYS(getppid),
	SCMP_SYS(gettid),
	SCMP_SYS(getuid),
	SCMP_SYS(geteuid),
	SCMP_SYS(getgid),
	SCMP_SYS(getegid),
	SCMP_SYS(getpriority),
	SCMP_SYS(getrlimit),
	SCMP_SYS(getrusage),
	SCMP_SYS(sysinfo),
	SCMP_SYS(uname),
	SCMP_SYS(wait4),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
};

#define INT UINT32_MAX /* the kernel looks at so much of an int */

static const struct call_rule rules[] = {
	/* threads, and no processes */
	{ SCMP_SYS(clone), 0, NAMESPACES | CLONE_THREAD, CLONE_THREAD },
	/* What a guest wrote must not become a program by its address alone. All that is one is mapped by now. */
	{ SCMP_SYS(mmap), 2, PROT_EXEC, 0 },
	{ SCMP_SYS(mprotect), 2, PROT_EXEC, 0 },
	/* its own limits: other processes of user 0 would have theirs changed, too */
	{ SCMP_SYS(prlimit64), 0, INT, 0 },
	/* no signals to others by way of a descriptor (F_SETOWN) */
	{ SCMP_SYS(fcntl), 1, INT, F_DUPFD },
	{ SCMP_SYS(fcntl), 1, INT, F_DUPFD_CLOEXEC },
	{ SCMP_SYS(fcntl), 1, INT, F_GETFD },
	{ SCMP_SYS(fcntl), 1, INT, F_SETFD },
	{ SCMP_SYS(fcntl), 1, INT, F_GETFL },
	{ SCMP_SYS(fcntl), 1, INT, F_SETFL },
	{ SCMP_SYS(fcntl), 1, INT, F_GETLK },
	{ SCMP_SYS(fcntl), 1, INT, F_SETLK },
	{ SCMP_SYS(fcntl), 1, INT, F_OFD_GETLK },
	{ SCMP_SYS(fcntl), 1, INT, F_OFD_SETLK },
	{ SCMP_SYS(fcntl), 1, INT, F_GETPIPE_SZ },
	{ SCMP_SYS(fcntl), 1, INT, F_SETPIPE_SZ },
	{ SCMP_SYS(fcntl), 1, INT, F_ADD_SEALS },
	{ SCMP_SYS(fcntl), 1, INT, F_GET_SEALS },
	/* is standard error a terminal? */
	{ SCMP_SYS(ioctl), 1, INT, TCGETS },
	/* which pages QEMU writes (vm/qemu/track.c) */
	{ SCMP_SYS(ioctl), 1, INT, UFFDIO_API },
	{ SCMP_SYS(ioctl), 1, INT, UFFDIO_REGISTER },
	{ SCMP_SYS(ioctl), 1, INT, UFFDIO_UNREGISTER },
	{ SCMP_SYS(ioctl), 1, INT, PM_SCAN },
	{ SCMP_SYS(prctl), 0, INT, PR_SET_NAME },
	{ SCMP_SYS(prctl), 0, INT, PR_GET_NAME },
	{ SCMP_SYS(prctl), 0, INT, PR_GET_DUMPABLE },
	{ SCMP_SYS(prctl), 0, INT, PR_GET_NO_NEW_PRIVS },
	{ SCMP_SYS(prctl), 0, INT, PR_CAPBSET_READ },
	{ SCMP_SYS(prctl), 0, INT, PR_SET_VMA }, /* libc names its memory */
	/* Others are kinds that a kernel has had holes in, and the daemon no use for. */
	{ SCMP_SYS(socket), 0, INT, AF_UNIX },
	{ SCMP_SYS(socket), 0, INT, AF_INET },
	{ SCMP_SYS(socket), 0, INT, AF_INET6 },
	{ SCMP_SYS(socketpair), 0, INT, AF_UNIX },
};
#endif

/*
 * Refused as if there were no right to: user 0 needs no capability to signal or trace what is root's, nor to start
 * programs. With the sanitizers, whose run-time calls what it likes, this is all that is refused.
 */
static const int refused[] = {
	SCMP_SYS(execve),
	SCMP_SYS(execveat),
	SCMP_SYS(kill),
	SCMP_SYS(tkill),
	SCMP_SYS(rt_sigqueueinfo),
	SCMP_SYS(rt_tgsigqueueinfo),
	SCMP_SYS(pidfd_open),
	SCMP_SYS(pidfd_send_signal),
	SCMP_SYS(process_madvise),
#ifndef __SANITIZE_ADDRESS__
	/* the sanitizers' search for leaks makes a process */
	SCMP_SYS(fork),
	SCMP_SYS(vfork),
#endif
};

static int refuse_sockets(scmp_filter_ctx ctx)
{
	int family, rc = 0;

	for (family = 0; family < AF_INET6 && !rc; family++)
		if (family != AF_UNIX && family != AF_INET)
			rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
					      SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)family, 0));
	return rc ? rc
		  : seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
				     SCMP_A0(SCMP_CMP_GT, AF_INET6, 0));
}

static int refuse(scmp_filter_ctx ctx)
{
	int rc = jail_refuse_never(ctx);
	unsigned i;

	for (i = 0; !rc && i < sizeof(refused) / sizeof(refused[0]); i++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), refused[i], 0);
	/* abort(3) sends itself a signal; nobody else gets one. */
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(tgkill), 1,
				      SCMP_A0(SCMP_CMP_NE, (scmp_datum_t)getpid(), 0));
	return rc ? rc : refuse_sockets(ctx);
}

#ifdef __SANITIZE_ADDRESS__
static const uint32_t others = SCMP_ACT_ALLOW;

static int allow(scmp_filter_ctx ctx)
{
	return jail_hide_clone3(ctx);
}
#else
static const uint32_t others = SCMP_ACT_ERRNO(ENOSYS);

static int allow(scmp_filter_ctx ctx)
{
	const struct call_rule own = { SCMP_SYS(tgkill), 0, UINT64_MAX, (uint64_t)getpid() };
	int rc = 0;
	unsigned i;

	for (i = 0; !rc && i < sizeof(allowed) / sizeof(allowed[0]); i++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
	if (!rc)
		rc = filter_allow(ctx, rules, sizeof(rules) / sizeof(rules[0]));
	return rc ? rc : filter_allow(ctx, &own, 1);
}
#endif

int confine_calls(struct err *err)
{
	scmp_filter_ctx ctx = seccomp_init(others);
	int rc = ctx ? seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2) : -ENOMEM;

	if (!rc)
		rc = refuse(ctx);
	if (!rc)
		rc = allow(ctx);
	rc = filter_enter(ctx, rc); /* sets no_new_privs, too */
	return rc ? err_sys(err, rc, "cannot filter the daemon's system calls") : 0;
}

int confine(const struct confinement *confinement, struct err *err)
{
	int rc = enter_root(confinement, err);

	if (!rc)
		rc = drop_capabilities(err);
	return rc ? rc : confine_calls(err);
}
