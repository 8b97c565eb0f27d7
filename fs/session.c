/* SPDX-License-Identifier: MIT */
/*
 * session.c - the FUSE session in the event loop: kernel requests become calls of node ops
 *
 * The descriptor is non-blocking and ours to poll (libfuse 3.14's own loops cannot be woken reliably).
 * Everything is direct I/O: contents are made when they are read. Attributes are never cached, sizes in them
 * are true.
 *
 * Names: the kernel may keep static ones for good, since only its own users remove names; there are no
 * negative entries, so a name that appears later is seen.
 */
#include "fs/session.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "util/log.h"

enum { COMMAND_MAX = 4096 };

struct session {
	struct session_config config;
	struct loop *loop;
	struct fuse_session *fuse;
	struct fuse_buf buf;
	struct watch *watch;
	bool mounted;
};

/* Node numbers are addresses, but for the root's, which FUSE fixes. One mount a process. */
static struct node *root;

struct node *session_node(fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? root
				   : (struct node *)(uintptr_t)ino; /* NOLINT(performance-no-int-to-ptr) */
}

static fuse_ino_t number_of(const struct node *node)
{
	return node == root ? FUSE_ROOT_ID : (fuse_ino_t)(uintptr_t)node;
}

static const struct session_config *config_of(fuse_req_t req)
{
	return &((struct session *)fuse_req_userdata(req))->config;
}

static struct file *file_of(const struct fuse_file_info *fi)
{
	return (struct file *)(uintptr_t)fi->fh; /* NOLINT(performance-no-int-to-ptr) */
}

/* ---- attributes */

static void node_stat(const struct session_config *config, struct node *node, struct stat *st)
{
	const struct owner *owner = config->owner;
	struct buf text = { 0 };

	if (node->ops->owner && !node->removed)
		owner = node->ops->owner(node);
	memset(st, 0, sizeof(*st));
	st->st_ino = node->ino;
	st->st_mode = node->ops->mode;
	if (node->ops->ownable)
		st->st_mode = S_IFDIR | (owner->mode & 07777);
	st->st_nlink = S_ISDIR(st->st_mode) ? 2 : 1;
	st->st_uid = owner->uid;
	st->st_gid = owner->gid;
	st->st_blksize = 4096;
	st->st_mtim.tv_sec = (time_t)(owner->created_ns / 1000000000u);
	st->st_mtim.tv_nsec = (long)(owner->created_ns % 1000000000u);
	st->st_atim = st->st_ctim = st->st_mtim;
	if (node->removed)
		return;
	/* True sizes: busybox cat and others read nothing from a file of size 0. */
	if (node->ops->size) {
		st->st_size = (off_t)node->ops->size(node);
	} else if (node->ops->show && node->ops->show(node, &text) == 0) {
		st->st_size = (off_t)text.len;
	} else if (node->ops->link) {
		char target[PATH_MAX];

		node->ops->link(node, target, sizeof(target));
		st->st_size = (off_t)strlen(target);
	}
	buf_release(&text);
}

static void reply_entry(fuse_req_t req, struct node *node, double timeout)
{
	struct fuse_entry_param e = { .ino = number_of(node), .entry_timeout = timeout };

	node_stat(config_of(req), node, &e.attr);
	node_looked_up(node);
	/* An aborted request leaves the kernel without the reference we just counted. */
	if (fuse_reply_entry(req, &e) == -ENOENT)
		node_forget(node, 1);
}

void session_reply_entry(fuse_req_t req, struct node *node, double timeout)
{
	reply_entry(req, node, timeout);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct node *node = session_node(ino);
	struct stat st;

	if (node->ops->raw && !node->removed) {
		node->ops->raw->getattr(req, ino, fi);
		return;
	}
	node_stat(config_of(req), node, &st);
	fuse_reply_attr(req, &st, 0);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int valid,
		       struct fuse_file_info *fi)
{
	struct node *node = session_node(ino);
	struct owner *owner;
	struct stat st;

