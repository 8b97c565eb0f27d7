/* SPDX-License-Identifier: MIT */
/*
 * session.c - the FUSE session: mounted, and read by the loop
 *
 * libfuse's own loops are not used: ours watches the session's descriptor beside all others. A request goes
 * to the operations of its node, of which there are two sets (node.h).
 */
#include "fs/tree/session.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/tree/mounter.h"
#include "util/log.h"

/* Requests taken in one round of the loop, so that a busy client does not keep the machines waiting. */
enum { BATCH = 64, STALE_MAX = 64, OPTIONS_MAX = 1024 };

struct session {
	struct fs *fs;
	struct fuse_session *se;
	struct watch *watch;
	struct fuse_buf buf;
	bool mounted;
	bool offered, answered; /* of INIT: mappings that are shared (read_request) */
	bool epochs;            /* the kernel knows INC_EPOCH */
};

static const struct fuse_lowlevel_ops *ops_of(fuse_req_t req, fuse_ino_t ino)
{
	return node_of(req, ino)->ops;
}

/*
 * Every file and directory here has a handle, which is an address. The kernel makes up one of 0 for what it
 * opened without asking, as it does once an OPEN was answered with ENOSYS. False: answered.
 */
static bool has_handle(fuse_req_t req, const struct fuse_file_info *fi)
{
	if (!fi->fh)
		fuse_reply_err(req, EBADF);
	return fi->fh;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	ops_of(req, parent)->lookup(req, parent, name);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	ops_of(req, ino)->forget(req, ino, n);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	size_t i;

	for (i = 0; i < count; i++)
		node_forget(node_of(req, forgets[i].ino), forgets[i].nlookup);
	fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (!fi || has_handle(req, fi))
		ops_of(req, ino)->getattr(req, ino, fi);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		       struct fuse_file_info *fi)
{
	if (!fi || has_handle(req, fi))
		ops_of(req, ino)->setattr(req, ino, attr, to_set, fi);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	ops_of(req, ino)->readlink(req, ino);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	ops_of(req, parent)->mknod(req, parent, name, mode, rdev);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	ops_of(req, parent)->mkdir(req, parent, name, mode);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	ops_of(req, parent)->unlink(req, parent, name);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	ops_of(req, parent)->rmdir(req, parent, name);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	ops_of(req, parent)->symlink(req, target, parent, name);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
		      const char *newname, unsigned flags)
{
	ops_of(req, parent)->rename(req, parent, name, newparent, newname, flags);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname)
{
	ops_of(req, newparent)->link(req, ino, newparent, newname);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	ops_of(req, ino)->open(req, ino, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	if (has_handle(req, fi))
		ops_of(req, ino)->read(req, ino, size, off, fi);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
		     struct fuse_file_info *fi)
{
	if (has_handle(req, fi))
		ops_of(req, ino)->write(req, ino, data, size, off, fi);
}

/* Files that no FLUSH matters to are opened with noflush; older kernels send it all the same. */
static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (!has_handle(req, fi))
		return;
	if (ops_of(req, ino)->flush)
		ops_of(req, ino)->flush(req, ino, fi);
	else
		fuse_reply_err(req, 0);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (has_handle(req, fi))
		ops_of(req, ino)->release(req, ino, fi);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	if (has_handle(req, fi))
		ops_of(req, ino)->fsync(req, ino, datasync, fi);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	ops_of(req, ino)->opendir(req, ino, fi);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	if (has_handle(req, fi))
		ops_of(req, ino)->readdir(req, ino, size, off, fi);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	if (has_handle(req, fi))
		ops_of(req, ino)->readdirplus(req, ino, size, off, fi);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (has_handle(req, fi))
		ops_of(req, ino)->releasedir(req, ino, fi);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	ops_of(req, ino)->statfs(req, ino);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		      struct fuse_file_info *fi)
{
	ops_of(req, parent)->create(req, parent, name, mode, fi);
}

static void op_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph)
{
	if (has_handle(req, fi))
		ops_of(req, ino)->poll(req, ino, fi, ph);
	else if (ph)
		fuse_pollhandle_destroy(ph);
}

/* SEEK_DATA and SEEK_HOLE; the kernel does the others. What is ours has no holes. */
static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	if (!has_handle(req, fi))
		return;
	ops_of(req, ino)->lseek(req, ino, off, whence, fi);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t length,
			 struct fuse_file_info *fi)
{
	if (!has_handle(req, fi))
		return;
	if (ops_of(req, ino)->fallocate)
		ops_of(req, ino)->fallocate(req, ino, mode, off, length, fi);
	else
		fuse_reply_err(req, ENODEV);
}

/*
 * What is ours has no extended attributes. The answer is never ENOSYS, after which the kernel would not ask again for
 * any file of the mount; and where it asks for an ACL, to check a permission, one other than ENODATA is the walk's.
 */
