/* SPDX-License-Identifier: MIT */
/*
 * files.c - the guest's files for the host
 *
 * What a path names is looked at, not followed: it is opened with O_PATH, its type is checked, and only then
 * a regular file is opened through /proc/self/fd. So nothing here waits for the other end of a FIFO or wakes
 * a device. Paths and the operations on names are in names.c, attributes in attr.c,
 * extended ones in xattr.c, directories in listing.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "vm/agent/guest/files.h"

void guest_proc_path(char ret[GUEST_PROC_PATH], int fd)
{
	snprintf(ret, GUEST_PROC_PATH, "/proc/self/fd/%d", fd);
}

/* ---- open files */

/* The slot is the number modulo the table's size, so a table grows by being laid out anew. */
static int grow(struct guest_files *files)
{
	const uint32_t size = files->size ? files->size * 2 : 64;
	struct guest_open *open = size > GUEST_FILES_MAX ? NULL : calloc(size, sizeof(*open));
	uint32_t i;

	if (!open)
		return size > GUEST_FILES_MAX ? -ENFILE : -ENOMEM;
	for (i = 0; i < files->size; i++)
		if (files->open[i].id)
			open[files->open[i].id % size] = files->open[i];
	free(files->open);
	files->open = open;
	files->size = size;
	return 0;
}

int guest_handle_new(struct guest_files *files, int fd, uint32_t *ret)
{
	struct guest_open *slot;
	int rc = 0;

	if (files->n * 2 >= files->size)
		rc = grow(files);
	if (rc)
		return rc;
	do
		slot = &files->open[++files->last % files->size];
	while (!files->last || slot->id);
	*slot = (struct guest_open){ .id = files->last, .fd = fd };
	files->n++;
	*ret = files->last;
	return 0;
}

struct guest_open *guest_handle_find(const struct guest_files *files, uint32_t id)
{
	struct guest_open *slot = id && files->size ? &files->open[id % files->size] : NULL;

	return slot && slot->id == id ? slot : NULL;
}

int guest_handle_fd(const struct guest_files *files, uint32_t id)
{
	const struct guest_open *slot = guest_handle_find(files, id);

	return slot ? slot->fd : -EBADF;
}

int guest_handle_close(struct guest_files *files, uint32_t id)
{
	struct guest_open *slot = guest_handle_find(files, id);

	if (!slot)
		return -EBADF;
	slot->id = 0;
	files->n--;
	return close(slot->fd) < 0 ? -errno : 0;
}

void guest_files_close(struct guest_files *files)
{
	uint32_t i;

	for (i = 0; i < files->size; i++)
		if (files->open[i].id)
			guest_handle_close(files, files->open[i].id);
	free(files->open);
	files->open = NULL;
	files->size = 0;
	buf_release(&files->part);
	files->token = 0;
}

/* Consumes fd. */
static int reply_handle(struct guest_request *rq, int fd)
{
	uint32_t id = 0;
	int rc = guest_handle_new(rq->files, fd, &id);

	if (rc) {
		close(fd);
		return rc;
	}
	buf_put_u32(&rq->reply, id);
	rc = guest_put_attr(&rq->reply, fd, "");
	if (rc)
		guest_handle_close(rq->files, id);
	return rc;
}

/* Open what an O_PATH descriptor stands for, if that is a regular file. Does not consume fd. */
static int reopen(int fd, int flags, bool other)
{
	char path[GUEST_PROC_PATH];
	struct stat st;
	int file;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	if (S_ISLNK(st.st_mode))
		return -ELOOP;
	if (!S_ISREG(st.st_mode))
		return -EACCES;
	guest_proc_path(path, fd);
	guest_other_begin(other);
	file = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (file < 0)
		file = -errno;
	guest_other_end(other);
	return file;
}

/* ---- operations */

/* All of a small file: who opens it for reading will ask for it next. */
static void read_content(int fd, struct buf *ret)
{
	struct stat st;
	void *p;
	ssize_t n;

	if (fstat(fd, &st) < 0 || !st.st_size || st.st_size > PROTO_READ_BEST)
		return;
	p = buf_reserve(ret, (size_t)st.st_size);
	n = p ? pread(fd, p, (size_t)st.st_size, 0) : 0;
	if (n == st.st_size)
		buf_grow(ret, (size_t)n);
}

