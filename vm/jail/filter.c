/* SPDX-License-Identifier: MIT */
/*
 * filter.c - system call filters that the launcher puts on what it starts
 *
 * QEMU gets an allow-list: what its machine, block layer, accelerators and libraries use, from execve on
 * (afterwards its own -sandbox takes more away, execve among it). Its list is by names, not by versions: what
 * a newer QEMU or libc tries in addition is told that the kernel does not have it, and does without.
 *
 * Our own programs enter an allow-list of their own before they look at anything of a guest's. Until then
 * they have a list of what nobody in a jail ever needs. The daemon has that list, too, and more (confine.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/denied.h"
#include "util/io.h"
#include "vm/jail/calls.h"
#include "vm/jail/priv.h"

#define KVM_IOCTLS 0xae00 /* KVMIO of linux/kvm.h, in the second byte */

static const int qemu_calls[] = {
	/* the start of a program */
	SCMP_SYS(execve),
	SCMP_SYS(brk),
	SCMP_SYS(arch_prctl),
	SCMP_SYS(set_tid_address),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(rseq),
	SCMP_SYS(uname),
	SCMP_SYS(getcwd),
	SCMP_SYS(umask),
	SCMP_SYS(getuid),
	SCMP_SYS(geteuid),
	SCMP_SYS(getgid),
	SCMP_SYS(getegid),
	SCMP_SYS(getpid),
	SCMP_SYS(getppid),
	SCMP_SYS(gettid),
	SCMP_SYS(sysinfo),
	SCMP_SYS(getrlimit),
	SCMP_SYS(seccomp),
	/* memory; translated code needs to be executable */
	SCMP_SYS(mmap),
	SCMP_SYS(munmap),
	SCMP_SYS(mprotect),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(mincore),
	SCMP_SYS(msync),
	SCMP_SYS(memfd_create),
	SCMP_SYS(membarrier),
	SCMP_SYS(get_mempolicy),
	SCMP_SYS(set_mempolicy),
	SCMP_SYS(mbind),
	/* files: the few of the jail, and what it was given */
	CALLS_LOOK,
	SCMP_SYS(fchdir),
	SCMP_SYS(lseek),
	SCMP_SYS(read),
	SCMP_SYS(readv),
	SCMP_SYS(pread64),
	SCMP_SYS(preadv),
	SCMP_SYS(preadv2),
	SCMP_SYS(write),
	SCMP_SYS(writev),
	SCMP_SYS(pwrite64),
	SCMP_SYS(pwritev),
	SCMP_SYS(pwritev2),
	SCMP_SYS(fsync),
	SCMP_SYS(fdatasync),
	SCMP_SYS(fallocate),
	SCMP_SYS(ftruncate),
	SCMP_SYS(fadvise64),
	SCMP_SYS(sync_file_range),
	SCMP_SYS(fcntl),
	CALLS_DUP,
	/* sockets it was given */
	CALLS_SOCKET,
	/* the main loop, timers, threads */
	SCMP_SYS(pipe2),
	SCMP_SYS(eventfd2),
	SCMP_SYS(signalfd4),
	SCMP_SYS(timerfd_create),
	SCMP_SYS(timerfd_settime),
	SCMP_SYS(timerfd_gettime),
	SCMP_SYS(timer_create),
	SCMP_SYS(timer_settime),
	SCMP_SYS(timer_gettime),
	SCMP_SYS(timer_getoverrun),
	SCMP_SYS(timer_delete),
	CALLS_WAIT,
	SCMP_SYS(select),
	SCMP_SYS(pselect6),
	SCMP_SYS(futex),
	CALLS_CLOCK,
	SCMP_SYS(times),
	SCMP_SYS(getrusage),
	SCMP_SYS(getrandom),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(rt_sigpending),
	SCMP_SYS(rt_sigtimedwait),
	SCMP_SYS(rt_sigsuspend),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(tgkill),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
};

/* But for sbx-net, nobody makes a socket. */
static const int socket_calls[] = { SCMP_SYS(socket), SCMP_SYS(connect), SCMP_SYS(bind), SCMP_SYS(listen) };

