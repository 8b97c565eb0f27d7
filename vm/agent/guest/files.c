/* SPDX-License-Identifier: MIT */
/*
 * files.c - the guest's files for the host
 *
 * What a path names is looked at, not followed: it is opened with O_PATH, its type is checked, and only then
 * a regular file is opened through /proc/self/fd. So nothing here waits for the other end of a FIFO or wakes
 * a device. Paths and the operations on names are in names.c.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "vm/agent/guest/files.h"

/* Entries of a directory listing go on until the reply is this large; a name and its attr fit above it. */
enum { READDIR_FULL = PROTO_PAYLOAD_MAX - 1024 };

enum { PROC_PATH = 32 };

static void proc_path(char ret[PROC_PATH], int fd)
{
	snprintf(ret, PROC_PATH, "/proc/self/fd/%d", fd);
}

/* ---- attributes */

static uint64_t time_ns(const struct timespec *ts)
{
	return (uint64_t)ts->tv_sec * 1000000000u + (uint64_t)ts->tv_nsec;
}

void guest_put_stat(struct buf *reply, const struct stat *st)
{
	const struct fs_attr attr = {
		.ino = st->st_ino,
		.mode = st->st_mode,
		.nlink = (uint32_t)st->st_nlink,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.rdev = st->st_rdev,
		.size = (uint64_t)st->st_size,
		.blocks = (uint64_t)st->st_blocks,
		.atime_ns = time_ns(&st->st_atim),
		.mtime_ns = time_ns(&st->st_mtim),
		.ctime_ns = time_ns(&st->st_ctim),
	};

	fs_attr_put(reply, &attr);
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

static int put_attr_of(struct buf *reply, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	guest_put_stat(reply, &st);
	return S_ISLNK(st.st_mode) ? guest_put_target(reply, fd, "") : 0;
}

static struct timespec to_time(bool valid, uint64_t ns)
{
	/* Times before 1970 travel as two's complement. */
	const int64_t t = (int64_t)ns;
	struct timespec ts = { .tv_sec = t / 1000000000, .tv_nsec = t % 1000000000 };

	if (ts.tv_nsec < 0) {
		ts.tv_sec--;
		ts.tv_nsec += 1000000000;
	}
	if (!valid)
		ts.tv_nsec = UTIME_OMIT;
	return ts;
}

/* fd may be O_PATH. Owner before mode, since a change of owner clears the set-user-ID bits. */
static int set_attr(int fd, uint32_t valid, const struct fs_attr *attr)
{
	char path[PROC_PATH];
	struct stat st;
	struct timespec times[2] = {
		to_time(valid & FSV_ATIME, attr->atime_ns),
		to_time(valid & FSV_MTIME, attr->mtime_ns),
	};

	proc_path(path, fd);
	if (valid & (FSV_UID | FSV_GID) &&
	    fchownat(fd, "", valid & FSV_UID ? attr->uid : (uid_t)-1, valid & FSV_GID ? attr->gid : (gid_t)-1,
		     AT_EMPTY_PATH) < 0)
		return -errno;
	if (valid & FSV_MODE) {
		if (fstat(fd, &st) < 0)
			return -errno;
		if (S_ISLNK(st.st_mode))
			return -EOPNOTSUPP;
		if (chmod(path, attr->mode & 07777) < 0)
			return -errno;
	}
	if (valid & FSV_SIZE) {
		if (fstat(fd, &st) < 0)
			return -errno;
		if (!S_ISREG(st.st_mode))
			return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
		if (attr->size > INT64_MAX)
			return -EFBIG;
		if (truncate(path, (off_t)attr->size) < 0)
			return -errno;
	}
	if (valid & (FSV_ATIME | FSV_MTIME) && utimensat(fd, "", times, AT_EMPTY_PATH) < 0)
		return -errno;
	return 0;
}

/* ---- open files */

static int handle_new(struct guest_files *files, int fd, uint32_t *ret)
{
	uint32_t i, id;

	/* The slot is the number modulo the table's size, and numbers are not used again for long. */
	for (i = 1; i <= GUEST_FILES_MAX; i++) {
		id = files->last + i;
		if (!id || files->open[id % GUEST_FILES_MAX].id)
			continue;
		files->open[id % GUEST_FILES_MAX].id = id;
		files->open[id % GUEST_FILES_MAX].fd = fd;
		files->last = *ret = id;
		return 0;
	}
	return -ENFILE;
}

static int handle_fd(const struct guest_files *files, uint32_t id)
{
	return id && files->open[id % GUEST_FILES_MAX].id == id ? files->open[id % GUEST_FILES_MAX].fd
								: -EBADF;
}

static int handle_close(struct guest_files *files, uint32_t id)
{
	const int fd = handle_fd(files, id);

	if (fd < 0)
		return fd;
	files->open[id % GUEST_FILES_MAX].id = 0;
	return close(fd) < 0 ? -errno : 0;
}

void guest_files_close(struct guest_files *files)
{
	unsigned i;

	for (i = 0; i < GUEST_FILES_MAX; i++)
		if (files->open[i].id)
			handle_close(files, files->open[i].id);
}

/* Consumes fd. */
static int reply_handle(struct guest_request *rq, int fd)
{
	struct stat st;
	uint32_t id = 0;
	int rc;

	if (fstat(fd, &st) < 0)
		rc = -errno;
	else
		rc = handle_new(rq->files, fd, &id);
	if (rc) {
		close(fd);
		return rc;
	}
	buf_put_u32(&rq->reply, id);
	guest_put_stat(&rq->reply, &st);
	return 0;
}

/* Open what an O_PATH descriptor stands for, if that is a regular file. Does not consume fd. */
static int reopen(int fd, int flags)
{
	char path[PROC_PATH];
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
	proc_path(path, fd);
	file = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return file < 0 ? -errno : file;
}

/* ---- operations */

static int op_getattr(struct guest_request *rq)
{
	char path[PATH_MAX];
	int rc, fd;

	rc = guest_path_get(&rq->args, path);
	if (rc)
		return rc;
	fd = guest_path_open(path, O_NOFOLLOW);
	if (fd < 0)
		return fd;
	rc = put_attr_of(&rq->reply, fd);
	close(fd);
	return rc;
}

static int op_setattr(struct guest_request *rq)
{
	char path[PATH_MAX];
	struct fs_attr attr;
	uint32_t handle, valid;
	int fd, rc;

	get_str(&rq->args, path, sizeof(path));
	handle = get_u32(&rq->args);
	valid = get_u32(&rq->args);
	fs_attr_get(&rq->args, &attr);
	if (rq->args.bad || (!handle && !guest_path_valid(path)))
		return -EINVAL;
	fd = handle ? handle_fd(rq->files, handle) : guest_path_open(path, O_NOFOLLOW);
	if (fd < 0)
		return fd;
	rc = set_attr(fd, valid, &attr);
	if (!rc)
		rc = put_attr_of(&rq->reply, fd);
	if (!handle)
		close(fd);
	return rc;
}

static int list_entries(DIR *dir, struct buf *entries, uint32_t *ret_count)
{
	struct dirent *entry;
	struct stat st;

	*ret_count = 0;
	while (entries->len < READDIR_FULL) {
		errno = 0;
		entry = readdir(dir);
		if (!entry)
			return errno ? -errno : 0;
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") ||
		    fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue; /* gone since, or a mount that is dead */
		buf_put_u64(entries, (uint64_t)entry->d_off);
		buf_put_str(entries, entry->d_name);
		guest_put_stat(entries, &st);
		++*ret_count;
	}
	return 1;
}

static int op_readdir(struct guest_request *rq)
{
	struct buf entries = { 0 };
	char path[PATH_MAX];
	uint64_t cookie;
	uint32_t count;
	int rc, fd, more;
	DIR *dir;

	rc = guest_path_get(&rq->args, path);
	cookie = get_u64(&rq->args);
	if (rc || rq->args.bad)
		return -EINVAL;
	fd = guest_path_open(path, O_DIRECTORY | O_NOFOLLOW);
	if (fd < 0)
		return fd;
	/* A descriptor for reading, of the very same directory. */
	rc = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (rc < 0)
		rc = -errno;
	close(fd);
	if (rc < 0)
		return rc;
	dir = fdopendir(rc);
	if (!dir) {
		close(rc);
		return -ENOMEM;
	}
	if (cookie)
		seekdir(dir, (long)cookie);
	more = list_entries(dir, &entries, &count);
	closedir(dir);
	rc = more < 0 ? more : entries.failed ? -ENOMEM : 0;
	if (!rc) {
		buf_put_u8(&rq->reply, (uint8_t)more);
		buf_put_u32(&rq->reply, count);
		buf_add(&rq->reply, buf_bytes(&entries), entries.len);
	}
	buf_release(&entries);
	return rc;
}

static int op_readlink(struct guest_request *rq)
{
	struct guest_place at;
	int rc;

	rc = guest_place_get(&rq->args, &at);
	if (rc)
		return rc == -EBUSY ? -EINVAL : rc;
	rc = guest_put_target(&rq->reply, at.dir, at.name);
	close(at.dir);
	return rc;
}

static int op_open(struct guest_request *rq)
{
	char path[PATH_MAX];
	uint32_t flags;
	int rc, fd;

	rc = guest_path_get(&rq->args, path);
	flags = get_u32(&rq->args);
	if (rc || rq->args.bad)
		return -EINVAL;
	fd = guest_path_open(path, O_NOFOLLOW);
	if (fd < 0)
		return fd;
	rc = reopen(fd, (int)(flags & (O_ACCMODE | O_TRUNC | O_APPEND)));
	close(fd);
	return rc < 0 ? rc : reply_handle(rq, rc);
}

static int create_new(const struct guest_place *at, int flags, uint32_t mode, uint32_t uid, uint32_t gid)
{
	int rc, fd = openat(at->dir, at->name, flags | O_CREAT | O_EXCL | O_CLOEXEC, mode & 07777);

	if (fd < 0)
		return -errno;
	if (fchown(fd, uid, gid) < 0 || fchmod(fd, mode & 07777) < 0) {
		rc = -errno;
		close(fd);
		unlinkat(at->dir, at->name, 0);
		return rc;
	}
	return fd;
}

static int op_create(struct guest_request *rq)
{
	struct guest_place at;
	uint32_t flags, mode, uid, gid;
	int rc, path;

	rc = guest_place_get(&rq->args, &at);
	flags = get_u32(&rq->args);
	mode = get_u32(&rq->args);
	uid = get_u32(&rq->args);
	gid = get_u32(&rq->args);
	if (!rc && rq->args.bad)
		rc = -EINVAL;
	if (!rc)
		rc = create_new(&at, (int)(flags & (O_ACCMODE | O_APPEND)), mode, uid, gid);
	if (rc == -EEXIST && !(flags & O_EXCL)) {
		path = openat(at.dir, at.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		rc = path < 0 ? -errno : reopen(path, (int)(flags & (O_ACCMODE | O_TRUNC | O_APPEND)));
		if (path >= 0)
			close(path);
	}
	if (at.dir >= 0)
		close(at.dir);
	return rc < 0 ? rc : reply_handle(rq, rc);
}

static int op_read(struct guest_request *rq)
{
	const uint32_t handle = get_u32(&rq->args);
	const uint64_t offset = get_u64(&rq->args);
	const uint32_t size = get_u32(&rq->args);
	const int fd = handle_fd(rq->files, handle);
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
	const int fd = handle_fd(rq->files, handle);
	ssize_t n;

	if (rq->args.bad || offset > INT64_MAX)
		return -EINVAL;
	if (fd < 0)
		return fd;
	n = pwrite(fd, rq->args.p, reader_left(&rq->args), (off_t)offset);
	if (n < 0)
		return -errno;
	buf_put_u32(&rq->reply, (uint32_t)n);
	return 0;
}

static int op_close(struct guest_request *rq)
{
	const uint32_t handle = get_u32(&rq->args);

	return rq->args.bad ? -EINVAL : handle_close(rq->files, handle);
}

static int op_fsync(struct guest_request *rq)
{
	const int fd = handle_fd(rq->files, get_u32(&rq->args));

	if (fd < 0)
		return fd;
	return fsync(fd) < 0 ? -errno : 0;
}

static int op_statfs(struct guest_request *rq)
{
	char path[PATH_MAX];
	struct statfs st;
	int rc, fd;

	rc = guest_path_get(&rq->args, path);
	if (rc)
		return rc;
	fd = guest_path_open(path, O_NOFOLLOW);
	if (fd < 0)
		return fd;
	rc = fstatfs(fd, &st) < 0 ? -errno : 0;
	close(fd);
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
	[FS_GETATTR] = op_getattr,   [FS_SETATTR] = op_setattr,     [FS_READDIR] = op_readdir,
	[FS_READLINK] = op_readlink, [FS_OPEN] = op_open,           [FS_CREATE] = op_create,
	[FS_READ] = op_read,         [FS_WRITE] = op_write,         [FS_CLOSE] = op_close,
	[FS_FSYNC] = op_fsync,       [FS_MKDIR] = guest_op_mkdir,   [FS_UNLINK] = guest_op_unlink,
	[FS_RMDIR] = guest_op_rmdir, [FS_RENAME] = guest_op_rename, [FS_SYMLINK] = guest_op_symlink,
	[FS_LINK] = guest_op_link,   [FS_MKNOD] = guest_op_mknod,   [FS_STATFS] = op_statfs,
	[FS_SYNC] = op_sync,
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