	if (node->removed) {
		fuse_reply_err(req, ENODEV);
		return;
	}
	if (node->ops->raw) {
		node->ops->raw->setattr(req, ino, attr, valid, fi);
		return;
	}
	/* Truncation is how shells open a file to write; times are how touch says hello. Neither means
	 * anything here. */
	if (valid & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
		if (!node->ops->ownable) {
			fuse_reply_err(req, EPERM);
			return;
		}
		owner = node->ops->owner(node);
		if (valid & FUSE_SET_ATTR_MODE)
			owner->mode = attr->st_mode & 07777;
		if (valid & FUSE_SET_ATTR_UID)
			owner->uid = attr->st_uid;
		if (valid & FUSE_SET_ATTR_GID)
			owner->gid = attr->st_gid;
	}
	node_stat(config_of(req), node, &st);
	fuse_reply_attr(req, &st, 0);
}

/* ---- names */

static int find_child(struct node *dir, const char *name, struct child *ret)
{
	const struct entry *entry;

	for (entry = dir->ops->entries; entry && entry->name; entry++)
		if (!strcmp(entry->name, name)) {
			ret->ops = entry->ops;
			ret->obj = dir->obj;
			return 0;
		}
	return dir->ops->child ? dir->ops->child(dir, name, ret) : -ENOENT;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct node *dir = session_node(parent), *node;
	struct child child;

	if (dir->removed) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	if (dir->ops->raw) {
		dir->ops->raw->lookup(req, parent, name);
		return;
	}
	if (find_child(dir, name, &child) < 0) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	node = child.ops->fresh ? NULL : node_find(dir, name);
	if (node && (node->ops != child.ops || node->obj != child.obj)) {
		/* The name means another thing than it did. */
		node_detach(node);
		node = NULL;
	}
	if (!node)
		node = node_new(dir, name, child.ops, child.obj);
	if (!node) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	reply_entry(req, node, child.ops->timeout);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	if (ino != FUSE_ROOT_ID)
		node_forget(session_node(ino), nlookup);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	size_t i;

	for (i = 0; i < count; i++)
		if (forgets[i].ino != FUSE_ROOT_ID)
			node_forget(session_node(forgets[i].ino), forgets[i].nlookup);
	fuse_reply_none(req);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct node *node = session_node(ino);
	char target[PATH_MAX];

	if (node->removed) {
		fuse_reply_err(req, ENOENT);
	} else if (node->ops->raw) {
		node->ops->raw->readlink(req, ino);
	} else if (!node->ops->link) {
		fuse_reply_err(req, EINVAL);
	} else {
		node->ops->link(node, target, sizeof(target));
		fuse_reply_readlink(req, target);
	}
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct node *dir = session_node(parent);
	struct child child;

	if (dir->removed)
		fuse_reply_err(req, ENOENT);
	else if (dir->ops->raw)
		dir->ops->raw->mkdir(req, parent, name, mode);
	else if (find_child(dir, name, &child) == 0)
		fuse_reply_err(req, EEXIST);
	else if (!dir->ops->mkdir)
		fuse_reply_err(req, EPERM);
	else
		dir->ops->mkdir(dir, req, name, mode);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct node *dir = session_node(parent);
	struct child child;
	int rc;

	if (dir->removed)
		fuse_reply_err(req, ENOENT);
	else if (dir->ops->raw)
		dir->ops->raw->rmdir(req, parent, name);
	else if (find_child(dir, name, &child) < 0)
		fuse_reply_err(req, ENOENT);
	else if (!S_ISDIR(child.ops->mode))
		fuse_reply_err(req, ENOTDIR);
	else if (!dir->ops->rmdir || child.obj == dir->obj)
		fuse_reply_err(req, EPERM);
	else if ((rc = dir->ops->rmdir(dir, name, req)) <= 0)
		fuse_reply_err(req, -rc);
}

/* What only a guest's directory can do; ours answer as cgroup2 does. */
static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct node *dir = session_node(parent);

	if (dir->ops->raw && !dir->removed)
		dir->ops->raw->unlink(req, parent, name);
	else
		fuse_reply_err(req, EPERM);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct node *dir = session_node(parent);

	if (dir->ops->raw && !dir->removed)
		dir->ops->raw->mknod(req, parent, name, mode, rdev);
	else
		fuse_reply_err(req, EACCES);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		      struct fuse_file_info *fi)
{
	struct node *dir = session_node(parent);

	if (dir->ops->raw && !dir->removed)
		dir->ops->raw->create(req, parent, name, mode, fi);
	else
		fuse_reply_err(req, EACCES);
}