static int op_open(struct guest_request *rq)
{
	struct buf content = { 0 };
	struct guest_ref file;
	uint32_t flags;
	bool other;
	int rc = guest_file_get(rq, 0, &file);

	flags = get_u32(&rq->args);
	other = get_u8(&rq->args);
	if (!rc && rq->args.bad)
		rc = -EINVAL;
	if (!rc)
		rc = reopen(file.fd, (int)(flags & (O_ACCMODE | O_TRUNC | O_APPEND)), other);
	guest_ref_close(&file);
	/* Before the attributes, in which the time of the last access is that of this. */
	if (rc >= 0 && flags & FS_OPEN_DATA)
		read_content(rc, &content);
	if (rc >= 0)
		rc = reply_handle(rq, rc);
	if (!rc)
		buf_add(&rq->reply, buf_bytes(&content), content.len);
	buf_release(&content);
	return rc;
}

gid_t guest_group(int dir, gid_t gid)
{
	struct stat st;

	return !fstat(dir, &st) && st.st_mode & S_ISGID ? st.st_gid : gid;
}

static int create_new(const struct guest_place *at, int flags, const struct guest_maker *maker)
{
	const int dir = at->dir.fd;
	struct stat st;
	int rc, fd;

	umask(maker->umask & 0777);
	fd = openat(dir, at->name, flags | O_CREAT | O_EXCL | O_CLOEXEC, maker->mode & 07777);
	rc = fd < 0 ? -errno : 0;
	umask(0);
	if (rc)
		return rc;
	if (!fstat(fd, &st) && guest_is_owned(&st, dir, maker))
		return fd;
	/* A change of owner cuts the mode; what an ACL made of it stays. */
	if (fchown(fd, maker->uid, guest_group(dir, maker->gid)) < 0 ||
	    (st.st_mode & 07000 && fchmod(fd, st.st_mode & 07777) < 0)) {
		rc = -errno;
		close(fd);
		unlinkat(dir, at->name, 0);
		return rc;
	}
	return fd;
}