/* Of a socket's options. None with which closing it waits: it can be sent to the daemon. */
static const int qemu_options[] = { SO_REUSEADDR, SO_SNDBUF, SO_RCVBUF };

static const int qemu_prctls[] = {
	PR_SET_NAME,         PR_GET_NAME,     PR_SET_TIMERSLACK, PR_MCE_KILL,
	PR_SET_NO_NEW_PRIVS, PR_GET_DUMPABLE, PR_CAPBSET_READ,
};

static const struct call_rule qemu_rules[] = {
	/* threads, and no namespaces */
	{ SCMP_SYS(clone), 0, NAMESPACES | CLONE_THREAD, CLONE_THREAD },
	/* ask for limits, but do not set them */
	{ SCMP_SYS(prlimit64), 2, UINT64_MAX, 0 },
	/* KVM's; others ask block devices for their shape, or terminals for theirs */
	{ SCMP_SYS(ioctl), 1, 0xff00, KVM_IOCTLS },
	/* sbx-track.so's, for the daemon: for faults of the kernel's own there is none, and no ioctl of it */
	{ SCMP_SYS(userfaultfd), 0, UINT32_MAX, O_CLOEXEC | UFFD_USER_MODE_ONLY },
};

/* Typing into a terminal, and what else a line discipline could be used for. */
static const unsigned long tty_ioctls[] = { TIOCSTI, TIOCLINUX, TIOCSETD, TIOCCONS, TIOCSCTTY };

/* What neither the daemon nor anybody in a jail needs: ways to other processes, to mounts, keys, and seldom used parts of the kernel. */
static const int never_calls[] = {
	SCMP_SYS(unshare),
	SCMP_SYS(setns),
	SCMP_SYS(mount),
	SCMP_SYS(umount2),
	SCMP_SYS(pivot_root),
	SCMP_SYS(chroot),
	SCMP_SYS(open_tree),
	SCMP_SYS(move_mount),
	SCMP_SYS(fsopen),
	SCMP_SYS(fsconfig),
	SCMP_SYS(fsmount),
	SCMP_SYS(fspick),
	SCMP_SYS(mount_setattr),
#ifndef __SANITIZE_ADDRESS__
	SCMP_SYS(ptrace), /* the search for leaks looks at its own process that way */
#endif
	SCMP_SYS(process_vm_readv),
	SCMP_SYS(process_vm_writev),
	SCMP_SYS(pidfd_getfd),
	SCMP_SYS(kcmp),
	SCMP_SYS(add_key),
	SCMP_SYS(request_key),
	SCMP_SYS(keyctl),
	SCMP_SYS(bpf),
	SCMP_SYS(perf_event_open),
	SCMP_SYS(userfaultfd),
	SCMP_SYS(io_uring_setup),
	SCMP_SYS(io_uring_enter),
	SCMP_SYS(io_uring_register),
	SCMP_SYS(open_by_handle_at),
	SCMP_SYS(name_to_handle_at),
	SCMP_SYS(mknod),
	SCMP_SYS(mknodat),
	SCMP_SYS(setuid),
	SCMP_SYS(setgid),
	SCMP_SYS(setreuid),
	SCMP_SYS(setregid),
	SCMP_SYS(setresuid),
	SCMP_SYS(setresgid),
	SCMP_SYS(setgroups),
	SCMP_SYS(setfsuid),
	SCMP_SYS(setfsgid),
	SCMP_SYS(capset),
	SCMP_SYS(kexec_load),
	SCMP_SYS(kexec_file_load),
	SCMP_SYS(init_module),
	SCMP_SYS(finit_module),
	SCMP_SYS(delete_module),
	SCMP_SYS(reboot),
	SCMP_SYS(swapon),
	SCMP_SYS(swapoff),
	SCMP_SYS(quotactl),
	SCMP_SYS(acct),
	SCMP_SYS(syslog),
	SCMP_SYS(settimeofday),
	SCMP_SYS(clock_settime),
	SCMP_SYS(adjtimex),
	SCMP_SYS(clock_adjtime),
	SCMP_SYS(sethostname),
	SCMP_SYS(setdomainname),
	SCMP_SYS(iopl),
	SCMP_SYS(ioperm),
	SCMP_SYS(modify_ldt),
	SCMP_SYS(personality),
	SCMP_SYS(vhangup),
	SCMP_SYS(shmget),
	SCMP_SYS(semget),
	SCMP_SYS(msgget),
	SCMP_SYS(mq_open),
	SCMP_SYS(fanotify_init),
	SCMP_SYS(nfsservctl),
	SCMP_SYS(lookup_dcookie),
	SCMP_SYS(migrate_pages),
	SCMP_SYS(move_pages),
	SCMP_SYS(vmsplice),
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int take_program(scmp_filter_ctx filter, struct sock_fprog *ret)
{
	const int fd = memfd_new("sbx-filter", 0);
	struct stat st;
	int rc = fd < 0 ? fd : seccomp_export_bpf(filter, fd);

	if (!rc && fstat(fd, &st) < 0)
		rc = -errno;
	if (!rc) {
		ret->filter = malloc((size_t)st.st_size);
		ret->len = (unsigned short)((size_t)st.st_size / sizeof(*ret->filter));
		rc = ret->filter ? pread_all(fd, ret->filter, (size_t)st.st_size, 0) : -ENOMEM;
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

/* The kernel looks at 32 bits of each. */
static int rule_of_option(scmp_filter_ctx filter, uint32_t action, int option)
{
	return seccomp_rule_add(filter, action, SCMP_SYS(setsockopt), 2,
				SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, SOL_SOCKET),
				SCMP_A2(SCMP_CMP_MASKED_EQ, UINT32_MAX, (scmp_datum_t)option));
}

static int allow_qemu(scmp_filter_ctx filter)
{
	size_t i;
	int rc = 0;

	for (i = 0; !rc && i < COUNT(qemu_calls); i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, qemu_calls[i], 0);
	for (i = 0; !rc && i < COUNT(qemu_prctls); i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
				      SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)qemu_prctls[i], 0));
	for (i = 0; !rc && i < COUNT(qemu_options); i++)
		rc = rule_of_option(filter, SCMP_ACT_ALLOW, qemu_options[i]);
	return rc ? rc : filter_allow(filter, qemu_rules, COUNT(qemu_rules));
}