static void op_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
	struct node *dir = session_node(parent);

	if (dir->ops->raw && !dir->removed)
		dir->ops->raw->symlink(req, link, parent, name);
	else
		fuse_reply_err(req, EPERM);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname)
{
	struct node *node = session_node(ino), *dir = session_node(newparent);

	if (node->ops->raw && dir->ops->raw && !node->removed && !dir->removed)
		dir->ops->raw->link(req, ino, newparent, newname);
	else
		fuse_reply_err(req, EPERM);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
		      const char *newname, unsigned int flags)
{
	struct node *dir = session_node(parent), *to = session_node(newparent);
	const struct session_config *config = config_of(req);
	struct child child;
	int rc;

	if (dir->removed || to->removed) {
		fuse_reply_err(req, ENOENT);
	} else if (dir->ops->raw && to->ops->raw) {
		dir->ops->raw->rename(req, parent, name, newparent, newname, flags);
	} else if (dir->ops->raw || to->ops->raw) {
		fuse_reply_err(req, EXDEV);
	} else if (flags & ~(unsigned)RENAME_NOREPLACE) {
		fuse_reply_err(req, EINVAL);
	} else if (find_child(dir, name, &child) < 0) {
		fuse_reply_err(req, ENOENT);
	} else if (find_child(to, newname, &child) == 0) {
		fuse_reply_err(req, EEXIST);
	} else {
		rc = config->rename(config->arg, dir, name, to, newname, req);
		if (rc <= 0)
			fuse_reply_err(req, -rc);
	}
}

/* ---- files */

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct node *node = session_node(ino);
	struct file *file;
	int rc;

	if (node->removed) {
		fuse_reply_err(req, ENODEV);
		return;
	}
	if (node->ops->raw) {
		node->ops->raw->open(req, ino, fi);
		return;
	}
	file = calloc(1, sizeof(*file));
	if (!file) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	file->node = node;
	node_pin(node);
	fi->fh = (uintptr_t)file;
	fi->direct_io = 1;
	fi->nonseekable = node->ops->read && !node->ops->size;
	rc = node->ops->open ? node->ops->open(file) : 0;
	if (rc < 0) {
		node_unpin(node);
		free(file);
		fuse_reply_err(req, -rc);
		return;
	}
	if (fuse_reply_open(req, fi) == -ENOENT) {
		if (node->ops->release)
			node->ops->release(file);
		node_unpin(node);
		free(file);
	}
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct node *node = session_node(ino);
	struct file *file = file_of(fi);

	if (node->ops->raw) {
		node->ops->raw->release(req, ino, fi);
		return;
	}
	if (node->ops->release)
		node->ops->release(file);
	buf_release(&file->text);
	free(file);
	node_unpin(node);
	fuse_reply_err(req, 0);
}

/* Text is made when it is read from its start, and the rest of that reading comes from the same text. */
static void read_text(struct file *file, fuse_req_t req, size_t size, uint64_t offset)
{
	struct node *node = file->node;
	int rc;

	if (!offset || !file->loaded) {
		buf_clear(&file->text);
		if (node->ops->pollset)
			file->seen = node->ops->pollset(node)->version;
		rc = node->ops->show(node, &file->text);
		if (rc == 0 && file->text.failed)
			rc = -ENOMEM;
		if (rc < 0) {
			fuse_reply_err(req, -rc);
			return;
		}
		file->loaded = true;
	}
	if (offset >= file->text.len)
		size = 0;
	else if (size > file->text.len - offset)
		size = file->text.len - offset;
	fuse_reply_buf(req, size ? (char *)buf_bytes(&file->text) + offset : NULL, size);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct node *node = session_node(ino);

	if (node->removed)
		fuse_reply_err(req, ENODEV);
	else if (node->ops->raw)
		node->ops->raw->read(req, ino, size, off, fi);
	else if (node->ops->read)
		node->ops->read(file_of(fi), req, size, (uint64_t)off, fi->flags & O_NONBLOCK);
	else if (node->ops->show)
		read_text(file_of(fi), req, size, (uint64_t)off);
	else
		fuse_reply_err(req, EINVAL);
}