static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	if (ops_of(req, ino)->getxattr)
		ops_of(req, ino)->getxattr(req, ino, name, size);
	else
		fuse_reply_err(req, ENODATA);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	if (ops_of(req, ino)->listxattr)
		ops_of(req, ino)->listxattr(req, ino, size);
	else if (size)
		fuse_reply_buf(req, NULL, 0);
	else
		fuse_reply_xattr(req, 0);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
			int flags)
{
	if (ops_of(req, ino)->setxattr)
		ops_of(req, ino)->setxattr(req, ino, name, value, size, flags);
	else
		fuse_reply_err(req, EOPNOTSUPP);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	if (ops_of(req, ino)->removexattr)
		ops_of(req, ino)->removexattr(req, ino, name);
	else
		fuse_reply_err(req, EOPNOTSUPP);
}

/*
 * The kernel goes by the ACLs of a guest's files when it checks permissions: with an ACL the mode's group bits are its
 * mask, so by the mode alone a group could be given what the ACL denies it. And it leaves the umask to us, since a
 * default ACL takes its place.
 */
static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	conn->want |= conn->capable & (FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK);
}

static const struct fuse_lowlevel_ops session_ops = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.open = op_open,
	.read = op_read,
	.write = op_write,
	.flush = op_flush,
	.release = op_release,
	.fsync = op_fsync,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.releasedir = op_releasedir,
	.statfs = op_statfs,
	.create = op_create,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.setxattr = op_setxattr,
	.removexattr = op_removexattr,
	.poll = op_poll,
	.lseek = op_lseek,
	.fallocate = op_fallocate,
};

/*
 * Files are read and written without the kernel's cache, and may be mapped shared all the same if it is told so
 * (FUSE_DIRECT_IO_ALLOW_MMAP, since Linux 6.6), which libfuse 3.14 has no word for. So its answer to INIT, the
 * only one that says 7 and its minor version at its beginning, is completed on its way. The kernel that has not
 * offered it is told nothing, and refuses such mappings with ENODEV.
 */
enum { ALLOW_MMAP = 1 << 4 /* of flags2 */, INIT_EXT = 1 << 30 };
/* FUSE_NOTIFY_INC_EPOCH, of protocol 7.44 (Linux 6.16), and no word of libfuse's either. */
enum { INC_EPOCH = 8, INC_EPOCH_SINCE = 44 };

static ssize_t read_request(int fd, void *data, size_t size, void *userdata)
{
	const ssize_t n = read(fd, data, size);
	const struct fuse_in_header *in = data;
	const struct fuse_init_in *init = (const void *)(in + 1);
	struct session *session = ((struct fs *)userdata)->session;

	if (!session->answered && n >= (ssize_t)(sizeof(*in) + sizeof(*init)) && in->opcode == FUSE_INIT) {
		session->offered = init->flags & INIT_EXT && init->flags2 & ALLOW_MMAP;
		session->epochs = init->major == FUSE_KERNEL_VERSION && init->minor >= INC_EPOCH_SINCE;
	}
	return n;
}

static ssize_t write_answer(int fd, struct iovec *iov, int count, void *userdata)
{
	struct session *session = ((struct fs *)userdata)->session;
	struct fuse_init_out *out;

	if (session->offered && !session->answered && count == 2 && iov[1].iov_len >= sizeof(*out)) {
		out = iov[1].iov_base;
		out->flags |= INIT_EXT;
		out->flags2 |= ALLOW_MMAP;
		session->answered = true;
	}
	return writev(fd, iov, count);
}

static void on_requests(void *arg, uint32_t events)
{
	struct session *session = arg;
	int n, i;

	(void)events;
	for (i = 0; i < BATCH; i++) {
		n = fuse_session_receive_buf(session->se, &session->buf);
		if (n == -EAGAIN || n == -EINTR)
			return;
		if (n > 0)
			fuse_session_process_buf(session->se, &session->buf);
		if (n <= 0 || fuse_session_exited(session->se)) {
			if (n < 0 && n != -ENODEV)
				log_error("cannot read requests: %s", strerror(-n));
			watch_set(session->watch, 0);
			loop_stop(session->fs->loop); /* unmounted */
			return;
		}
	}
}

/* As libfuse does it for an ordinary user: by a program that may, and knows what the user mounted. */
static int fusermount_detach(const char *mountpoint)
{
	char program[] = "fusermount3", detach[] = "-uz", end[] = "--";
	char *const argv[] = { program, detach, end, (char *)mountpoint, NULL };
	int status, rc;
	pid_t pid;

	rc = posix_spawnp(&pid, program, NULL, NULL, argv, environ);
	if (rc)
		return -rc;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : -EPERM;
}

static bool is_stale(const char *mountpoint)
{
	struct statfs st;

	return statfs(mountpoint, &st) < 0 && errno == ENOTCONN;
}

static int detach(const char *mountpoint)
{
	const int rc = umount2(mountpoint, MNT_DETACH) < 0 ? -errno : 0;

	return rc == -EPERM ? fusermount_detach(mountpoint) : rc;
}

