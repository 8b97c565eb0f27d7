/* SPDX-License-Identifier: MIT */
/* guest_attr.c - fs/: attributes of a guest's files, as the host's kernel and programs see them */
#include <errno.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "fs/guest/guest_names.h"
#include "fs/tree/session.h"

enum { OVERFLOW_ID = 65534 };

/*
 * Within the mount all numbers are of one device, so they are made of whose file it is (25 bits, the highest set: a
 * guest's), of which of its filesystems, and of its number there. What is too large for that, or of one
 * filesystem too many, is hashed, and may meet another's number after some hundred thousand files.
 */
uint64_t guest_ino(struct guest_mount *guest, const struct fs_id *id)
{
	const uint64_t whose = (uint64_t)1 << 63 | (uint64_t)(guest->number & 0xffffff) << 39;
	unsigned i = 0;

	while (i < guest->n_devs && guest->devs[i] != id->dev)
		i++;
	if (i == guest->n_devs && i < GUEST_DEVS_MAX)
		guest->devs[guest->n_devs++] = id->dev;
	if (i < GUEST_DEVS_MAX && id->ino <= UINT32_MAX)
		return whose | (uint64_t)i << 32 | id->ino;
	return whose | (uint64_t)1 << 38 | (XXH3_64bits_withSeed(&id->ino, sizeof(id->ino), id->dev) >> 26);
}

static struct timespec to_timespec(const struct fs_time *time)
{
	return (struct timespec){ (time_t)time->sec, time->nsec < 1000000000 ? (long)time->nsec : 0 };
}

/*
 * The kernel takes an inode with impossible attributes for broken, and does not give back the lookups and
 * handles that came with it.
 */
int guest_attr_get(struct reader *results, struct fs_attr *ret)
{
	fs_attr_get(results, ret);
	return results->bad ? -EIO : guest_attr_check(ret);
}

int guest_attr_check(struct fs_attr *ret)
{
	if (ret->size > INT64_MAX || ret->blocks > INT64_MAX / 512)
		return -EIO;
	ret->mode &= S_IFMT | 07777;
	switch (ret->mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFIFO:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFSOCK:
		break;
	default:
		return -EIO;
	}
	/* No user has the number -1, and the kernel refuses to change the owner of such a file. */
	if (ret->uid == UINT32_MAX)
		ret->uid = OVERFLOW_ID;
	if (ret->gid == UINT32_MAX)
		ret->gid = OVERFLOW_ID;
	return 0;
}

/*
 * Of devices, FIFOs and sockets the kernel asks us nothing when they are opened. Devices are refused by the
 * mount (nodev), and nobody on the host listens on a guest's socket. But a FIFO would be a pipe of the
 * host's, to which nobody comes: a guest could so stop whoever opens a file of its. It is shown as a socket,
 * which cannot be opened.
 */
static uint32_t shown_mode(const struct guest_node *gn, uint32_t mode)
{
	return S_ISFIFO(mode) && !gn->fifo ? (mode & ~(uint32_t)S_IFMT) | S_IFSOCK : mode;
}

/*
 * The kernel checks a guest's owners and modes against the host's users, who are others. So the guest's root is
 * the owner of the sandbox, who may do there what that may; and where that is an ordinary user, who could not
 * touch what is shown as another's, all of the guest's files are shown as theirs. Root may everything anyway,
 * and sees ids as they are. Either way who cannot enter the sandbox's directory does not get here.
 */
static const struct owner *shown_owner(const struct guest_node *gn)
{
	const struct owner *owner = &gn->guest->obj->owner;

	return owner->uid ? owner : NULL;
}

uint32_t guest_uid(const struct guest_node *gn, uid_t uid)
{
	const struct owner *owner = shown_owner(gn);

	return owner && uid == owner->uid ? 0 : uid;
}

uint32_t guest_gid(const struct guest_node *gn, gid_t gid)
{
	const struct owner *owner = shown_owner(gn);

	return owner && gid == owner->gid ? 0 : gid;
}

