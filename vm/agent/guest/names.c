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

int guest_path_get(struct reader *r, char ret[PATH_MAX])
{
	get_str(r, ret, PATH_MAX);
	return r->bad || !guest_path_valid(ret) ? -EINVAL : 0;
}

int guest_path_open(const char *path, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)flags | O_PATH | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	int root, fd, rc;

	root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -errno;
	fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
	rc = fd < 0 ? -errno : fd;
	close(root);
	return rc;
}

int guest_place_get(struct reader *r, struct guest_place *ret)
{
	char *slash;
	int rc;

	ret->dir = -1;
	rc = guest_path_get(r, ret->path);
	if (rc)
		return rc;
	slash = strrchr(ret->path, '/');
	if (!slash[1])
		return -EBUSY; /* the root itself */
	*slash = '\0';
	ret->name = slash + 1;
	ret->dir = guest_path_open(*ret->path ? ret->path : "/", O_DIRECTORY);
	return ret->dir < 0 ? ret->dir : 0;
}

/* ---- operations: each reads its arguments, acts, and replies with the new attributes */

static int put_attr_at(struct buf *reply, const struct guest_place *place)
{
	struct stat st;

	if (fstatat(place->dir, place->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	guest_put_stat(reply, &st);
	return S_ISLNK(st.st_mode) ? guest_put_target(reply, place->dir, place->name) : 0;
}

/* The owner of what was just made, and its mode again, which a change of owner may have cut. */
static int own(const struct guest_place *at, uint32_t uid, uint32_t gid, uint32_t mode, bool link)
{
	if (fchownat(at->dir, at->name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!link && mode & 07000 && fchmodat(at->dir, at->name, mode & 07777, 0) < 0)
		return -errno;
	return 0;
}

int guest_op_mkdir(struct guest_request *rq)
{
	struct guest_place at;
	uint32_t mode, uid, gid;
	int rc;

	rc = guest_place_get(&rq->args, &at);
	mode = get_u32(&rq->args);
	uid = get_u32(&rq->args);
	gid = get_u32(&rq->args);
	if (!rc && rq->args.bad)
		rc = -EINVAL;
	if (rc == -EBUSY)
		rc = -EEXIST;
	if (!rc && mkdirat(at.dir, at.name, mode & 07777) < 0)
		rc = -errno;
	if (!rc) {
		rc = own(&at, uid, gid, mode, false);
		if (rc)
			unlinkat(at.dir, at.name, AT_REMOVEDIR);
	}
	if (!rc)
		rc = put_attr_at(&rq->reply, &at);
	if (at.dir >= 0)
		close(at.dir);
	return rc;
}

int guest_op_mknod(struct guest_request *rq)
{
	struct guest_place at;
	uint32_t mode, uid, gid;
	uint64_t rdev;
	int rc;

	rc = guest_place_get(&rq->args, &at);
	mode = get_u32(&rq->args);
	rdev = get_u64(&rq->args);
	uid = get_u32(&rq->args);
	gid = get_u32(&rq->args);
	if (!rc && rq->args.bad)
		rc = -EINVAL;
	if (!rc && mknodat(at.dir, at.name, mode, rdev) < 0)
		rc = -errno;
	if (!rc) {
		rc = own(&at, uid, gid, mode, false);
		if (rc)
			unlinkat(at.dir, at.name, 0);
	}
	if (!rc)
		rc = put_attr_at(&rq->reply, &at);
	if (at.dir >= 0)
		close(at.dir);
	return rc;
}

int guest_op_symlink(struct guest_request *rq)
{
	char target[PATH_MAX];
	struct guest_place at;
	uint32_t uid, gid;
	int rc;

	rc = guest_place_get(&rq->args, &at);
	get_str(&rq->args, target, sizeof(target));
	uid = get_u32(&rq->args);
	gid = get_u32(&rq->args);
	if (!rc && rq->args.bad)
		rc = -EINVAL;
	if (!rc && symlinkat(target, at.dir, at.name) < 0)
		rc = -errno;
	if (!rc) {
		rc = own(&at, uid, gid, 0, true);
		if (rc)
			unlinkat(at.dir, at.name, 0);
	}
	if (!rc)
		rc = put_attr_at(&rq->reply, &at);
	if (at.dir >= 0)
		close(at.dir);
	return rc;
}

static int remove_name(struct guest_request *rq, int flags)
{
	struct guest_place at;
	int rc;

	rc = guest_place_get(&rq->args, &at);
	if (!rc && unlinkat(at.dir, at.name, flags) < 0)
		rc = -errno;
	if (at.dir >= 0)
		close(at.dir);
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

/* Two places; both dirs are to be closed whatever is returned. */
static int get_two_places(struct guest_request *rq, struct guest_place *from, struct guest_place *to)
{
	int rc = guest_place_get(&rq->args, from);

	to->dir = -1;
	return rc ? rc : guest_place_get(&rq->args, to);
}

static void close_two(const struct guest_place *from, const struct guest_place *to)
{
	if (from->dir >= 0)
		close(from->dir);
	if (to->dir >= 0)
		close(to->dir);
}

int guest_op_rename(struct guest_request *rq)
{
	struct guest_place from, to;
	uint32_t flags = 0;
	int rc;

	rc = get_two_places(rq, &from, &to);
	if (!rc)
		flags = get_u32(&rq->args);
	if (!rc && rq->args.bad)
		rc = -EINVAL;
	if (!rc && renameat2(from.dir, from.name, to.dir, to.name, flags) < 0)
		rc = -errno;
	close_two(&from, &to);
	return rc;
}

int guest_op_link(struct guest_request *rq)
{
	struct guest_place from, to;
	int rc;

	rc = get_two_places(rq, &from, &to);
	if (!rc && linkat(from.dir, from.name, to.dir, to.name, 0) < 0)
		rc = -errno;
	if (!rc)
		rc = put_attr_at(&rq->reply, &to);
	close_two(&from, &to);
	return rc;
}
