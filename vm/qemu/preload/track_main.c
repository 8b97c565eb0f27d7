/* SPDX-License-Identifier: MIT */
/*
 * track_main.c - sbx-track.so: gives the daemon what it follows QEMU's writes to its memory with
 *
 * A userfaultfd(2) is for the process that makes it, and QEMU, which makes none, is not ours. So the loader puts this
 * into it (LD_PRELOAD, vm/jail/enter.c): before QEMU's main() it makes one, sends it over the socket at TRACK_FD, closes
 * both, and has the kernel refuse the process another. What does not work leaves QEMU as it would be without this, and the
 * daemon does without, too (vm/qemu/track.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vm/qemu/track.h"

static void send_one(int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	char byte = TRACK_BYTE;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.space,
			      .msg_controllen = sizeof(control.space) };

	memset(&control, 0, sizeof(control));
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	(void)!sendmsg(TRACK_FD, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Whoever takes QEMU over has no use for one but to make others wait. */
static void refuse_more(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

	/* Without it the jail's filter still refuses all that one could do with it. */
	(void)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

__attribute__((constructor)) static void track(void)
{
	const int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd >= 0) {
		send_one(fd);
		close(fd);
	}
	close(TRACK_FD);
	refuse_more();
	(void)unsetenv("LD_PRELOAD");
}
