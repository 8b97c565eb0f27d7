/* SPDX-License-Identifier: MIT */
/*
 * xattr.c - extended attributes of the guest's files, ACLs and file capabilities among them
 *
 * They are asked for by /proc's path of a descriptor, which may be O_PATH, as of a link: that leads to the very
 * file. A value that does not fit a frame is read in pieces, and the hash that each comes with tells the host whether
 * they are of one value; it is written from two.
 */
#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "vm/agent/guest/files.h"

/* ---- users other than root */

/* The raw call, since libcap is no part of the agent. */
static void set_fsetid(bool on)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct caps[2] = { 0 };

	if (syscall(SYS_capget, &head, caps) < 0)
		return;
	if (on)
		caps[0].effective |= caps[0].permitted & 1u << CAP_FSETID;
	else
		caps[0].effective &= ~(1u << CAP_FSETID);
	(void)syscall(SYS_capset, &head, caps);
}

void guest_other_begin(bool other)
{
	if (other)
		set_fsetid(false);
}

void guest_other_end(bool other)
{
	if (other)
		set_fsetid(true);
}

/* ---- is there any */

/* The directory that we are in, as is no other time; -1: in the root. */
static int inside = -1;

void guest_has_xattr_begin(int dir)
{
	if (!fchdir(dir))
		inside = dir;
}

void guest_has_xattr_end(void)
{
	/* It would be busy. */
	if (inside >= 0 && chdir("/") < 0)
		return;
	inside = -1;
}

/* A path through /proc costs three times as much as one from here. */
static ssize_t list_name(int dir, const char *name)
{
	const bool was = inside == dir;
	ssize_t n;

	if (!was)
		guest_has_xattr_begin(dir);
	if (inside != dir)
		return 1;
	n = llistxattr(name, NULL, 0);
	if (!was) {
		int saved = errno;

		guest_has_xattr_end();
		errno = saved;
	}
	return n;
}

static ssize_t list_fd(int fd)
{
	ssize_t n = flistxattr(fd, NULL, 0);
	char path[GUEST_PROC_PATH];

	if (n < 0 && errno == EBADF) { /* O_PATH */
		guest_proc_path(path, fd);
		n = listxattr(path, NULL, 0);
	}
	return n;
}

bool guest_has_xattr(int dir, const char *name)
{
	const ssize_t n = *name ? list_name(dir, name) : list_fd(dir);

	return n != 0 && !(n < 0 && errno == EOPNOTSUPP);
}

/* ---- operations */

/* A FILE and an attribute's name; the file's descriptor stays in ref. 0 or a negative errno. */
static int get_named(struct guest_request *rq, struct guest_ref *ref, char path[GUEST_PROC_PATH],
		     char name[XATTR_NAME_MAX + 1])
{
	const int rc = guest_file_get(rq, 0, ref);

	get_str(&rq->args, name, XATTR_NAME_MAX + 1);
	guest_proc_path(path, ref->fd);
	return rc ? rc : rq->args.bad ? -EINVAL : 0;
}

/* All of a value, or of the list: its size, or a negative errno. */
static ssize_t read_value(const char *path, const char *name, uint8_t value[FS_XATTR_MAX])
{
	const ssize_t n = *name ? getxattr(path, name, value, FS_XATTR_MAX)
				: listxattr(path, (char *)value, FS_XATTR_MAX);

	return n < 0 ? -errno : n;
}

int guest_op_getxattr(struct guest_request *rq)
{
	static uint8_t value[FS_XATTR_MAX];
	char path[GUEST_PROC_PATH], name[XATTR_NAME_MAX + 1];
	struct guest_ref ref;
	int rc = get_named(rq, &ref, path, name);
	const uint32_t offset = get_u32(&rq->args), wanted = get_u32(&rq->args);
	ssize_t n = 0;

	if (!rc && (rq->args.bad || wanted > PROTO_DATA_MAX))
		rc = -EINVAL;
	if (!rc) {
		n = read_value(path, name, value);
		rc = n < 0 ? (int)n : 0;
	}
	guest_ref_close(&ref);
	if (rc)
		return rc;
	fs_xattr_put(&rq->reply, value, (size_t)n, offset, wanted);
	return 0;
}

int guest_op_xattr_part(struct guest_request *rq)
{
	struct guest_files *files = rq->files;
	const uint32_t token = get_u32(&rq->args);

	if (rq->args.bad || !token)
		return -EINVAL;
	buf_clear(&files->part);
	buf_add(&files->part, rq->args.p, reader_left(&rq->args));
	files->token = token;
	return 0;
}

int guest_op_setxattr(struct guest_request *rq)
{
	struct guest_files *files = rq->files;
	char path[GUEST_PROC_PATH], name[XATTR_NAME_MAX + 1];
	struct guest_ref ref;
	int rc = get_named(rq, &ref, path, name);
	const uint32_t flags = get_u32(&rq->args), token = get_u32(&rq->args);

	if (!rc && rq->args.bad)
		rc = -EINVAL;
	if (!rc && token && token != files->token)
		rc = -EIO;
	if (!token)
		buf_clear(&files->part);
	if (!rc) {
		buf_add(&files->part, rq->args.p, reader_left(&rq->args));
		rc = files->part.failed ? -ENOMEM
		     : setxattr(path, name, buf_bytes(&files->part), files->part.len, (int)flags) < 0 ? -errno
												      : 0;
	}
	buf_release(&files->part);
	files->token = 0;
	guest_ref_close(&ref);
	return rc;
}

int guest_op_removexattr(struct guest_request *rq)
{
	char path[GUEST_PROC_PATH], name[XATTR_NAME_MAX + 1];
	struct guest_ref ref;
	int rc = get_named(rq, &ref, path, name);

	if (!rc && removexattr(path, name) < 0)
		rc = -errno;
	guest_ref_close(&ref);
	return rc;
}
