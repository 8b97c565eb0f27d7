/* SPDX-License-Identifier: MIT */
/*
 * guest_names.c - fs/: names of a guest's files, through its agent
 */
#include "fs/guest/guest_names.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#include "fs/tree/session.h"

enum { STATFS_BSIZE_MAX = 1 << 30 };

static void detach(struct guest_node *dir, const char *name)
{
	struct guest_name *gn = guest_child(dir, name);

	if (gn)
		guest_name_free(gn);
}

void guest_done_entry(struct guest_call *gc, int err, struct reader *results)
{
	struct fuse_entry_param param;
	struct guest_node *gn;

	if (!err)
		err = guest_entry(gc, results, &param, &gn);
	if (!err)
		guest_keep_dir(gc->node, gc->touched, gc->sent_ns, results);
	else if (gc->op != FS_LOOKUP)
		guest_new_doubt(gc->node);
	if (!err && gc->op == FS_MKDIR)
		guest_new_made(gn);
	if (err)
		request_err(gc->request, err);
	else if (request_entry(gc->request, &param))
		node_forget(&gn->node, 1);
	guest_call_free(gc);
}

static void guest_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct guest_node *dir = guest_node_of(req, parent);
	struct buf args = { 0 };
	struct guest_call *gc;

	if (!guest_usable(dir)) {
		if (guest_new_lacks(dir, name)) {
			fuse_reply_err(req, ENOENT);
			return;
		}
		if (guest_ahead_answers(req, dir, name))
			return;
	}
	gc = guest_call_new(req, dir, name, guest_done_entry);
	if (gc)
		guest_call_send(gc, FS_LOOKUP, guest_put_name(&args, dir, name), &args);
}

static void guest_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	node_forget(node_of(req, ino), n);
	fuse_reply_none(req);
}

/* ---- attributes of a node */

static void done_attr(struct guest_call *gc, int err, struct reader *results)
{
	const struct guest_node *parent = guest_parent(gc->node);
	/* As in guest_entry. */
	const bool holds = gc->changes == gc->node->guest->changes;
	struct fs_attr attr;
	struct stat st;

	if (!err)
		err = guest_attr_get(results, &attr);
	if (!err && parent)
		guest_link_attr(parent, results, &attr);
	/* Another file than was asked for: the kernel is to look again, and not to give the inode up for broken. */
	if (!err && ((attr.mode & S_IFMT) != gc->node->type || !fs_id_same(&attr.id, &gc->node->id)))
		err = -ESTALE;
	if (err) {
		request_err(gc->request, err);
	} else {
		guest_stat(gc->node, &attr, &st);
		guest_told(gc->node);
		if (holds)
			guest_told_bare(gc->node, &attr, now_mono_ns());
		if (gc->node->touched == gc->touched)
			guest_keep(gc->node, &attr, gc->sent_ns);
		request_attr(gc->request, &st,
			     holds && !guest_is_elsewhere(gc->node, &attr) ? GUEST_CACHE_S : 0);
	}
	guest_call_free(gc);
}

static void send_setattr(struct guest_call *gc, const struct fuse_file_info *fi, unsigned valid,
			 const struct fs_attr *attr)
{
	const struct guest_file *file = fi ? (const void *)(uintptr_t)fi->fh : NULL;
	struct buf args = { 0 };
	int rc = 0;

	if (file && file->epoch == guest_epoch(gc->node))
		fs_file_put(&args, file->handle, "", NULL);
	else
		rc = guest_put_file(&args, gc->node);
	buf_put_u32(&args, valid);
	fs_attr_put(&args, attr);
	guest_call_send(gc, FS_SETATTR, rc, &args);
}

/* It was told a moment ago; false: it was not. */
static bool kept_getattr(fuse_req_t req, struct guest_node *gn)
{
	const struct fs_attr *attr = guest_kept(gn);
	const double left = attr ? GUEST_CACHE_S - (double)(now_mono_ns() - gn->kept_ns) * 1e-9 : 0;
	struct stat st;

	if (!attr || guest_usable(gn))
		return false;
	guest_stat(gn, attr, &st);
	guest_told(gn);
	fuse_reply_attr(req, &st, left > 0 ? left : 0);
	return true;
}

/* The root is looked at by every `ls` of the sandbox: that must not depend on the guest. */
static void root_getattr(fuse_req_t req, const struct guest_node *gn)
{
	struct stat st;

	tree_attr(gn->guest->obj, gn->entry, &st);
	fuse_reply_attr(req, &st, 0);
}

