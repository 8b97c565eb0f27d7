/* SPDX-License-Identifier: MIT */
/*
 * tree.c - names and directories, served from the tables
 *
 * A place is a pair: an object and an entry of a table. The kernel keeps one node for a place as long as it knows
 * it, so that a working directory stays the same one; places marked ENTRY_FRESH have a new node at each lookup,
 * with the same inode number, since the kernel lets one writer at a time into an inode, and a `kill` must not queue
 * behind the `snapshot` it is to end.
 *
 * Names that only users of the tree take away are cached by the kernel for ever: a mkdir that waits holds its
 * directory's lock, which a cached name does not need. Names that are not there are never cached. The one who takes
 * names away unasked is a rollback, which puts other jobs in the place of those there are: what the kernel has of
 * them is ESTALE, and it looks the path up anew.
 */
#include "fs/tree/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "fs/fs.h"
#include "fs/tree/file.h"
#include "fs/tree/listing.h"
#include "fs/tree/session.h"

static const double FOREVER = 1e6; /* seconds */

struct tree_node {
	struct node node;
	struct object *obj; /* a reference */
	const struct entry *entry;
	struct list link; /* in obj->nodes; empty for a fresh one */
};

static struct tree_node *tree_node_of(fuse_req_t req, fuse_ino_t ino)
{
	return container_of(node_of(req, ino), struct tree_node, node);
}

static void tree_node_free(struct node *node)
{
	struct tree_node *tn = container_of(node, struct tree_node, node);

	list_del(&tn->link);
	list_del(&tn->node.link);
	object_unref(tn->obj);
	free(tn);
}

static struct tree_node *tree_node_new(struct object *obj, const struct entry *entry, bool fresh)
{
	struct tree_node *tn;

	if (!fresh)
		list_for_each (tn, &obj->nodes, link)
			if (tn->entry == entry)
				return tn;
	tn = calloc(1, sizeof(*tn));
	if (!tn)
		return NULL;
	node_init(obj->fs, &tn->node, &tree_ops, tree_node_free);
	tn->obj = object_ref(obj);
	tn->entry = entry;
	list_init(&tn->link);
	if (!fresh)
		list_add(&obj->nodes, &tn->link);
	return tn;
}

struct node *tree_root(struct fs *fs)
{
	struct tree_node *tn = tree_node_new(&fs->root, &root_entry, false);

	if (tn && !tn->node.lookups)
		tn->node.lookups = 1; /* the kernel never forgets its root */
	return tn ? &tn->node : NULL;
}

/* ---- attributes */

/* An object's own directory, the one that can be delegated: its permissions are the object's. */
static bool is_own_dir(const struct entry *entry)
{
	return S_ISDIR(entry->mode) && !(entry->mode & 07777);
}

/* FNV-1a, folded to the bits an object's inode numbers leave for names. */
uint64_t tree_ino(const struct object *obj, const struct entry *entry)
{
	uint32_t h = 2166136261u;
	const char *p;

	if (is_own_dir(entry))
		return obj->ino;
	for (p = entry->name; *p; p++)
		h = (h ^ (uint8_t)*p) * 16777619u;
	return obj->ino + ((h ^ h >> 16) & 0xffff);
}

/* An archive is its snapshot's and a port its sandbox's, which their failures are reported to as well. */
static const struct owner *owner_of(const struct object *obj)
{
	return obj->kind == OBJECT_ARCHIVE || obj->kind == OBJECT_PORT ? &obj->log->owner : &obj->owner;
}

/* What it opens of its own directory for writing, and whether others' names are safe there (the sticky bit). */
static mode_t shared(const struct owner *owner, mode_t mode)
{
	return mode | (owner->mode & (S_ISDIR(mode) ? S_ISVTX | 0022 : 0022));
}

int tree_may_make(const struct caller *caller, const struct object *obj, const char *dir, struct err *err)
{
	const struct owner *owner = &obj->owner;

	if (caller_may(caller, owner, owner->mode, dir ? CALLER_SEARCH : CALLER_MAKE) &&
	    (!dir || caller_may(caller, owner, shared(owner, S_IFDIR | 0755), CALLER_MAKE)))
		return 0;
	return err_set(err, -EACCES, "you may not make names in %s%s%s",
		       obj->kind == OBJECT_ROOT ? "/" : obj->name, obj->kind != OBJECT_ROOT && dir ? "/" : "",
		       dir ? dir : "");
}

