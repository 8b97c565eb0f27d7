/* SPDX-License-Identifier: MIT */
/*
 * seccomp.c - what a guest that breaks out of the stack finds: a process with sockets of the Internet and nothing
 *
 * No file can be opened, no program started, no other process looked at; sockets are those of IPv4 and IPv6.
 */
#include <errno.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/socket.h>

#include "util/denied.h"
#include "vm/jail/calls.h"
#include "vm/net/stack.h"

#ifdef __SANITIZE_ADDRESS__
/* AddressSanitizer's run-time calls what it likes: no list would hold. */
int net_seccomp_enter(struct err *err)
{
	(void)err;
	return 0;
}
#else

static const int allowed[] = {
	/* the loop */
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(futex),
	SCMP_SYS(getrandom),
	/* sockets; socket(2) itself is below */
	CALLS_CONNECT,
	CALLS_SOCKET,
	SCMP_SYS(setsockopt),
	SCMP_SYS(read),
	SCMP_SYS(readv),
	SCMP_SYS(write),
	SCMP_SYS(writev),
	SCMP_SYS(close),
	SCMP_SYS(dup3), /* a socket of the daemon's in the place of one of libslirp's */
	SCMP_SYS(fcntl),
	SCMP_SYS(ioctl),
	SCMP_SYS(fstat),
	SCMP_SYS(newfstatat),
	/* memory */
	SCMP_SYS(mmap),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(mprotect),
	SCMP_SYS(madvise),
	SCMP_SYS(brk),
	/* the end */
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	SCMP_SYS(getpid),
	SCMP_SYS(getppid), /* libslirp, when it starts */
	SCMP_SYS(gettid),
	SCMP_SYS(tgkill),
};

static const struct call_rule sockets[] = {
	{ SCMP_SYS(socket), 0, UINT64_MAX, AF_INET },
	{ SCMP_SYS(socket), 0, UINT64_MAX, AF_INET6 },
};

int net_seccomp_enter(struct err *err)
{
	int rc;
	scmp_filter_ctx filter = denied_filter(allowed, sizeof(allowed) / sizeof(allowed[0]), &rc);

	/* no_new_privs is the default. */
	if (!rc)
		rc = filter_allow(filter, sockets, sizeof(sockets) / sizeof(sockets[0]));
	if (!rc)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
				      SCMP_A0(SCMP_CMP_EQ, AF_UNIX, 0));
	/* glib looks for its settings; without, it has its defaults. */
	if (!rc)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 0);
	rc = filter_enter(filter, rc);
	return rc ? err_sys(err, rc, "cannot enter the system call filter") : 0;
}
#endif