static void guest_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct guest_node *gn = guest_node_of(req, ino);
	struct buf args = { 0 };
	struct guest_call *gc;

	(void)fi; /* of one that is open any handle will do */
	if (gn->entry) {
		root_getattr(req, gn);
		return;
	}
	if (kept_getattr(req, gn))
		return;
	gc = guest_call_new(req, gn, NULL, done_attr);
	if (gc)
		guest_call_send(gc, FS_GETATTR, guest_put_file(&args, gn), &args);
}

static struct fs_time to_time(const struct timespec *ts)
{
	return (struct fs_time){ ts->tv_sec, (uint32_t)ts->tv_nsec };
}

static void guest_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
			  struct fuse_file_info *fi)
{
	struct guest_node *gn = guest_node_of(req, ino);
	/* FUSE_SET_ATTR_MODE to _MTIME and enum fs_valid are the same bits. */
	const unsigned those = FSV_MODE | FSV_UID | FSV_GID | FSV_SIZE | FSV_ATIME | FSV_MTIME;
	unsigned valid = ((unsigned)to_set & those) | (guest_is_other(req) ? FSV_OTHER : 0);
	struct fs_attr want = {
		.mode = attr->st_mode & 07777,
		.uid = guest_uid(gn, attr->st_uid),
		.gid = guest_gid(gn, attr->st_gid),
		.size = (uint64_t)attr->st_size,
		.atime = to_time(&attr->st_atim),
		.mtime = to_time(&attr->st_mtim),
	};
	struct guest_call *gc;
	struct timespec now;

	if (gn->entry) {
		fuse_reply_err(req, gn->guest->ops->readonly ? EROFS : EPERM); /* a place in our tree */
		return;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		want.atime = to_time(&now);
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		want.mtime = to_time(&now);
	if (guest_owner_answers(req, gn, valid & those, &want))
		return;
	gc = guest_call_new(req, gn, NULL, done_attr);
	if (!gc)
		return;
	valid = guest_owner_with(gn, valid, &want);
	send_setattr(gc, S_ISREG(gn->type) ? fi : NULL, valid, &want);
}

/* ---- making and removing */

static void guest_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct buf args = { 0 };
	int rc;
	struct guest_call *gc = guest_call_make(req, parent, name, S_IFDIR, guest_done_entry, &args, &rc);

	if (!gc)
		return;
	guest_put_maker(&args, gc->node, mode, req);
	guest_call_send(gc, FS_MKDIR, rc, &args);
}

static void guest_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct buf args = { 0 };
	int rc;
	struct guest_call *gc =
		guest_call_make(req, parent, name, mode & S_IFMT, guest_done_entry, &args, &rc);

	if (!gc)
		return;
	gc->fifo = S_ISFIFO(mode);
	buf_put_u64(&args, rdev);
	guest_put_maker(&args, gc->node, mode, req);
	guest_call_send(gc, FS_MKNOD, rc, &args);
}

/* Another node, of the same guest as dir; NULL: it is of none or of another, and req is answered. */
static struct guest_node *other_of(fuse_req_t req, fuse_ino_t ino, const struct guest_node *dir)
{
	struct node *node = node_of(req, ino);
	struct guest_node *gn = container_of(node, struct guest_node, node);

	if (node->ops == &guestfs_ops && gn->guest == dir->guest)
		return gn;
	fuse_reply_err(req, EXDEV);
	return NULL;
}

/* What it was made of is another node, unless it is a regular file, and the kernel still has its old attributes. */
static void done_link(struct guest_call *gc, int err, struct reader *results)
{
	if (!err && gc->of->type != S_IFREG)
		session_forget_attr(gc->of->guest->obj->fs->session, (uintptr_t)&gc->of->node);
	guest_done_entry(gc, err, results);
}

static void guest_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct guest_node *dir = guest_node_of(req, parent), *gn = other_of(req, ino, dir);
	struct buf args = { 0 };
	struct guest_call *gc;
	int rc;

	if (!gn)
		return;
	gc = guest_call_new(req, dir, name, done_link);
	if (!gc)
		return;
	gc->type = gn->type;
	gc->fifo = gn->fifo;
	gc->of = guest_ref(gn);
	guest_touch(gn); /* it counts its names */
	rc = guest_put_file(&args, gn);
	if (!rc)
		rc = guest_put_name(&args, dir, name);
	guest_call_send(gc, FS_LINK, rc, &args);
}

static void done_remove(struct guest_call *gc, int err, struct reader *results)
{
	if (!err) {
		detach(gc->node, gc->name);
		guest_keep_dir(gc->node, gc->touched, gc->sent_ns, results);
	}
	guest_done_err(gc, err, results);
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, enum fs_op op)
{
	struct guest_node *dir = guest_node_of(req, parent);
	struct guest_call *gc = guest_call_new(req, dir, name, done_remove);
	struct buf args = { 0 };

	if (gc)
		guest_call_send(gc, op, guest_put_name(&args, dir, name), &args);
}

