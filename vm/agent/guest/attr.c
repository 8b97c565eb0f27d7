/* SPDX-License-Identifier: MIT */
/*
 * attr.c - what a file is: its id and attributes, read and set
 *
 * The generation of an id: a directory's is made of its file handle, in which the filesystem itself says what
 * tells the inode from the one that had its number before (exportfs, name_to_handle_at(2)). Of other files it
 * is the time they were made at, which costs no system call: one that is not open and is replaced within the
 * same tick of the clock is taken for its successor, which has its name, and attributes that are asked for
 * anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "vm/agent/guest/files.h"

/* ---- reading */

static uint64_t made_at(const struct statx *st)
{
	return st->stx_mask & STATX_BTIME
		       ? (uint64_t)st->stx_btime.tv_sec * 1000000000u + st->stx_btime.tv_nsec
		       : 0;
}

static uint64_t generation(int dir, const char *name, const struct statx *st)
{
	union {
		struct file_handle handle;
		uint8_t space[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} u = { .handle = { .handle_bytes = MAX_HANDLE_SZ } };
	int mount;

	if (S_ISDIR(st->stx_mode) && !name_to_handle_at(dir, name, &u.handle, &mount, AT_EMPTY_PATH))
		return fs_hash(u.handle.f_handle, u.handle.handle_bytes);
	return made_at(st);
}

static struct fs_time time_of(const struct statx_timestamp *ts)
{
	return (struct fs_time){ ts->tv_sec, ts->tv_nsec };
}

/* What costs no more than one system call: no generation of a directory, and no word of extended attributes. */
static int get_basics(int dir, const char *name, struct statx *st, struct fs_attr *ret)
{
	const int flags = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT;

	if (statx(dir, name, flags, STATX_BASIC_STATS | STATX_BTIME, st) < 0)
		return -errno;
	*ret = (struct fs_attr){
		.id = { .dev = makedev(st->stx_dev_major, st->stx_dev_minor), .ino = st->stx_ino },
		.mode = st->stx_mode,
		.nlink = st->stx_nlink,
		.uid = st->stx_uid,
		.gid = st->stx_gid,
		.rdev = makedev(st->stx_rdev_major, st->stx_rdev_minor),
		.size = st->stx_size,
		.blocks = st->stx_blocks,
		.atime = time_of(&st->stx_atime),
		.mtime = time_of(&st->stx_mtime),
		.ctime = time_of(&st->stx_ctime),
	};
	return 0;
}

int guest_attr_bare(int dir, const char *name, struct fs_attr *ret)
{
	struct statx st;
	int rc = get_basics(dir, name, &st, ret);

	if (!rc)
		ret->id.gen = generation(dir, name, &st);
	return rc;
}

int guest_attr(int dir, const char *name, struct fs_attr *ret)
{
	int rc = guest_attr_bare(dir, name, ret);

	if (!rc && !guest_has_xattr(dir, name))
		ret->flags = FSA_NO_XATTR;
	return rc;
}

int guest_put_target(struct buf *reply, int dir, const char *name)
{
	char target[PATH_MAX];
	const ssize_t n = readlinkat(dir, name, target, sizeof(target));

	if (n < 0)
		return -errno;
	if (n == sizeof(target))
		return -ENAMETOOLONG;
	buf_put_bytes(reply, target, (size_t)n);
	return 0;
}

int guest_put_attr(struct buf *reply, int dir, const char *name)
{
	struct fs_attr attr = { 0 };
	int rc = guest_attr(dir, name, &attr);

	if (rc)
		return rc;
	fs_attr_put(reply, &attr);
	return S_ISLNK(attr.mode) ? guest_put_target(reply, dir, name) : 0;
}

void guest_put_dir(struct guest_request *rq, const struct guest_ref *dir)
{
	uint64_t *gen = dir->open ? &dir->open->gen : NULL;
	struct fs_attr attr;
	struct statx st;

	if (get_basics(dir->fd, "", &st, &attr))
		return;
	/* The descriptor holds it: its generation is what it was. */
	if (dir->checked)
		attr.id.gen = dir->attr.id.gen;
	else
		attr.id.gen = gen && *gen ? *gen : generation(dir->fd, "", &st);
	if (gen)
		*gen = attr.id.gen;
	fs_attr_put(&rq->reply, &attr);
}

int guest_op_getattr(struct guest_request *rq)
{
	struct guest_ref file;
	int rc = guest_file_get(rq, 0, &file);

	if (!rc && file.checked && !S_ISLNK(file.attr.mode)) {
		file.attr.flags = guest_has_xattr(file.fd, "") ? 0 : FSA_NO_XATTR;
		fs_attr_put(&rq->reply, &file.attr);
	} else if (!rc) {
		rc = guest_put_attr(&rq->reply, file.fd, "");
	}
	guest_ref_close(&file);
	return rc;
}

int guest_op_lookup(struct guest_request *rq)
{
	struct guest_place at;
	int rc = guest_place_get(rq, &at);

	if (!rc)
		rc = guest_put_attr(&rq->reply, at.dir.fd, at.name);
	guest_ref_close(&at.dir);
	return rc;
}

int guest_op_readlink(struct guest_request *rq)
{
	struct guest_ref file;
	int rc = guest_file_get(rq, 0, &file);

	if (!rc)
		rc = guest_put_target(&rq->reply, file.fd, "");
	guest_ref_close(&file);
	/* readlinkat(2) says so of an open file that is no link. */
	return rc == -ENOENT ? -EINVAL : rc;
}

/* ---- setting */

static struct timespec to_time(bool valid, const struct fs_time *time)
{
	return (struct timespec){ time->sec, valid ? (long)time->nsec : UTIME_OMIT };
}

static int set_size(int fd, const char *path, uint64_t size, bool other)
{
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
	if (size > INT64_MAX)
		return -EFBIG;
	guest_other_begin(other);
	rc = truncate(path, (off_t)size) < 0 ? -errno : 0;
	guest_other_end(other);
	return rc;
}

static int set_mode(int fd, const char *path, uint32_t mode)
{
	struct stat st;

	if (!fchmod(fd, mode & 07777))
		return 0;
	if (errno != EBADF) /* O_PATH */
		return -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISLNK(st.st_mode))
		return -EOPNOTSUPP;
	return chmod(path, mode & 07777) < 0 ? -errno : 0;
}