void guest_put_owner(struct buf *args, const struct guest_node *dir, fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	const struct owner *owner = shown_owner(dir);
	const bool is_root = owner && owner->uid == ctx->uid;

	buf_put_u32(args, is_root ? 0 : ctx->uid);
	buf_put_u32(args, is_root ? 0 : ctx->gid);
}

/* The umask too, since it does not hold in a directory with a default ACL. */
void guest_put_maker(struct buf *args, const struct guest_node *dir, mode_t mode, fuse_req_t req)
{
	buf_put_u32(args, mode);
	buf_put_u32(args, fuse_req_ctx(req)->umask & 0777);
	guest_put_owner(args, dir, req);
}

/*
 * The kernel leaves it to us to take set-user-ID and set-group-ID bits away (FUSE_HANDLE_KILLPRIV): a write, or a
 * change of size, by who has not CAP_FSETID does. The guest sees to it on a change of owner, and to file
 * capabilities on any of these.
 */
bool guest_is_other(fuse_req_t req)
{
	return fuse_req_ctx(req)->uid != 0;
}

bool guest_is_elsewhere(const struct guest_node *gn, const struct fs_attr *attr)
{
	return gn->type != S_IFREG && gn->type != S_IFDIR && attr->nlink > 1;
}

void guest_told_bare(struct guest_node *gn, const struct fs_attr *attr, uint64_t asked_ns)
{
	gn->bare_ns = attr->flags & FSA_NO_XATTR ? asked_ns + (uint64_t)(GUEST_CACHE_S * 1e9) : 0;
	gn->bare_changes = gn->guest->changes;
}

bool guest_is_bare(const struct guest_node *gn)
{
	return gn->bare_changes == gn->guest->changes && now_mono_ns() < gn->bare_ns;
}

void guest_told(struct guest_node *gn)
{
	const uint64_t now = now_mono_ns();
	struct guest_mount *guest = gn->guest;
	struct guest_node *old;

	list_del(&gn->fresh);
	list_add(&guest->fresh, &gn->fresh);
	gn->told_ns = now;
	/* Twice as long, for an answer that is still on its way. */
	while ((old = list_first(&guest->fresh, struct guest_node, fresh)) &&
	       now - old->told_ns > (uint64_t)(2 * GUEST_CACHE_S * 1e9))
		list_del(&old->fresh);
}

/*
 * Attributes alone, since the kernel takes no lock for them that a request of ours may hold; for a name it would
 * take the directory's. A name that is another file's now is found out when it is used: the guest is asked for
 * the file's attributes, by that name, and answers that it is not there. What is open is asked for by its handle,
 * though, and so the old file would stand for the new one: there all names of the mount are looked up once more,
 * which takes no lock, but Linux 6.16.
 */
void guestfs_changed(struct guest_mount *guest)
{
	struct guest_node *gn;
	bool open = false;

	guest->changes++;
	guest->voids++;
	while (guest->number && (gn = list_first(&guest->fresh, struct guest_node, fresh))) {
		list_del(&gn->fresh);
		session_forget_attr(guest->obj->fs->session, (uintptr_t)&gn->node);
		open |= !list_empty(&gn->files);
	}
	if (open)
		session_forget_names(guest->obj->fs->session);
}

void guest_stat(const struct guest_node *gn, const struct fs_attr *attr, struct stat *ret)
{
	const struct owner *shown = shown_owner(gn);

	*ret = (struct stat){
		.st_ino = guest_ino(gn->guest, &attr->id),
		.st_mode = shown_mode(gn, attr->mode),
		.st_nlink = attr->nlink,
		.st_uid = shown ? shown->uid : attr->uid,
		.st_gid = shown ? shown->gid : attr->gid,
		.st_rdev = attr->rdev,
		.st_size = (off_t)attr->size,
		.st_blocks = (blkcnt_t)attr->blocks,
		.st_blksize = PROTO_DATA_MAX,
		.st_atim = to_timespec(&attr->atime),
		.st_mtim = to_timespec(&attr->mtime),
		.st_ctim = to_timespec(&attr->ctime),
	};
}
