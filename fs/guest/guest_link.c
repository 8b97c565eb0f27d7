/* SPDX-License-Identifier: MIT */
/*
 * guest_link.c - fs/: symbolic links of a guest
 *
 * They are shown rewritten (symlink.h), and their size is that of what is shown. The agent sends a link's
 * target with its attributes for this.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/fs.h"
#include "fs/guest/guest_names.h"
#include "fs/guest/symlink.h"

/* The host's path of the guest's root. */
static int root_path(const struct guest_node *gn, char ret[PATH_MAX])
{
	const struct object *obj = gn->guest->obj;
	char path[2 * STORE_NAME_MAX + 32];

	gn->guest->ops->path(obj, path, sizeof(path));
	return snprintf(ret, PATH_MAX, "%s/%s/%s", obj->fs->mountpoint, path, gn->guest->root->entry->name) <
			       PATH_MAX
		       ? 0
		       : -ENAMETOOLONG;
}

/* What a link in dir with this target shows. */
static int shown(const struct guest_node *dir, const char *target, char ret[PATH_MAX])
{
	char root[PATH_MAX], at[PATH_MAX];
	int rc = root_path(dir, root);

	if (!rc)
		rc = guest_path(dir, at);
	return rc ? rc : symlink_rewrite(root, at, target, ret, PATH_MAX);
}

void guest_link_attr(const struct guest_node *dir, struct reader *results, struct fs_attr *attr)
{
	char target[PATH_MAX], safe[PATH_MAX];

	if (!S_ISLNK(attr->mode))
		return;
	get_str(results, target, sizeof(target));
	if (!results->bad && !shown(dir, target, safe))
		attr->size = strlen(safe);
}

static void done_readlink(struct guest_call *gc, int err, struct reader *results)
{
	const struct guest_node *dir = guest_parent(gc->node);
	char target[PATH_MAX], safe[PATH_MAX];

	if (!err) {
		get_str(results, target, sizeof(target));
		err = results->bad ? -EIO : dir ? shown(dir, target, safe) : -ESTALE;
	}
	if (err)
		request_err(gc->request, err);
	else
		request_link(gc->request, safe);
	guest_call_free(gc);
}

void guest_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct guest_node *gn = guest_node_of(req, ino);
	struct buf args = { 0 };
	struct guest_call *gc;

	if (gn->entry) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	gc = guest_call_new(req, gn, NULL, done_readlink);
	if (gc)
		guest_call_send(gc, FS_READLINK, guest_put_file(&args, gn), &args);
}

void guest_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct buf args = { 0 };
	int rc;
	struct guest_call *gc = guest_call_make(req, parent, name, S_IFLNK, guest_done_entry, &args, &rc);

	if (!gc)
		return;
	buf_put_str(&args, symlink_written(gc->node->guest->obj->fs->mountpoint, target));
	guest_put_owner(&args, gc->node, req);
	guest_call_send(gc, FS_SYMLINK, rc, &args);
}