static int op_create(struct guest_request *rq)
{
	struct guest_maker maker;
	struct guest_place at;
	uint32_t flags;
	bool other;
	int path, rc = guest_place_get(rq, &at);

	flags = get_u32(&rq->args);
	guest_maker_get(rq, &maker);
	other = get_u8(&rq->args);
	if (!rc && rq->args.bad)
		rc = -EINVAL;
	if (!rc)
		rc = create_new(&at, (int)(flags & (O_ACCMODE | O_APPEND)), &maker);
	if (rc == -EEXIST && !(flags & O_EXCL)) {
		path = openat(at.dir.fd, at.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		rc = path < 0 ? -errno : reopen(path, (int)(flags & (O_ACCMODE | O_TRUNC | O_APPEND)), other);
		if (path >= 0)
			close(path);
	}
	if (rc >= 0)
		rc = reply_handle(rq, rc);
	if (!rc)
		guest_put_dir(rq, &at.dir);
	guest_ref_close(&at.dir);
	return rc;
}

static int op_read(struct guest_request *rq)
{
	const uint32_t handle = get_u32(&rq->args);
	const uint64_t offset = get_u64(&rq->args);
	const uint32_t size = get_u32(&rq->args);
	const int fd = guest_handle_fd(rq->files, handle);
	void *p;
	ssize_t n;

	if (rq->args.bad || size > PROTO_DATA_MAX || offset > INT64_MAX)
		return -EINVAL;
	if (fd < 0)
		return fd;
	p = buf_reserve(&rq->reply, size);
	if (!p)
		return -ENOMEM;
	n = pread(fd, p, size, (off_t)offset);
	if (n < 0)
		return -errno;
	buf_grow(&rq->reply, (size_t)n);
	return 0;
}

static int op_write(struct guest_request *rq)
{
	const uint32_t handle = get_u32(&rq->args);
	const uint64_t offset = get_u64(&rq->args);
	const bool other = get_u8(&rq->args);
	const int fd = guest_handle_fd(rq->files, handle);
	ssize_t n;

	if (rq->args.bad || offset > INT64_MAX)
		return -EINVAL;
	if (fd < 0)
		return fd;
	guest_other_begin(other);
	n = pwrite(fd, rq->args.p, reader_left(&rq->args), (off_t)offset);
	if (n < 0)
		n = -errno;
	guest_other_end(other);
	if (n < 0)
		return (int)n;
	buf_put_u32(&rq->reply, (uint32_t)n);
	return 0;
}

static int op_close(struct guest_request *rq)
{
	const uint32_t handle = get_u32(&rq->args);

	return rq->args.bad ? -EINVAL : guest_handle_close(rq->files, handle);
}

static int op_fsync(struct guest_request *rq)
{
	const int fd = guest_handle_fd(rq->files, get_u32(&rq->args));

	if (fd < 0)
		return fd;
	return fsync(fd) < 0 ? -errno : 0;
}

static int op_seek(struct guest_request *rq)
{
	const int fd = guest_handle_fd(rq->files, get_u32(&rq->args));
	const uint64_t offset = get_u64(&rq->args);
	const uint32_t whence = get_u32(&rq->args);
	off_t at;

	if (rq->args.bad || offset > INT64_MAX || (whence != SEEK_DATA && whence != SEEK_HOLE))
		return -EINVAL;
	if (fd < 0)
		return fd;
	at = lseek(fd, (off_t)offset, (int)whence);
	if (at < 0)
		return -errno;
	buf_put_u64(&rq->reply, (uint64_t)at);
	return 0;
}

static int op_fallocate(struct guest_request *rq)
{
	const int fd = guest_handle_fd(rq->files, get_u32(&rq->args));
	const uint32_t mode = get_u32(&rq->args);
	const uint64_t offset = get_u64(&rq->args), length = get_u64(&rq->args);
	const bool other = get_u8(&rq->args);
	int rc;

	if (rq->args.bad || offset > INT64_MAX || length > INT64_MAX)
		return -EINVAL;
	if (fd < 0)
		return fd;
	guest_other_begin(other);
	rc = fallocate(fd, (int)mode, (off_t)offset, (off_t)length) < 0 ? -errno : 0;
	guest_other_end(other);
	return rc;
}

static int op_statfs(struct guest_request *rq)
{
	struct guest_ref file;
	struct statfs st;
	int rc = guest_file_get(rq, 0, &file);

	if (!rc && fstatfs(file.fd, &st) < 0)
		rc = -errno;
	guest_ref_close(&file);
	if (rc)
		return rc;
	buf_put_u64(&rq->reply, (uint64_t)st.f_bsize);
	buf_put_u64(&rq->reply, st.f_blocks);
	buf_put_u64(&rq->reply, st.f_bfree);
	buf_put_u64(&rq->reply, st.f_bavail);
	buf_put_u64(&rq->reply, st.f_files);
	buf_put_u64(&rq->reply, st.f_ffree);
	buf_put_u32(&rq->reply, (uint32_t)st.f_namelen);
	return 0;
}

static int op_sync(struct guest_request *rq)
{
	const int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc;

	(void)rq;
	if (fd < 0)
		return -errno;
	rc = syncfs(fd) < 0 ? -errno : 0;
	close(fd);
	return rc;
}

static int (*const ops[])(struct guest_request *rq) = {
	[FS_GETATTR] = guest_op_getattr,
	[FS_SETATTR] = guest_op_setattr,
	[FS_READDIR] = guest_op_readdir,
	[FS_READLINK] = guest_op_readlink,
	[FS_OPEN] = op_open,
	[FS_CREATE] = op_create,
	[FS_READ] = op_read,
	[FS_WRITE] = op_write,
	[FS_CLOSE] = op_close,
	[FS_FSYNC] = op_fsync,
	[FS_MKDIR] = guest_op_mkdir,
	[FS_UNLINK] = guest_op_unlink,
	[FS_RMDIR] = guest_op_rmdir,
	[FS_RENAME] = guest_op_rename,
	[FS_SYMLINK] = guest_op_symlink,
	[FS_LINK] = guest_op_link,
	[FS_MKNOD] = guest_op_mknod,
	[FS_STATFS] = op_statfs,
	[FS_SYNC] = op_sync,
	[FS_LOOKUP] = guest_op_lookup,
	[FS_OPENDIR] = guest_op_opendir,
	[FS_SEEK] = op_seek,
	[FS_FALLOCATE] = op_fallocate,
	[FS_GETXATTR] = guest_op_getxattr,
	[FS_SETXATTR] = guest_op_setxattr,
	[FS_REMOVEXATTR] = guest_op_removexattr,
	[FS_XATTR_PART] = guest_op_xattr_part,
};

void guest_files_frame(struct guest *guest, const struct frame *frame)
{
	struct guest_request rq = { .files = &guest->files, .args = reader_init(frame->payload, frame->len) };
	const uint8_t op = get_u8(&rq.args);
	struct buf payload = { 0 };
	int rc = -ENOSYS;

	if (op < sizeof(ops) / sizeof(ops[0]) && ops[op])
		rc = ops[op](&rq);
	if (!rc && rq.reply.failed)
		rc = -ENOMEM;
	buf_put_u32(&payload, (uint32_t)-rc);
	if (!rc)
		buf_add(&payload, buf_bytes(&rq.reply), rq.reply.len);
	if (!payload.failed)
		guest_send(guest, F_FS_REPLY, frame->id, buf_bytes(&payload), payload.len);
	buf_release(&payload);
	buf_release(&rq.reply);
}
