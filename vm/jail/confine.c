/* SPDX-License-Identifier: MIT */
/* confine.c - the daemon gives up what it does not need */
#include "vm/jail/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
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

#include "util/io.h"
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

/*
 * Refused, as if there were no right to, beside what nobody needs: user 0 needs no capability to signal or trace what
 * is root's, nor to start programs. What is not here a process without capabilities may not do, or harms nobody with.
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

/* Kinds of sockets that a kernel has had holes in, and the daemon no use for. */
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

/* What a guest wrote must not become a program by its address alone. All that is one is mapped by now. */
static int refuse_code(scmp_filter_ctx ctx)
{
#ifdef __SANITIZE_ADDRESS__
	(void)ctx; /* its run-time maps what it likes */
	return 0;
#else
	const int calls[] = { SCMP_SYS(mmap), SCMP_SYS(mprotect), SCMP_SYS(pkey_mprotect) };
	unsigned i;
	int rc = 0;

	for (i = 0; !rc && i < sizeof(calls) / sizeof(calls[0]); i++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), calls[i], 1,
				      SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, PROT_EXEC));
	return rc;
#endif
}

int confine_calls(struct err *err)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	int rc = ctx ? jail_refuse_never(ctx) : -ENOMEM;
	unsigned i;

	for (i = 0; !rc && i < sizeof(refused) / sizeof(refused[0]); i++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), refused[i], 0);
#ifndef __SANITIZE_ADDRESS__
	/* Threads, and no processes. */
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
				      SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
#endif
	/* abort(3) sends itself a signal; nobody else gets one. */
	if (!rc)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(tgkill), 1,
				      SCMP_A0(SCMP_CMP_NE, (scmp_datum_t)getpid(), 0));
	if (!rc)
		rc = refuse_sockets(ctx);
	if (!rc)
		rc = refuse_code(ctx);
	if (!rc)
		rc = seccomp_load(ctx); /* sets no_new_privs, too */
	seccomp_release(ctx);
	return rc ? err_sys(err, rc, "cannot filter the daemon's system calls") : 0;
}

int confine(const struct confinement *confinement, struct err *err)
{
	int rc = enter_root(confinement, err);

	if (!rc)
		rc = drop_capabilities(err);
	return rc ? rc : confine_calls(err);
}
