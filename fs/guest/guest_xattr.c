/* SPDX-License-Identifier: MIT */
/*
 * guest_xattr.c - fs/: extended attributes of a guest's files
 *
 * Who may read and set which is checked by the kernel: trusted.* is for root, security.* is set by root (a file
 * capability by who has CAP_SETFCAP), user.* goes by the file's mode, and an ACL is set by the file's owner. Of system.*
 * it checks nothing but ACLs, and the guest's agent may everything, so nothing else of that gets there.
 *
 * The kernel goes by ACLs when it checks permissions (session.c), and so has to be told that a file has none where
 * the guest's filesystem knows no ACLs: an error would be that of the walk. What a guest says of itself there is no
 * more than what it says by owners and modes; and a file capability means nothing on a mount that is nosuid.
 */
#include <errno.h>
#include <string.h>
#include <sys/xattr.h>

#include "fs/guest/guest_names.h"

/* How often a value that changed while it was read is read again. */
enum { TRIES = 4 };

static bool begins(const char *name, const char *prefix)
{
	return !strncmp(name, prefix, strlen(prefix));
}

static bool is_acl(const char *name)
{
	return !strcmp(name, "system.posix_acl_access") || !strcmp(name, "system.posix_acl_default");
}

static bool is_known(const char *name)
{
	return begins(name, "user.") || begins(name, "trusted.") || begins(name, "security.") || is_acl(name);
}

/* ---- reading */

static void ask(struct guest_call *gc)
{
	struct buf args = { 0 };
	const size_t left = FS_XATTR_MAX - gc->value.len;
	const int rc = guest_put_file(&args, gc->node);

	buf_put_str(&args, gc->name);
	buf_put_u32(&args, (uint32_t)gc->value.len);
	/* Of a list all is wanted, to know which names are to be shown. */
	buf_put_u32(&args, (uint32_t)(*gc->name && !gc->size  ? 0
				      : left < PROTO_DATA_MAX ? left
							      : PROTO_DATA_MAX));
	guest_call_send(gc, FS_GETXATTR, rc, &args);
}

/* A piece of the value: 1 when there is more to ask for, 0 when gc->value is all that is wanted, or a negative errno. */
static int take(struct guest_call *gc, struct reader *results)
{
	const uint64_t hash = get_u64(results);
	const uint32_t all = get_u32(results);
	const size_t n = reader_left(results), had = gc->value.len;

	if (results->bad || all > FS_XATTR_MAX)
		return -EIO;
	if (had && (hash != gc->hash || all != gc->all)) {
		buf_clear(&gc->value);
		return ++gc->tries < TRIES ? 1 : -EIO;
	}
	gc->hash = hash;
	gc->all = all;
	if (*gc->name && !gc->size)
		return 0;
	if (had > all || n > all - had || (!n && had < all))
		return -EIO;
	buf_add(&gc->value, results->p, n);
	return gc->value.failed ? -ENOMEM : had + n < all;
}

/* The names to be shown, in place of all; 0 or -EIO. The kernel believes no list with an empty name. */
static int pick_names(struct guest_call *gc)
{
	const char *p = (const char *)buf_bytes(&gc->value), *const end = p ? p + gc->value.len : NULL;
	const bool root = fuse_req_ctx(gc->request->req)->uid == 0;
	struct buf shown = { 0 };
	size_t n;

	for (; p < end; p += n + 1) {
		n = strnlen(p, (size_t)(end - p));
		if (!n || n > XATTR_NAME_MAX || p + n == end) {
			buf_release(&shown);
			return -EIO;
		}
		if (is_known(p) && (root || !begins(p, "trusted.")))
			buf_add(&shown, p, n + 1);
	}
	buf_release(&gc->value);
	gc->value = shown;
	gc->all = (uint32_t)shown.len;
	return shown.failed ? -ENOMEM : 0;
}

/* What an ACL looks like (linux/posix_acl_xattr.h): 2, and entries of tag, permissions and id. The kernel would make
 * of another one an errno of its own, of a walk that comes by. */
static bool is_sound_acl(const struct buf *value)
{
	struct reader r = reader_init(buf_bytes(value), value->len);

	if (get_u32(&r) != 2)
		return !value->len;
	while (!r.bad && reader_left(&r)) {
		const uint16_t tag = get_u16(&r), bits = get_u16(&r);

		(void)get_u32(&r);
		if (!tag || tag > 0x20 || tag & (tag - 1) || bits > 7)
			return false;
	}
	return !r.bad;
}