static void guest_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_name(req, parent, name, FS_UNLINK);
}

static void guest_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_name(req, parent, name, FS_RMDIR);
}

static void done_rename(struct guest_call *gc, int err, struct reader *results)
{
	struct guest_name *gn = guest_child(gc->node, gc->name), *over = guest_child(gc->node2, gc->name2);

	if (!err) {
		guest_keep_dir(gc->node, gc->touched, gc->sent_ns, results);
		guest_keep_dir(gc->node2, gc->touched2, gc->sent_ns, results);
	}
	/* rename(2) of a file to another name of its own leaves both. */
	if (!err && gn != over && !(gn && over && gn->node == over->node)) {
		if (over && gc->flags & RENAME_EXCHANGE) {
			guest_name_move(over, gc->node, gc->name);
			gc->name = NULL;
		} else if (over) {
			guest_name_free(over);
		}
		if (gn) {
			guest_name_move(gn, gc->node2, gc->name2);
			gc->name2 = NULL;
		} else {
			guest_new_doubt(gc->node2);
		}
	}
	guest_done_err(gc, err, results);
}

static void guest_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
			 const char *newname, unsigned flags)
{
	struct guest_node *dir = guest_node_of(req, parent), *to_dir = other_of(req, newparent, dir);
	struct buf args = { 0 };
	struct guest_call *gc;
	int rc;

	if (!to_dir)
		return;
	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	gc = guest_call_new(req, dir, name, done_rename);
	if (!gc)
		return;
	gc->node2 = guest_ref(to_dir);
	gc->name2 = strdup(newname);
	rc = gc->name2 ? guest_put_name(&args, dir, name) : -ENOMEM;
	if (!rc)
		rc = guest_put_name(&args, to_dir, newname);
	gc->flags = flags;
	buf_put_u32(&args, flags);
	guest_call_send(gc, FS_RENAME, rc, &args);
}

static void done_statfs(struct guest_call *gc, int err, struct reader *results)
{
	struct statvfs st = { 0 };

	st.f_bsize = st.f_frsize = get_u64(results);
	st.f_blocks = get_u64(results);
	st.f_bfree = get_u64(results);
	st.f_bavail = get_u64(results);
	st.f_files = get_u64(results);
	st.f_ffree = st.f_favail = get_u64(results);
	st.f_namemax = get_u32(results);
	/* Sizes in bytes are what programs make of it. */
	if (!err &&
	    (results->bad || !st.f_bsize || st.f_bsize > STATFS_BSIZE_MAX ||
	     st.f_blocks > INT64_MAX / st.f_bsize || st.f_bfree > st.f_blocks || st.f_bavail > st.f_blocks))
		err = -EIO;
	if (st.f_namemax > NAME_MAX)
		st.f_namemax = NAME_MAX; /* of a path's component, here */
	if (err)
		request_err(gc->request, err);
	else
		request_statfs(gc->request, &st);
	guest_call_free(gc);
}

static void guest_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct guest_node *gn = guest_node_of(req, ino);
	struct guest_call *gc = guest_call_new(req, gn, NULL, done_statfs);
	struct buf args = { 0 };

	if (gc)
		guest_call_send(gc, FS_STATFS, guest_put_file(&args, gn), &args);
}

const struct fuse_lowlevel_ops guestfs_ops = {
	.lookup = guest_lookup,
	.forget = guest_forget,
	.getattr = guest_getattr,
	.setattr = guest_setattr,
	.readlink = guest_readlink,
	.mknod = guest_mknod,
	.mkdir = guest_mkdir,
	.unlink = guest_unlink,
	.rmdir = guest_rmdir,
	.symlink = guest_symlink,
	.rename = guest_rename,
	.link = guest_link,
	.open = guest_open,
	.read = guest_read,
	.write = guest_write,
	.release = guest_release,
	.fsync = guest_fsync,
	.opendir = guest_opendir,
	.readdir = guest_readdir,
	.readdirplus = guest_readdirplus,
	.releasedir = guest_releasedir,
	.statfs = guest_statfs,
	.create = guest_create,
	.getxattr = guest_getxattr,
	.listxattr = guest_listxattr,
	.setxattr = guest_setxattr,
	.removexattr = guest_removexattr,
	.lseek = guest_lseek,
	.fallocate = guest_fallocate,
	.poll = guest_poll,
};