static void write_line(struct node *node, fuse_req_t req, const char *data, size_t size)
{
	char line[COMMAND_MAX + 1];
	size_t len = size;
	int rc;

	if (size > COMMAND_MAX) {
		fuse_reply_err(req, E2BIG);
		return;
	}
	if (!size) {
		fuse_reply_write(req, 0);
		return;
	}
	memcpy(line, data, size);
	if (line[len - 1] == '\n')
		len--;
	line[len] = '\0';
	if (node->ops->command) {
		node->ops->command(node, req, line, len, size);
		return;
	}
	rc = node->ops->store(node, line, len);
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_write(req, size);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
		     struct fuse_file_info *fi)
{
	struct node *node = session_node(ino);

	if (node->removed)
		fuse_reply_err(req, ENODEV);
	else if (node->ops->raw)
		node->ops->raw->write(req, ino, data, size, off, fi);
	else if (node->ops->write)
		node->ops->write(file_of(fi), req, data, size, fi->flags & O_NONBLOCK);
	else if (node->ops->command || node->ops->store)
		write_line(node, req, data, size);
	else
		fuse_reply_err(req, EINVAL);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct node *node = session_node(ino);

	if (node->ops->raw && !node->removed)
		node->ops->raw->fsync(req, ino, datasync, fi);
	else
		fuse_reply_err(req, 0);
}

static void op_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph)
{
	struct node *node = session_node(ino);
	struct file *file = file_of(fi);
	struct pollset *set;
	unsigned events = POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM;

	if (node->ops->raw || (!node->ops->poll && !node->ops->pollset)) {
		if (ph)
			fuse_pollhandle_destroy(ph);
	} else if (node->removed) {
		events = POLLERR | POLLPRI | POLLHUP | POLLIN | POLLRDNORM;
		if (ph)
			fuse_pollhandle_destroy(ph);
	} else if (node->ops->poll) {
		events = node->ops->poll(file, ph);
	} else {
		set = node->ops->pollset(node);
		/* A file nobody has read yet has no older version to differ from. */
		if (!file->loaded && !file->seen)
			file->seen = set->version;
		events = POLLIN | POLLRDNORM;
		if (file->seen != set->version)
			events |= POLLPRI | POLLERR;
		if (ph)
			pollset_add(set, ph);
	}
	fuse_reply_poll(req, events);
}

/* ---- directories */

struct listing {
	char *data; /* names, NUL-terminated, each after its type as one byte */
	struct buf names;
};

static void add_name(void *arg, const char *name, const struct node_ops *ops)
{
	struct buf *names = arg;

	buf_put_u8(names, (uint8_t)(ops->mode >> 12));
	buf_add(names, name, strlen(name) + 1);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct node *dir = session_node(ino);
	const struct entry *entry;
	struct file *file;

	if (dir->removed) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	if (dir->ops->raw) {
		dir->ops->raw->opendir(req, ino, fi);
		return;
	}
	file = calloc(1, sizeof(*file));
	if (!file) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	file->node = dir;
	node_pin(dir);
	for (entry = dir->ops->entries; entry && entry->name; entry++)
		add_name(&file->text, entry->name, entry->ops);
	if (dir->ops->list)
		dir->ops->list(dir, add_name, &file->text);
	fi->fh = (uintptr_t)file;
	if (fuse_reply_open(req, fi) == -ENOENT) {
		buf_release(&file->text);
		node_unpin(dir);
		free(file);
	}
}

/* An offset is the place in the listing behind an entry; 1 and 2 are behind "." and "..". */
static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct node *dir = session_node(ino);
	const struct buf *names = &file_of(fi)->text;
	struct stat st = { 0 };
	struct buf out = { 0 };
	const char *name;
	size_t at, n;

	if (dir->ops->raw) {
		if (dir->removed)
			fuse_reply_err(req, ENOENT);
		else
			dir->ops->raw->readdir(req, ino, size, off, fi);
		return;
	}
	if (!buf_reserve(&out, size)) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	for (;;) {
		if (off < 2) {
			name = off ? ".." : ".";
			st.st_mode = S_IFDIR;
			st.st_ino = dir->ino;
			off++;
		} else {
			at = (size_t)off - 2;
			if (at >= names->len)
				break;
			st.st_mode = (mode_t)buf_bytes(names)[at] << 12;
			st.st_ino = 0xffffffff; /* known at lookup */
			name = (const char *)buf_bytes(names) + at + 1;
			off += (off_t)strlen(name) + 2;
		}
		n = fuse_add_direntry(req, (char *)buf_bytes(&out) + out.len, size - out.len, name, &st, off);
		if (n > size - out.len)
			break;
		buf_grow(&out, n);
	}
	fuse_reply_buf(req, (char *)buf_bytes(&out), out.len);
	buf_release(&out);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct node *dir = session_node(ino);
	struct file *file = file_of(fi);

	if (dir->ops->raw) {
		dir->ops->raw->releasedir(req, ino, fi);
		return;
	}
	buf_release(&file->text);
	free(file);
	node_unpin(dir);
	fuse_reply_err(req, 0);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	const struct session_config *config = config_of(req);
	struct node *node = session_node(ino);
	struct statvfs st;
	int rc;

	if (node->ops->raw && !node->removed) {
		node->ops->raw->statfs(req, ino);
		return;
	}
	rc = config->statfs(config->arg, &st);
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_statfs(req, &st);
}