int jail_qemu_filter(struct sock_fprog *ret, struct err *err)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
	int rc = filter ? seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2) : -ENOMEM;

	if (!rc)
		rc = allow_qemu(filter);
	if (!rc)
		rc = take_program(filter, ret);
	seccomp_release(filter);
	return rc ? err_sys(err, rc, "cannot make QEMU's system call filter") : 0;
}

int jail_refuse_never(void *filter)
{
	size_t i;
	int rc = 0;

	for (i = 0; !rc && i < COUNT(never_calls); i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), never_calls[i], 0);
	/* The kernel looks at 32 bits of a request. */
	for (i = 0; !rc && i < COUNT(tty_ioctls); i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
				      SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, tty_ioctls[i]));
	for (i = 0; !rc && i < 32; i++)
		if (NAMESPACES & 1u << i)
			rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
					      SCMP_A0(SCMP_CMP_MASKED_EQ, 1u << i, 1u << i));
	return rc;
}

/* A clone3 hides its flags behind a pointer: libc then uses clone. */
int jail_hide_clone3(void *filter)
{
	return seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
}

int jail_base_filter(bool sockets, struct sock_fprog *ret, struct err *err)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	int rc = filter ? seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2) : -ENOMEM;
	size_t i;

	if (!rc)
		rc = jail_refuse_never(filter);
	if (!rc)
		rc = jail_hide_clone3(filter);
	for (i = 0; !rc && !sockets && i < COUNT(socket_calls); i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), socket_calls[i], 0);
	/*
	 * A socket can be sent to the daemon, and with this option whoever closes it last waits, for as long as the option
	 * says (tcp_close of linux/net/ipv4/tcp.c).
	 */
	if (!rc)
		rc = rule_of_option(filter, SCMP_ACT_ERRNO(EPERM), SO_LINGER);
	if (!rc)
		rc = take_program(filter, ret);
	seccomp_release(filter);
	return rc ? err_sys(err, rc, "cannot make a system call filter") : 0;
}