/* fd may be O_PATH. Owner before mode, since a change of owner clears the set-user-ID bits. */
static int set_attr(int fd, uint32_t valid, const struct fs_attr *attr)
{
	char path[GUEST_PROC_PATH];
	const struct timespec times[2] = {
		to_time(valid & FSV_ATIME, &attr->atime),
		to_time(valid & FSV_MTIME, &attr->mtime),
	};
	int rc = 0;

	if (attr->atime.nsec > 999999999 || attr->mtime.nsec > 999999999)
		return -EINVAL;
	guest_proc_path(path, fd);
	if (valid & (FSV_UID | FSV_GID) &&
	    fchownat(fd, "", valid & FSV_UID ? attr->uid : (uid_t)-1, valid & FSV_GID ? attr->gid : (gid_t)-1,
		     AT_EMPTY_PATH) < 0)
		return -errno;
	if (valid & FSV_MODE)
		rc = set_mode(fd, path, attr->mode);
	if (!rc && valid & FSV_SIZE)
		rc = set_size(fd, path, attr->size, valid & FSV_OTHER);
	if (!rc && valid & (FSV_ATIME | FSV_MTIME) && utimensat(fd, "", times, AT_EMPTY_PATH) < 0)
		rc = -errno;
	return rc;
}

int guest_op_setattr(struct guest_request *rq)
{
	struct guest_ref file;
	struct fs_attr attr;
	uint32_t valid;
	int rc = guest_file_get(rq, 0, &file);

	valid = get_u32(&rq->args);
	fs_attr_get(&rq->args, &attr);
	if (!rc && rq->args.bad)
		rc = -EINVAL;
	if (!rc)
		rc = set_attr(file.fd, valid, &attr);
	if (!rc)
		rc = guest_put_attr(&rq->reply, file.fd, "");
	guest_ref_close(&file);
	return rc;
}