void tree_attr(struct object *obj, const struct entry *entry, struct stat *ret)
{
	const struct owner *owner = owner_of(obj);
	struct err err;

	*ret = (struct stat){
		.st_ino = tree_ino(obj, entry),
		.st_mode = entry->mode,
		.st_nlink = S_ISDIR(entry->mode) ? 2 : 1,
		.st_uid = owner->uid,
		.st_gid = owner->gid,
		.st_blksize = 4096,
		.st_ctim = { (time_t)(obj->ctime_ns / 1000000000), (long)(obj->ctime_ns % 1000000000) },
	};
	if (is_own_dir(entry))
		ret->st_mode |= owner->mode;
	else if (entry->flags & ENTRY_SHARED)
		ret->st_mode = shared(owner, ret->st_mode);
	ret->st_atim = ret->st_mtim = ret->st_ctim;
	if (S_ISREG(entry->mode))
		ret->st_size = obj->gone ? 0 : (off_t)file_size(obj, entry, &err);
	/* cp reads what has as many blocks as bytes from front to back; else it seeks for holes first. */
	ret->st_blocks = (ret->st_size + 511) / 512;
}

/*
 * A path is walked by looking at the permissions of each of its directories: the kernel remembers them, and
 * is told when they change. What has several nodes, or is a guest's, has its attributes asked for.
 */
static double attr_timeout(const struct entry *entry, bool several)
{
	return S_ISDIR(entry->mode) && !several && !entry->mount ? FOREVER : 0;
}

void tree_attr_changed(const struct object *obj)
{
	const struct tree_node *tn;

	list_for_each (tn, &obj->nodes, link)
		if (S_ISDIR(tn->entry->mode))
			session_forget_attr(obj->fs->session,
					    tn->entry == &root_entry ? FUSE_ROOT_ID : (uintptr_t)&tn->node);
}

static double entry_timeout(const struct entry *entry)
{
	return S_ISLNK(entry->mode) || entry->flags & (ENTRY_FRESH | ENTRY_VOLATILE) ? 0 : FOREVER;
}

int tree_entry(struct object *obj, const struct entry *entry, bool alias, struct fuse_entry_param *ret,
	       struct node **ret_node)
{
	const bool several = alias || entry->flags & ENTRY_FRESH;
	struct tree_node *tn;
	struct node *node;

	if (entry->mount) {
		node = entry->mount(obj, entry);
	} else {
		tn = tree_node_new(obj, entry, several);
		node = tn ? &tn->node : NULL;
	}
	if (!node)
		return -ENOMEM;
	*ret = (struct fuse_entry_param){
		.ino = node_id(node),
		.generation = 1,
		.attr_timeout = attr_timeout(entry, several),
		.entry_timeout = alias ? 0 : entry_timeout(entry),
	};
	tree_attr(obj, entry, &ret->attr);
	*ret_node = node;
	return 0;
}

void tree_made(struct request *request, struct object *obj, const struct entry *entry, bool alias)
{
	struct fuse_entry_param param;
	struct node *node;
	int rc = tree_entry(obj, entry, alias, &param, &node);

	if (rc)
		request_err(request, rc);
	else if (request_entry(request, &param))
		node_forget(node, 1);
}

/* ---- names */

static const struct entry *fixed_entry(const struct dir_ops *dir, const char *name)
{
	const struct entry *entry;

	for (entry = dir->entries; entry && entry->name; entry++)
		if (!strcmp(entry->name, name))
			return entry;
	return NULL;
}

static void tree_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct tree_node *dir = tree_node_of(req, parent);
	struct object *obj = dir->obj;
	const struct entry *entry;
	struct fuse_entry_param param;
	struct node *node;
	int rc;

	if (!dir->entry->dir) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	entry = obj->gone ? NULL : fixed_entry(dir->entry->dir, name);
	if (!entry && !obj->gone && dir->entry->dir->find)
		obj = dir->entry->dir->find(obj, name, &entry);
	if (!entry || !obj) {
		fuse_reply_err(req, object_gone_errno(dir->obj, ENOENT));
		return;
	}
	rc = tree_entry(obj, entry, false, &param, &node);
	if (rc)
		fuse_reply_err(req, -rc);
	else if (fuse_reply_entry(req, &param))
		node_forget(node, 1);
}