int session_detach_stale(const char *mountpoint, struct err *err)
{
	int i, rc;

	/* One may lie on another. */
	for (i = 0; i < STALE_MAX && is_stale(mountpoint); i++) {
		log_info("%s: detaching the mount of a daemon that died", mountpoint);
		rc = detach(mountpoint);
		if (rc)
			return err_sys(err, rc, "%s is a stale mount and cannot be detached", mountpoint);
	}
	return 0;
}

/* Files of a guest must not be setuid programs or devices of the host, and the kernel checks permissions, whoever
 * may come and whatever else is asked for: the last word counts. */
static void put_options(char *ret, size_t size, const char *options)
{
	snprintf(ret, size, "fsname=sbxfs,subtype=sbxfs%s%s%s,nosuid,nodev,default_permissions",
		 geteuid() ? "" : ",allow_other", *options ? "," : "", options);
}

int session_prepare(const char *mountpoint, const char *options, struct err *err)
{
	char text[OPTIONS_MAX];

	put_options(text, sizeof(text), options);
	return mounter_start(mountpoint, text, err);
}

static int make_fuse_session(struct session *session, const char *options, struct err *err)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	char text[OPTIONS_MAX];
	int rc = 0;

	put_options(text, sizeof(text), options);
	if (fuse_opt_add_arg(&args, "sbxfs") || fuse_opt_add_arg(&args, "-o") ||
	    fuse_opt_add_arg(&args, text)) {
		rc = err_sys(err, -ENOMEM, "cannot make a FUSE session");
	} else {
		session->se = fuse_session_new(&args, &session_ops, sizeof(session_ops), session->fs);
		if (!session->se)
			rc = err_set(err, -EINVAL, "libfuse refuses the mount options \"%s\"", text);
	}
	fuse_opt_free_args(&args);
	return rc;
}

/* libfuse takes a device that is mounted by this name. */
static int mount_session(struct session *session, const char *mountpoint, struct err *err)
{
	char name[32];
	int fd, rc = mounter_mount(&fd, err);

	if (rc) {
		err_prefix(err, "%s", mountpoint);
		return rc;
	}
	session->mounted = true;
	snprintf(name, sizeof(name), "/dev/fd/%d", fd);
	if (fuse_session_mount(session->se, name)) {
		close(fd);
		return err_set(err, -EIO, "cannot use the mount at %s", mountpoint);
	}
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
		return err_sys(err, -errno, "cannot make the FUSE device non-blocking");
	return 0;
}

int session_mount(struct fs *fs, const char *mountpoint, const char *options, struct session **ret,
		  struct err *err)
{
	struct session *session = calloc(1, sizeof(*session));
	static const struct fuse_custom_io io = { .writev = write_answer, .read = read_request };
	int rc;

	if (!session)
		return err_sys(err, -ENOMEM, "cannot make a FUSE session");
	session->fs = fs;
	rc = make_fuse_session(session, options, err);
	if (!rc)
		rc = mount_session(session, mountpoint, err);
	if (!rc && fuse_session_custom_io(session->se, &io, fuse_session_fd(session->se)))
		rc = err_set(err, -ENOMEM, "cannot make a FUSE session");
	if (!rc) {
		session->watch =
			watch_new(fs->loop, fuse_session_fd(session->se), EPOLLIN, on_requests, session);
		if (!session->watch)
			rc = err_sys(err, -ENOMEM, "cannot watch the FUSE device");
	}
	if (rc)
		session_free(session);
	else
		*ret = session;
	return rc;
}

void session_forget_attr(struct session *session, fuse_ino_t ino)
{
	/* An offset below 0: nothing of a content. The kernel may not know the node any more. */
	if (session && session->mounted)
		(void)fuse_lowlevel_notify_inval_inode(session->se, ino, -1, 0);
}

void session_forget_names(struct session *session)
{
	const struct fuse_out_header out = { .len = sizeof(out), .error = INC_EPOCH };

	if (session && session->mounted && session->epochs &&
	    write(fuse_session_fd(session->se), &out, sizeof(out)) < 0)
		log_debug("the kernel does not look names up again: %s", strerror(errno));
}

/* The device says so when somebody has unmounted it, and another filesystem may be there by now. */
static bool is_mounted(const struct session *session)
{
	struct pollfd device = { .fd = fuse_session_fd(session->se) };

	return session->mounted && poll(&device, 1, 0) >= 0 && !(device.revents & POLLERR);
}

int session_unmount(struct session *session)
{
	int rc = 0;

	watch_free(session->watch);
	session->watch = NULL;
	if (is_mounted(session)) {
		rc = mounter_unmount();
		if (rc) /* which a daemon that gave up its privileges cannot do itself */
			rc = detach(session->fs->mountpoint);
	}
	session->mounted = false;
	return rc;
}

void session_free(struct session *session)
{
	if (!session)
		return;
	(void)session_unmount(session);
	if (session->se)
		fuse_session_destroy(session->se);
	free(session->buf.mem);
	free(session);
}
