/* SPDX-License-Identifier: MIT */
/*
 * seccomp.c - what a guest that breaks out of its machine finds: a process that may do little
 *
 * Entered when the VM and its vCPUs exist, before the first guest instruction. What remains allowed is what
 * the devices, the qcow2 driver, captures and their threads do, and what libc does for them, down to the
 * arguments where those decide: which requests to KVM, no memory that can be executed, threads and copies of
 * the process but no namespaces, signals to itself only. The loop's thread may still open files to read them,
 * for one file: the map of its own pages, in the child that copies the RAM of a capture. Threads of vCPUs,
 * and those that they start, may not, and make no files, messages with descriptors or processes.
 */
#include "vm/vmm/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "util/denied.h"
#include "util/pagemap.h"

#ifdef __SANITIZE_ADDRESS__
/* AddressSanitizer's run-time calls what it likes, up to tracing its own process: no list would hold. */
int seccomp_enter(struct err *err)
{
	(void)err;
	return 0;
}

int seccomp_enter_vcpu(struct err *err)
{
	(void)err;
	return 0;
}
#else

/* Whatever their arguments. */
static const int plain[] = {
	/* the loop, its timers and threads */
	SCMP_SYS(epoll_wait),
	SCMP_SYS(epoll_pwait),
	SCMP_SYS(epoll_ctl),
	SCMP_SYS(eventfd2),
	SCMP_SYS(futex),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(rseq),
	SCMP_SYS(gettid),
	SCMP_SYS(getpid),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(sched_yield),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(restart_syscall),
	/* sockets of console, agent, network and control */
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
	SCMP_SYS(close),
	SCMP_SYS(fstat),
	SCMP_SYS(lseek),
	SCMP_SYS(pread64),
	SCMP_SYS(pwrite64),
	SCMP_SYS(preadv),
	SCMP_SYS(pwritev),
	SCMP_SYS(fsync),
	SCMP_SYS(fdatasync),
	SCMP_SYS(fallocate),
	SCMP_SYS(ftruncate),
	/* memory */
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(brk),
	SCMP_SYS(memfd_create),
	/* captures, which copy RAM in a child */
	SCMP_SYS(pidfd_open),
	SCMP_SYS(waitid),
	SCMP_SYS(wait4),
	SCMP_SYS(getppid),
	SCMP_SYS(dup2),
	SCMP_SYS(close_range),
	/* the end */
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
};

/* KVM_RUN and what devices, captures and restores ask of KVM. */
static const unsigned long kvm_requests[] = {
	KVM_RUN,
	KVM_SIGNAL_MSI,
	KVM_GET_CLOCK,
	KVM_SET_CLOCK,
	KVM_KVMCLOCK_CTRL,
	KVM_GET_REGS,
	KVM_SET_REGS,
	KVM_GET_SREGS,
	KVM_SET_SREGS,
	KVM_GET_MSRS,
	KVM_SET_MSRS,
	KVM_GET_LAPIC,
	KVM_SET_LAPIC,
	KVM_GET_XSAVE,
	KVM_GET_XSAVE2,
	KVM_SET_XSAVE,
	KVM_GET_XCRS,
	KVM_SET_XCRS,
	KVM_GET_VCPU_EVENTS,
	KVM_SET_VCPU_EVENTS,
	KVM_GET_DEBUGREGS,
	KVM_SET_DEBUGREGS,
	KVM_GET_MP_STATE,
	KVM_SET_MP_STATE,
	KVM_SET_CPUID2,
	KVM_GET_TSC_KHZ,
	KVM_SET_TSC_KHZ,
	KVM_HAS_DEVICE_ATTR,
	KVM_GET_DEVICE_ATTR,
	KVM_SET_DEVICE_ATTR,
	KVM_CHECK_EXTENSION,
};

static const int fcntl_commands[] = { F_GETFL, F_SETFL, F_GETFD, F_SETFD, F_ADD_SEALS, F_GET_SEALS, F_DUPFD };

