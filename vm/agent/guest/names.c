/* SPDX-License-Identifier: MIT */
/*
 * names.c - paths, and the operations on names: make, remove, rename, link
 *
 * The host walks paths itself, one component at a time, so a path that arrives here has no links in it. If
 * the guest turned one of its directories into a link meanwhile, it is resolved within the guest's root, and
 * never through the magic links of /proc.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vm/agent/guest/files.h"

/* ---- paths */

bool guest_path_valid(const char *path)
{
	const char *p = path;
	size_t n;

	if (*p != '/')
		return false;
	if (!p[1])
		return true;
	while (*p) {
		p++;
		n = strcspn(p, "/");
		if (!n || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		p += n;
	}
	return true;
}

/* An O_PATH descriptor, or a negative errno. */
static int path_open(const char *path, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)flags | O_PATH | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	static int root = -1; /* it is never another: the agent is its first process */
	int fd;

	if (root < 0)
		root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -errno;
	fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
	return fd < 0 ? -errno : fd;
}

void guest_ref_close(struct guest_ref *ref)
{
	if (ref->ours && ref->fd >= 0)
		close(ref->fd);
	*ref = (struct guest_ref){ .fd = -1 };
}

static int check_id(struct guest_ref *ref, const struct fs_id *id)
{
	const int rc = guest_attr_bare(ref->fd, "", &ref->attr);

	ref->checked = !rc;
	return rc ? rc : fs_id_same(&ref->attr.id, id) ? 0 : GUEST_STALE;
}

int guest_file_get(struct guest_request *rq, int flags, struct guest_ref *ret)
{
	const uint32_t handle = get_u32(&rq->args);
	char path[PATH_MAX];
	struct fs_id id;
	bool checked;
	int rc = 0;

	*ret = (struct guest_ref){ .fd = -1 };
	get_str(&rq->args, path, sizeof(path));
	checked = get_u8(&rq->args);
	fs_id_get(&rq->args, &id);
	if (rq->args.bad || (!handle && !guest_path_valid(path)))
		return -EINVAL;
	if (handle) {
		ret->open = guest_handle_find(rq->files, handle);
		ret->fd = ret->open ? ret->open->fd : -EBADF;
		return ret->open ? 0 : -EBADF;
	}
	ret->fd = path_open(path, flags | O_NOFOLLOW);
	ret->ours = true;
	if (ret->fd < 0)
		rc = ret->fd;
	else if (checked)
		rc = check_id(ret, &id);
	/* The host knows of a file there. */
	return checked && (rc == -ENOENT || rc == -ENOTDIR || rc == -ELOOP) ? GUEST_STALE : rc;
}

int guest_place_get(struct guest_request *rq, struct guest_place *ret)
{
	const int rc = guest_file_get(rq, O_DIRECTORY, &ret->dir);

	get_str(&rq->args, ret->name, sizeof(ret->name));
	if (!rc && (rq->args.bad || !*ret->name || strchr(ret->name, '/') || !strcmp(ret->name, ".") ||
		    !strcmp(ret->name, "..")))
		return -EINVAL;
	return rc;
}

/* ---- operations: each reads its arguments, acts, and replies with the new attributes */

void guest_maker_get(struct guest_request *rq, struct guest_maker *ret)
{
	ret->mode = get_u32(&rq->args);
	ret->umask = get_u32(&rq->args);
	ret->uid = get_u32(&rq->args);
	ret->gid = get_u32(&rq->args);
}

bool guest_is_owned(const struct stat *st, int dir, const struct guest_maker *maker)
{
	return st->st_uid == maker->uid &&
	       (st->st_gid == maker->gid || st->st_gid == guest_group(dir, maker->gid));
}

/* The owner of what was just made, and its mode again, which a change of owner may have cut; what an ACL or a
 * setgid directory made of it stays. */