static void done_get(struct guest_call *gc, int err, struct reader *results)
{
	int rc = err;

	if (!rc)
		rc = take(gc, results);
	if (rc == 1) {
		ask(gc);
		return;
	}
	if (!rc && !*gc->name)
		rc = pick_names(gc);
	if (rc == -EOPNOTSUPP && is_acl(gc->name))
		rc = -ENODATA;
	if (!rc && gc->size && is_acl(gc->name) && !is_sound_acl(&gc->value))
		rc = -EIO;
	if (!rc && gc->size && gc->size < gc->all)
		rc = -ERANGE;
	if (rc)
		request_err(gc->request, rc);
	else if (!gc->size)
		request_xattr(gc->request, gc->all);
	else
		request_data(gc->request, buf_bytes(&gc->value), gc->all);
	guest_call_free(gc);
}

static void get_value(fuse_req_t req, struct guest_node *gn, const char *name, size_t size)
{
	struct guest_call *gc = guest_call_new(req, gn, name, done_get);

	if (!gc)
		return;
	gc->size = size;
	ask(gc);
}

void guest_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct guest_node *gn = guest_node_of(req, ino);

	/* The root is a place in our tree. */
	if (gn->entry || (is_known(name) && guest_is_bare(gn)))
		fuse_reply_err(req, ENODATA);
	else if (!is_known(name))
		fuse_reply_err(req, EOPNOTSUPP);
	else
		get_value(req, gn, name, size);
}

void guest_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct guest_node *gn = guest_node_of(req, ino);

	if (!gn->entry && !guest_is_bare(gn))
		get_value(req, gn, "", size);
	else if (size)
		fuse_reply_buf(req, NULL, 0);
	else
		fuse_reply_xattr(req, 0);
}

/* ---- setting */

/* 0, or why it cannot be set. */
static int may_set(const struct guest_node *gn, const char *name)
{
	return gn->guest->ops->readonly ? -EROFS : gn->entry || !is_known(name) ? -EOPNOTSUPP : 0;
}

/* To change it: NULL, and answered, where that cannot be. */
static struct guest_call *new_change(fuse_req_t req, struct guest_node *gn, const char *name, size_t size)
{
	const int rc = size > FS_XATTR_MAX ? -E2BIG : may_set(gn, name);

	if (!rc)
		return guest_call_new(req, gn, name, guest_done_err);
	fuse_reply_err(req, -rc);
	return NULL;
}

/* What does not fit a frame goes ahead of it, in the same turn: nothing comes between. 0, or a negative errno. */
static int send_part(struct guest_node *gn, uint32_t token, const char *value, size_t n)
{
	const int rc = guest_usable(gn);
	struct buf args = { 0 };
	bool sent;

	if (rc)
		return rc;
	buf_put_u32(&args, token);
	buf_add(&args, value, n);
	sent = !args.failed && agent_fs(guest_agent(gn), FS_XATTR_PART, &args, GUEST_TIMEOUT_MS, NULL, NULL);
	buf_release(&args);
	return sent ? 0 : -ENOMEM;
}

void guest_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
		    int flags)
{
	static uint32_t tokens;
	struct guest_node *gn = guest_node_of(req, ino);
	const size_t before = size > PROTO_DATA_MAX ? PROTO_DATA_MAX : 0;
	struct guest_call *gc = new_change(req, gn, name, size);
	struct buf args = { 0 };
	int rc = 0;

	if (!gc)
		return;
	if (before && !++tokens)
		tokens = 1;
	if (before)
		rc = send_part(gn, tokens, value, before);
	if (!rc)
		rc = guest_put_file(&args, gn);
	buf_put_str(&args, name);
	buf_put_u32(&args, (uint32_t)flags);
	buf_put_u32(&args, before ? tokens : 0);
	buf_add(&args, value + before, size - before);
	guest_call_send(gc, FS_SETXATTR, rc, &args);
}

void guest_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct guest_node *gn = guest_node_of(req, ino);
	struct guest_call *gc = new_change(req, gn, name, 0);
	struct buf args = { 0 };
	int put;

	if (!gc)
		return;
	put = guest_put_file(&args, gn);
	buf_put_str(&args, name);
	guest_call_send(gc, FS_REMOVEXATTR, put, &args);
}