/* What the loop's thread may and those of vCPUs may not. */
static const int loop_only[] = {
	SCMP_SYS(memfd_create), SCMP_SYS(pidfd_open), SCMP_SYS(waitid),  SCMP_SYS(wait4),
	SCMP_SYS(kill),         SCMP_SYS(prctl),      SCMP_SYS(getppid), SCMP_SYS(dup2),
	SCMP_SYS(close_range),  SCMP_SYS(recvmsg),
};

#define NAMESPACES                                                                                           \
	(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |           \
	 CLONE_NEWCGROUP)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* By the argument that says what is asked for, the second. */
static int allow_second(scmp_filter_ctx filter, int call, uint64_t value)
{
	const struct call_rule rule = { call, 1, UINT64_MAX, value };

	return filter_allow(filter, &rule, 1);
}

static int allow_by_arguments(scmp_filter_ctx filter)
{
	const struct call_rule rules[] = {
		{ SCMP_SYS(mmap), 2, PROT_EXEC, 0 },
		{ SCMP_SYS(mprotect), 2, PROT_EXEC, 0 },
		{ SCMP_SYS(clone), 0, NAMESPACES | CLONE_PTRACE | CLONE_PARENT, 0 },
		{ SCMP_SYS(openat), 2, UINT64_MAX, O_RDONLY | O_CLOEXEC },
		{ SCMP_SYS(newfstatat), 3, UINT64_MAX, AT_EMPTY_PATH }, /* fstat(3) */
		{ SCMP_SYS(prctl), 0, UINT64_MAX, PR_SET_PDEATHSIG },
		{ SCMP_SYS(kill), 1, UINT64_MAX, SIGKILL },
		{ SCMP_SYS(tgkill), 0, UINT64_MAX, (uint64_t)getpid() },
	};
	int rc = filter_allow(filter, rules, COUNT(rules));
	size_t i;

	for (i = 0; !rc && i < COUNT(kvm_requests); i++)
		rc = allow_second(filter, SCMP_SYS(ioctl), kvm_requests[i]);
	for (i = 0; !rc && i < COUNT(fcntl_commands); i++)
		rc = allow_second(filter, SCMP_SYS(fcntl), (uint64_t)fcntl_commands[i]);
	/* Which pages a process has, of which only the loop's thread can open the list. */
	if (!rc)
		rc = allow_second(filter, SCMP_SYS(ioctl), PM_SCAN);
	/* Its flags are behind a pointer; libc then uses clone. */
	if (!rc)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	/* A vCPU's thread enters a filter of its own: that can only take away. */
	if (!rc)
		rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(seccomp), 2,
				      SCMP_A0(SCMP_CMP_EQ, SECCOMP_SET_MODE_FILTER, 0),
				      SCMP_A1(SCMP_CMP_EQ, 0, 0));
	return rc;
}

int seccomp_enter(struct err *err)
{
	int rc;
	scmp_filter_ctx filter = denied_filter(plain, COUNT(plain), &rc);

	/* Synchronised to the vCPUs' threads; no_new_privs is the default. */
	if (!rc)
		rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	/* A tree instead of a list of comparisons: ioctl is the hot one. */
	if (!rc)
		rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (!rc)
		rc = allow_by_arguments(filter);
	rc = filter_enter(filter, rc);
	return rc ? err_sys(err, rc, "cannot enter the system call filter") : 0;
}

int seccomp_enter_vcpu(struct err *err)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	int rc = filter ? seccomp_attr_set(filter, SCMP_FLTATR_CTL_NNP, 0) : -ENOMEM;
	size_t i;

	/* On top of the other one, which has no new privileges already. */
	for (i = 0; !rc && i < COUNT(loop_only); i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_TRAP, loop_only[i], 0);
	/*
	 * No files: free(3) lives with that when it gives a thread's heap back and wants to know the host's
	 * vm.overcommit_memory first. The loop's filter still ends it for any other way to open one.
	 */
	if (!rc)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 0);
	/* Threads for disk requests, but no processes. */
	if (!rc)
		rc = seccomp_rule_add(filter, SCMP_ACT_TRAP, SCMP_SYS(clone), 1,
				      SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
	rc = filter_enter(filter, rc);
	return rc ? err_sys(err, rc, "cannot enter the system call filter of a vCPU") : 0;
}
#endif