static void tree_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	node_forget(node_of(req, ino), n);
	fuse_reply_none(req);
}

static void reply_attr(fuse_req_t req, const struct tree_node *tn)
{
	struct stat st;

	tree_attr(tn->obj, tn->entry, &st);
	fuse_reply_attr(req, &st, attr_timeout(tn->entry, list_empty(&tn->link)));
}

/* Answers a request about an object that is gone, so that the kernel looks the path up again. */
static bool refuse_stale(fuse_req_t req, const struct object *obj)
{
	if (obj->stale)
		fuse_reply_err(req, object_gone_errno(obj, 0));
	return obj->stale;
}

static void tree_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct tree_node *tn = tree_node_of(req, ino);

	(void)fi;
	if (!refuse_stale(req, tn->obj))
		reply_attr(req, tn);
}

/*
 * Truncation is what `>` does before it writes: it empties a text of lines (truncate -s 0 env) and changes
 * nothing else. Times are what `touch` sets, and change nothing. Owner and permissions are an object's, and
 * changed on its own directory; who may do that, the kernel has decided. The bits above the permissions mean
 * nothing here but for the sticky one of the root, below which users make names beside each other.
 */
static void tree_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
			 struct fuse_file_info *fi)
{
	struct tree_node *tn = tree_node_of(req, ino);
	const mode_t bits = tn->obj->kind == OBJECT_ROOT ? S_ISVTX | 0777 : 0777;
	struct owner owner = tn->obj->owner;
	struct err err = { 0 };
	const bool whose = to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID);
	int rc;

	(void)fi;
	if (refuse_stale(req, tn->obj))
		return;
	if (whose && !is_own_dir(tn->entry)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	rc = to_set & FUSE_SET_ATTR_SIZE && !attr->st_size ? file_truncate(tn->obj, tn->entry) : 0;
	if (rc) {
		fuse_reply_err(req, -rc);
		return;
	}
	if (to_set & FUSE_SET_ATTR_MODE)
		owner.mode = attr->st_mode & bits;
	if (to_set & FUSE_SET_ATTR_UID)
		owner.uid = attr->st_uid;
	if (to_set & FUSE_SET_ATTR_GID)
		owner.gid = attr->st_gid;
	if (whose && tn->entry->dir->chown && tn->entry->dir->chown(tn->obj, &owner, &err)) {
		object_report(tn->obj, &err);
		fuse_reply_err(req, -err.code);
		return;
	}
	if (whose) {
		tn->obj->owner = owner;
		tree_attr_changed(tn->obj);
	}
	reply_attr(req, tn);
}

static void tree_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct tree_node *tn = tree_node_of(req, ino);
	struct buf text = { 0 };

	if (!tn->entry->target || tn->obj->gone) {
		fuse_reply_err(req, tn->obj->gone ? ENOENT : EINVAL);
		return;
	}
	tn->entry->target(tn->obj, &text);
	buf_add(&text, "", 1);
	if (text.failed)
		fuse_reply_err(req, ENOMEM);
	else
		fuse_reply_readlink(req, (const char *)buf_bytes(&text));
	buf_release(&text);
}

/* ---- making and removing */

/* NULL: the request is answered. */
static struct command *begin(fuse_req_t req, enum command_kind kind, struct object *obj)
{
	struct request *request = request_new(req, 0);

	return request ? command_new(kind, obj, request) : NULL;
}

