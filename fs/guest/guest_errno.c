/* SPDX-License-Identifier: MIT */
/*
 * guest_errno.c - the errnos a guest's file operations may end with
 *
 * An errno in a FUSE reply is more than what a program is told. ENOSYS makes the kernel do without OPEN,
 * OPENDIR, CREATE, FSYNC or RENAME2, for the whole mount and for good (fs/fuse/file.c and dir.c in Linux);
 * ESTALE, ECHILD and EOPENSTALE make it walk the path again; EINTR and the ERESTART family restart the system
 * call; ENOTCONN and ECONNABORTED are how a mount without a daemon looks, which tools then unmount. Others
 * have a meaning in our tree (EHOSTDOWN: the machine does not run). So this is a list of what is harmless,
 * and all else is EIO.
 */
#include "fs/guest/guest_errno.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

/* What path walks, namespaces, quotas and disks say, in the manual pages of their system calls. */
static const int any[] = {
	EPERM,
	ENOENT,
	EIO,
	ENOMEM,
	EACCES,
	EBUSY,
	EEXIST,
	EXDEV,
	ENOTDIR,
	EISDIR,
	EINVAL,
	ENFILE,
	EMFILE,
	ETXTBSY,
	EFBIG,
	ENOSPC,
	EROFS,
	EMLINK,
	ERANGE,
	ELOOP,
	ENOTEMPTY,
	EDQUOT,
	EOVERFLOW,
	EUCLEAN,
	ENAMETOOLONG,
	/* the channel's, which lets no guest say them; the last for PROTO_STALE: the kernel walks once more */
	ETIMEDOUT,
	EHOSTDOWN,
	ESTALE,
};

/* What single operations may say: files of /proc and /sys answer reads and writes with about anything. */
static const struct {
	enum fs_op op;
	int code;
} some[] = {
	{ FS_SETATTR, EOPNOTSUPP }, /* the mode of a symbolic link */
	{ FS_SEEK, ENXIO },          { FS_FALLOCATE, EOPNOTSUPP }, { FS_SETATTR, EBADF },
	{ FS_FSYNC, EBADF },         { FS_READ, EBADF },           { FS_READ, EAGAIN },
	{ FS_READ, ENXIO },          { FS_READ, ENODEV },          { FS_READ, EOPNOTSUPP },
	{ FS_WRITE, EBADF },         { FS_WRITE, EAGAIN },         { FS_WRITE, ENXIO },
	{ FS_WRITE, ENODEV },        { FS_WRITE, EOPNOTSUPP },     { FS_GETXATTR, ENODATA },
	{ FS_GETXATTR, EOPNOTSUPP }, { FS_SETXATTR, ENODATA },     { FS_SETXATTR, EOPNOTSUPP },
	{ FS_SETXATTR, E2BIG },      { FS_REMOVEXATTR, ENODATA },  { FS_REMOVEXATTR, EOPNOTSUPP },
};

int guest_errno_allowed(enum fs_op op, int err)
{
	size_t i;

	if (!err)
		return 0;
	for (i = 0; i < sizeof(any) / sizeof(*any); i++)
		if (err == -any[i])
			return err;
	for (i = 0; i < sizeof(some) / sizeof(*some); i++)
		if (op == some[i].op && err == -some[i].code)
			return err;
	return -EIO;
}
