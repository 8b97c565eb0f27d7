/* SPDX-License-Identifier: MIT */
/*
 * seccomp.c - what a guest that breaks out of its machine finds: a process that may do little
 *
 * Entered when the VM and its vCPUs exist, before the first guest instruction. What remains allowed is what
 * the devices, the qcow2 driver, captures and their threads do, and what libc does for them. Files can still
 * be opened, since disks change with every capture; nothing can be executed, no socket made or connected, no
 * other process looked at.
 */
#include "vm/vmm/seccomp.h"

#include <errno.h>
#include <seccomp.h>
#include <stddef.h>

#ifdef __SANITIZE_ADDRESS__
/* AddressSanitizer's run-time calls what it likes, up to tracing its own process: no list would hold. */
int seccomp_enter(struct err *err)
{
	(void)err;
	return 0;
}
#else

static const int allowed[] = {
	/* the loop, its timers and threads */
	SCMP_SYS(epoll_wait),
	SCMP_SYS(epoll_pwait),
	SCMP_SYS(epoll_ctl),
	SCMP_SYS(eventfd2),
	SCMP_SYS(futex),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(clone),
	SCMP_SYS(clone3),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(rseq),
	SCMP_SYS(gettid),
	SCMP_SYS(getpid),
	SCMP_SYS(tgkill),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(sched_yield),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(restart_syscall),
	/* the guest; sockets of console, agent and control */
	SCMP_SYS(ioctl),
	SCMP_SYS(read),
	SCMP_SYS(write),
	SCMP_SYS(readv),
	SCMP_SYS(writev),
	SCMP_SYS(recvfrom),
	SCMP_SYS(sendto),
	SCMP_SYS(recvmsg),
	SCMP_SYS(sendmsg),
	SCMP_SYS(getrandom),
	/* disks */
	SCMP_SYS(openat),
	SCMP_SYS(close),
	SCMP_SYS(fstat),
	SCMP_SYS(newfstatat),
	SCMP_SYS(lseek),
	SCMP_SYS(pread64),
	SCMP_SYS(pwrite64),
	SCMP_SYS(preadv),
	SCMP_SYS(pwritev),
	SCMP_SYS(fsync),
	SCMP_SYS(fdatasync),
	SCMP_SYS(fallocate),
	SCMP_SYS(ftruncate),
	SCMP_SYS(fcntl),
	SCMP_SYS(flock),
	/* memory */
	SCMP_SYS(mmap),
	SCMP_SYS(munmap),
	SCMP_SYS(mprotect),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(brk),
	SCMP_SYS(memfd_create),
	/* captures, which copy RAM in a child */
	SCMP_SYS(fork),
	SCMP_SYS(pidfd_open),
	SCMP_SYS(waitid),
	SCMP_SYS(wait4),
	SCMP_SYS(kill),
	SCMP_SYS(prctl),
	SCMP_SYS(getppid),
	SCMP_SYS(dup2),
	SCMP_SYS(close_range),
	/* the end */
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
};

int seccomp_enter(struct err *err)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
	size_t i;
	int rc = filter ? 0 : -ENOMEM;

	/* Synchronised to the vCPUs' threads; no_new_privs is the default. */
	if (!rc)
		rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	/* A tree instead of a list of comparisons: ioctl is the hot one. */
	if (!rc)
		rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	for (i = 0; !rc && i < sizeof(allowed) / sizeof(allowed[0]); i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
	if (!rc)
		rc = seccomp_load(filter);
	seccomp_release(filter);
	return rc ? err_sys(err, rc, "cannot enter the system call filter") : 0;
}
#endif