static void tree_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct tree_node *dir = tree_node_of(req, parent);
	struct command *command;
	struct err err;

	if (dir->obj->gone) {
		fuse_reply_err(req, object_gone_errno(dir->obj, ENOENT));
		return;
	}
	if (!dir->entry->dir || !dir->entry->dir->mkdir) {
		fuse_reply_err(req, EPERM);
		return;
	}
	command = begin(req, COMMAND_MKDIR, dir->obj);
	if (!command)
		return;
	command_tell(command, "mkdir %s/%s%s%s", dir->obj->name, dir->entry->name,
		     *dir->entry->name ? "/" : "", name);
	command->child.mode = mode & ~fuse_req_ctx(req)->umask & 0700; /* private until chmod opens it */
	if (!name_check(name, &err)) {
		dir->entry->dir->mkdir(dir->obj, name, command);
		return;
	}
	command_blame(command, dir->obj->log);
	command_done(command, &err);
}

static void tree_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct tree_node *dir = tree_node_of(req, parent);
	const struct dir_ops *ops = dir->entry->dir;
	struct err err = { 0 };
	int rc;

	if (!ops || dir->obj->gone)
		rc = -ENOENT;
	else if (fixed_entry(ops, name) || !ops->rmdir)
		rc = -EPERM;
	else
		rc = ops->rmdir(dir->obj, name, &err);
	if (rc && err.code)
		object_report(dir->obj, &err);
	fuse_reply_err(req, -rc);
}

static void tree_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
			const char *newname, unsigned flags)
{
	struct node *to = node_of(req, newparent);
	struct tree_node *dir = tree_node_of(req, parent), *to_dir;
	struct command *command;

	if (to->ops != &tree_ops) {
		fuse_reply_err(req, EXDEV);
		return;
	}
	to_dir = container_of(to, struct tree_node, node);
	if (!dir->entry->dir || !dir->entry->dir->rename || fixed_entry(dir->entry->dir, name)) {
		fuse_reply_err(req, EPERM);
	} else if (flags & ~1u) { /* RENAME_NOREPLACE is how mv asks, and all we can do anyway */
		fuse_reply_err(req, EINVAL);
	} else {
		command = begin(req, COMMAND_RENAME, dir->obj);
		if (!command)
			return;
		command_tell(command, "rename %s in %s to %s", name, dir->obj->name, newname);
		dir->entry->dir->rename(dir->obj, name, to_dir->obj, to_dir->entry, newname, command);
	}
}

static void tree_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	(void)parent;
	(void)name;
	fuse_reply_err(req, EPERM);
}

static void tree_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	(void)target;
	tree_unlink(req, parent, name);
}

static void tree_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	(void)ino;
	tree_unlink(req, parent, name);
}

/* As in cgroup2: only the tree decides which files there are. */
static void tree_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	(void)parent;
	(void)name;
	(void)mode;
	(void)rdev;
	fuse_reply_err(req, EACCES);
}

static void tree_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
			struct fuse_file_info *fi)
{
	(void)fi;
	tree_mknod(req, parent, name, mode, 0);
}

static void tree_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct tree_node *tn = tree_node_of(req, ino);

	if (!refuse_stale(req, tn->obj))
		listing_open(req, tn->obj, tn->entry, fi);
}

/* The store's, so that df says how much more can be saved. */
static void tree_statfs(fuse_req_t req, fuse_ino_t ino)
{
	const struct fs *fs = fuse_req_userdata(req);
	struct statvfs st;

	(void)ino;
	if (statvfs(store_dir(fs->store), &st) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_statfs(req, &st);
}

static void tree_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct tree_node *tn = tree_node_of(req, ino);

	file_open(req, tn->obj, tn->entry, fi);
}

const struct fuse_lowlevel_ops tree_ops = {
	.lookup = tree_lookup,
	.forget = tree_forget,
	.getattr = tree_getattr,
	.setattr = tree_setattr,
	.readlink = tree_readlink,
	.mknod = tree_mknod,
	.mkdir = tree_mkdir,
	.unlink = tree_unlink,
	.rmdir = tree_rmdir,
	.symlink = tree_symlink,
	.rename = tree_rename,
	.link = tree_link,
	.open = tree_open,
	.read = file_read,
	.write = file_write,
	.flush = file_flush,
	.release = file_release,
	.fsync = file_fsync,
	.opendir = tree_opendir,
	.readdir = listing_readdir,
	.readdirplus = listing_readdirplus,
	.releasedir = listing_release,
	.statfs = tree_statfs,
	.create = tree_create,
	.poll = file_poll,
	.lseek = file_lseek,
};