static const struct fuse_lowlevel_ops ops = {
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
	.create = op_create,
	.read = op_read,
	.write = op_write,
	.release = op_release,
	.fsync = op_fsync,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.releasedir = op_releasedir,
	.statfs = op_statfs,
	.poll = op_poll,
};

/* ---- the session */

static void on_readable(void *arg, uint32_t events)
{
	struct session *session = arg;
	int n;

	(void)events;
	while ((n = fuse_session_receive_buf(session->fuse, &session->buf)) > 0) {
		fuse_session_process_buf(session->fuse, &session->buf);
		if (fuse_session_exited(session->fuse))
			break;
	}
	if (n == -EAGAIN || n == -EINTR || n > 0)
		return;
	/* 0 or -ENODEV: unmounted. */
	watch_free(session->watch);
	session->watch = NULL;
	session->mounted = false;
	session->config.unmounted(session->config.arg);
}

/* A mount whose daemon died answers ENOTCONN to everything, until it is detached. */
static void detach_stale(const char *mountpoint)
{
	struct statvfs st;

	if (statvfs(mountpoint, &st) < 0 && errno == ENOTCONN) {
		log_warn("%s: detaching the mount of a daemon that died", mountpoint);
		(void)umount2(mountpoint, MNT_DETACH);
	}
}

int session_new(struct loop *loop, const struct session_config *config, struct session **ret, struct err *err)
{
	struct session *session = calloc(1, sizeof(*session));
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	int rc = -ENOMEM, fd;

	if (!session)
		return err_sys(err, -ENOMEM, "cannot mount");
	session->config = *config;
	session->loop = loop;
	root = config->root;
	node_pin(root);
	detach_stale(config->mountpoint);
	/* Other users may come in, and then permissions must hold (FUSE checks none by itself). Only root may
	 * ask for it without a word in /etc/fuse.conf. */
	if (fuse_opt_add_arg(&args, "sbxfs") || fuse_opt_add_arg(&args, "-ofsname=sbxfs,subtype=sbxfs") ||
	    (geteuid() == 0 && fuse_opt_add_arg(&args, "-oallow_other,default_permissions")) ||
	    (config->options && (fuse_opt_add_arg(&args, "-o") || fuse_opt_add_arg(&args, config->options))))
		goto fail;
	session->fuse = fuse_session_new(&args, &ops, sizeof(ops), session);
	if (!session->fuse) {
		rc = err_set(err, -EINVAL, "libfuse refuses the mount options");
		goto fail;
	}
	if (fuse_session_mount(session->fuse, config->mountpoint) < 0) {
		rc = err_set(err, -EIO, "cannot mount on %s", config->mountpoint);
		goto fail;
	}
	session->mounted = true;
	fd = fuse_session_fd(session->fuse);
	if (fcntl(fd, F_SETFL, O_NONBLOCK | fcntl(fd, F_GETFL)) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
		rc = err_sys(err, -errno, "cannot set up /dev/fuse");
		goto fail;
	}
	session->watch = watch_new(loop, fd, EPOLLIN, on_readable, session);
	if (!session->watch)
		goto fail;
	fuse_opt_free_args(&args);
	*ret = session;
	return 0;
fail:
	fuse_opt_free_args(&args);
	session_free(session);
	return rc;
}

void session_free(struct session *session)
{
	if (!session)
		return;
	watch_free(session->watch);
	if (session->fuse) {
		if (session->mounted)
			fuse_session_unmount(session->fuse);
		fuse_session_destroy(session->fuse);
	}
	free(session->buf.mem);
	node_unpin(root);
	free(session);
}