static int own(const struct guest_place *at, const struct guest_maker *maker, bool link)
{
	struct stat st;

	if (fstatat(at->dir.fd, at->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!guest_is_owned(&st, at->dir.fd, maker) &&
	    fchownat(at->dir.fd, at->name, maker->uid, guest_group(at->dir.fd, maker->gid),
		     AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!link && maker->mode & 07000 &&
	    fchmodat(at->dir.fd, at->name, (st.st_mode & 07777) | (maker->mode & 07000), 0) < 0)
		return -errno;
	return 0;
}

/* It was made, or rc says why not: its owner and its attributes, or it is gone again. `removal` as unlinkat has it. */
static int finish(struct guest_request *rq, struct guest_place *at, int rc, const struct guest_maker *maker,
		  bool link, int removal)
{
	if (!rc) {
		rc = own(at, maker, link);
		if (rc)
			unlinkat(at->dir.fd, at->name, removal);
	}
	if (!rc)
		rc = guest_put_attr(&rq->reply, at->dir.fd, at->name);
	if (!rc)
		guest_put_dir(rq, &at->dir);
	guest_ref_close(&at->dir);
	return rc;
}

int guest_op_mkdir(struct guest_request *rq)
{
	struct guest_maker maker;
	struct guest_place at;
	int rc;

	rc = guest_place_get(rq, &at);
	guest_maker_get(rq, &maker);
	if (!rc && rq->args.bad)
		rc = -EINVAL;
	umask(maker.umask & 0777);
	if (!rc && mkdirat(at.dir.fd, at.name, maker.mode & 07777) < 0)
		rc = -errno;
	umask(0);
	return finish(rq, &at, rc, &maker, false, AT_REMOVEDIR);
}

int guest_op_mknod(struct guest_request *rq)
{
	struct guest_maker maker;
	struct guest_place at;
	uint64_t rdev;
	int rc;

	rc = guest_place_get(rq, &at);
	rdev = get_u64(&rq->args);
	guest_maker_get(rq, &maker);
	if (!rc && rq->args.bad)
		rc = -EINVAL;
	umask(maker.umask & 0777);
	if (!rc && mknodat(at.dir.fd, at.name, maker.mode, rdev) < 0)
		rc = -errno;
	umask(0);
	return finish(rq, &at, rc, &maker, false, 0);
}

int guest_op_symlink(struct guest_request *rq)
{
	char target[PATH_MAX];
	struct guest_maker maker = { 0 };
	struct guest_place at;
	int rc;

	rc = guest_place_get(rq, &at);
	get_str(&rq->args, target, sizeof(target));
	maker.uid = get_u32(&rq->args);
	maker.gid = get_u32(&rq->args);
	if (!rc && rq->args.bad)
		rc = -EINVAL;
	if (!rc && symlinkat(target, at.dir.fd, at.name) < 0)
		rc = -errno;
	return finish(rq, &at, rc, &maker, true, 0);
}

static int remove_name(struct guest_request *rq, int flags)
{
	struct guest_place at;
	int rc;

	rc = guest_place_get(rq, &at);
	if (!rc && unlinkat(at.dir.fd, at.name, flags) < 0)
		rc = -errno;
	if (!rc)
		guest_put_dir(rq, &at.dir);
	guest_ref_close(&at.dir);
	return rc;
}

int guest_op_unlink(struct guest_request *rq)
{
	return remove_name(rq, 0);
}

int guest_op_rmdir(struct guest_request *rq)
{
	return remove_name(rq, AT_REMOVEDIR);
}

int guest_op_rename(struct guest_request *rq)
{
	struct guest_place from, to;
	uint32_t flags = 0;
	int rc = guest_place_get(rq, &from), rc2 = guest_place_get(rq, &to);

	flags = get_u32(&rq->args);
	if (!rc)
		rc = rc2;
	if (!rc && rq->args.bad)
		rc = -EINVAL;
	if (!rc && renameat2(from.dir.fd, from.name, to.dir.fd, to.name, flags) < 0)
		rc = -errno;
	if (!rc) {
		guest_put_dir(rq, &from.dir);
		guest_put_dir(rq, &to.dir);
	}
	guest_ref_close(&from.dir);
	guest_ref_close(&to.dir);
	return rc;
}

int guest_op_link(struct guest_request *rq)
{
	char path[GUEST_PROC_PATH];
	struct guest_place to;
	struct guest_ref from;
	int rc = guest_file_get(rq, 0, &from), rc2 = guest_place_get(rq, &to);

	if (!rc)
		rc = rc2;
	guest_proc_path(path, from.fd);
	/* Through /proc, since AT_EMPTY_PATH takes a privilege that a test has not. */
	if (!rc && linkat(AT_FDCWD, path, to.dir.fd, to.name, AT_SYMLINK_FOLLOW) < 0)
		rc = -errno;
	if (!rc)
		rc = guest_put_attr(&rq->reply, to.dir.fd, to.name);
	if (!rc)
		guest_put_dir(rq, &to.dir);
	guest_ref_close(&from);
	guest_ref_close(&to.dir);
	return rc;
}
