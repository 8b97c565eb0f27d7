/* SPDX-License-Identifier: MIT */
/*
 * guest_node.c - fs/: the nodes of a guest's files, and calls of its agent
 *
 * A name that the guest gives to another file becomes another node, so that the kernel's inode is always of
 * one type.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "fs/guest/guest_errno.h"
#include "fs/guest/guest_names.h"
#include "util/log.h"

enum { OVERFLOW_ID = 65534 };

/* ---- nodes */

struct guest_node *guest_node_of(fuse_req_t req, fuse_ino_t ino)
{
	return container_of(node_of(req, ino), struct guest_node, node);
}

struct guest_node *guest_ref(struct guest_node *gn)
{
	gn->refs++;
	return gn;
}

/* Names are a guest's to choose, so it must not know which meet. */
static uint32_t hash_of(const char *name)
{
	static uint64_t seed;

	while (!seed)
		if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
			seed = now_mono_ns();
	return (uint32_t)XXH3_64bits_withSeed(name, strlen(name), seed);
}

static struct guest_node **bucket(const struct guest_node *dir, uint32_t hash)
{
	return &dir->buckets[hash % dir->n_buckets];
}

/* Eight times as many buckets, if there is memory for them. */
static void more_buckets(struct guest_node *dir)
{
	const unsigned n = dir->n_buckets * 8;
	struct guest_node **buckets = calloc(n, sizeof(struct guest_node *)), *gn;
	unsigned i;

	if (!buckets)
		return;
	for (i = 0; i < dir->n_buckets; i++) {
		while ((gn = dir->buckets[i])) {
			dir->buckets[i] = gn->next;
			gn->next = buckets[gn->hash % n];
			buckets[gn->hash % n] = gn;
		}
	}
	if (dir->buckets != &dir->first)
		free((void *)dir->buckets);
	dir->buckets = buckets;
	dir->n_buckets = n;
}

/* By its name, in its parent, if it has one. */
static void add_child(struct guest_node *gn)
{
	struct guest_node *dir = gn->parent, **p;

	gn->hash = hash_of(gn->name);
	if (!dir)
		return;
	if (++dir->n_children > dir->n_buckets * 4)
		more_buckets(dir);
	p = bucket(dir, gn->hash);
	gn->next = *p;
	*p = gn;
}

static void del_child(const struct guest_node *gn)
{
	struct guest_node **p;

	if (!gn->parent)
		return;
	for (p = bucket(gn->parent, gn->hash); *p != gn; p = &(*p)->next)
		;
	*p = gn->next;
	gn->parent->n_children--;
}

void guest_unref(struct guest_node *gn)
{
	struct guest_node *parent;

	while (gn && !--gn->refs) {
		parent = gn->parent;
		del_child(gn);
		if (gn->guest->root == gn)
			gn->guest->root = NULL;
		object_unref(gn->guest->obj);
		list_del(&gn->node.link);
		if (gn->buckets != &gn->first)
			free((void *)gn->buckets);
		free(gn->name);
		free(gn);
		gn = parent;
	}
}

/* The kernel forgot it. */
static void guest_forgotten(struct node *node)
{
	struct guest_node *gn = container_of(node, struct guest_node, node);

	gn->known = false;
	guest_unref(gn);
}

/* One reference. */
static struct guest_node *guest_node_new(struct guest_mount *guest, struct guest_node *parent,
					 const char *name)
{
	struct guest_node *gn = calloc(1, sizeof(*gn));

	if (!gn)
		return NULL;
	gn->name = strdup(name);
	if (!gn->name) {
		free(gn);
		return NULL;
	}
	node_init(guest->obj->fs, &gn->node, &guestfs_ops, guest_forgotten);
	gn->refs = 1;
	gn->guest = guest;
	object_ref(guest->obj);
	gn->parent = parent ? guest_ref(parent) : NULL;
	list_init(&gn->files);
	gn->buckets = &gn->first;
	gn->n_buckets = 1;
	add_child(gn);
	return gn;
}

/* The kernel is told of it: it holds a reference until it forgets. */
static struct node *known(struct guest_node *gn)
{
	if (!gn->known)
		guest_ref(gn);
	gn->known = true;
	return &gn->node;
}

struct node *guestfs_root(struct guest_mount *guest, const struct entry *entry)
{
	struct guest_node *gn = guest->root;
	struct node *node;

	if (gn)
		return known(gn);
	gn = guest_node_new(guest, NULL, "");
	if (!gn)
		return NULL;
	gn->entry = entry;
	guest->root = gn;
	node = known(gn);
	guest_unref(gn);
	return node;
}

struct guest_node *guest_child(const struct guest_node *dir, const char *name)
{
	const uint32_t hash = hash_of(name);
	struct guest_node *gn;

	for (gn = *bucket(dir, hash); gn; gn = gn->next)
		if (gn->hash == hash && !gn->detached && !strcmp(gn->name, name))
			return gn;
	return NULL;
}

void guest_move(struct guest_node *gn, struct guest_node *dir, char *name)
{
	struct guest_node *from = gn->parent;

	del_child(gn);
	gn->parent = guest_ref(dir);
	free(gn->name);
	gn->name = name;
	add_child(gn);
	guest_unref(from);
}

/* Put "/name" before the path that begins at *p, within `start`. */
static int prepend(char **p, const char *start, const char *name)
{
	const size_t n = strlen(name);

	if (n + 1 >= (size_t)(*p - start))
		return -ENAMETOOLONG;
	*p -= n + 1;
	**p = '/';
	memcpy(*p + 1, name, n);
	return 0;
}

int guest_put_path(struct buf *args, const struct guest_node *dir, const char *name)
{
	char path[PATH_MAX], *p = path + sizeof(path) - 1;
	const struct guest_node *gn;
	int rc = 0;

	*p = 0;
	if (name)
		rc = prepend(&p, path, name);
	for (gn = dir; gn->parent && !rc; gn = gn->parent)
		rc = gn->detached ? -ESTALE : prepend(&p, path, gn->name);
	if (!rc)
		buf_put_str(args, *p ? p : "/");
	return rc;
}

struct agent *guest_agent(const struct guest_node *gn)
{
	return gn->guest->ops->agent(gn->guest->obj);
}

uint64_t guest_epoch(const struct guest_node *gn)
{
	return gn->guest->ops->epoch(gn->guest->obj);
}

int guest_errno(const struct guest_node *gn, enum fs_op op, int err)
{
	return err == -EHOSTDOWN ? gn->guest->ops->lost : guest_errno_allowed(op, err);
}

int guest_usable(const struct guest_node *gn)
{
	return gn->guest->ops->usable(gn->guest->obj);
}

/* ---- attributes */

static unsigned depth_of(const struct guest_node *gn)
{
	unsigned depth = 0;

	for (; gn->parent; gn = gn->parent)
		depth++;
	return depth;
}

/*
 * Inode numbers are the guest's with the object's and the depth above them: a guest has several filesystems,
 * and a directory with the number of one above it would look like a loop to find and du (/dev and /dev/pts
 * both are 1).
 */
uint64_t guest_ino(const struct guest_node *gn, unsigned below, uint64_t ino)
{
	return (uint64_t)1 << 62 | (gn->guest->obj->ino >> 16 & 0x3fffff) << 40 |
	       (uint64_t)((depth_of(gn) + below) & 0xff) << 32 | ((ino ^ ino >> 32) & 0xffffffff);
}

static struct timespec to_timespec(uint64_t ns)
{
	int64_t seconds = (int64_t)ns / 1000000000, rest = (int64_t)ns % 1000000000;

	if (rest < 0) {
		seconds--;
		rest += 1000000000;
	}
	return (struct timespec){ (time_t)seconds, (long)rest };
}

/*
 * The kernel takes an inode with impossible attributes for broken, and does not give back the lookups and
 * handles that came with it.
 */
int guest_attr_get(struct reader *results, struct fs_attr *ret)
{
	fs_attr_get(results, ret);
	if (results->bad || ret->size > INT64_MAX || ret->blocks > INT64_MAX / 512)
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

void guest_put_maker(struct buf *args, const struct guest_node *dir, fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	const struct owner *owner = shown_owner(dir);
	const bool is_root = owner && owner->uid == ctx->uid;

	buf_put_u32(args, is_root ? 0 : ctx->uid);
	buf_put_u32(args, is_root ? 0 : ctx->gid);
}

void guest_stat(const struct guest_node *gn, const struct fs_attr *attr, struct stat *ret)
{
	const struct owner *shown = shown_owner(gn);

	*ret = (struct stat){
		.st_ino = guest_ino(gn, 0, attr->ino),
		.st_mode = shown_mode(gn, attr->mode),
		.st_nlink = attr->nlink,
		.st_uid = shown ? shown->uid : attr->uid,
		.st_gid = shown ? shown->gid : attr->gid,
		.st_rdev = attr->rdev,
		.st_size = (off_t)attr->size,
		.st_blocks = (blkcnt_t)attr->blocks,
		.st_blksize = PROTO_DATA_MAX,
		.st_atim = to_timespec(attr->atime_ns),
		.st_mtim = to_timespec(attr->mtime_ns),
		.st_ctim = to_timespec(attr->ctime_ns),
	};
}

/* ---- calls */

void guest_call_free(struct guest_call *gc)
{
	timer_stop(&gc->lock_timer);
	guest_unref(gc->node);
	guest_unref(gc->node2);
	free(gc->name);
	free(gc->name2);
	free(gc);
}

static void on_interrupt(void *arg)
{
	struct guest_call *gc = arg;

	gc->request = NULL;
	if (gc->opens)
		return; /* the handle in the answer has to be closed */
	agent_fs_cancel(gc->call);
	guest_call_free(gc);
}

void guest_call_give_up(struct guest_call *gc)
{
	struct reader nothing = reader_init("", 0);

	agent_fs_give_up(gc->call, GUEST_LOCKED_MS);
	gc->done(gc, -ETIMEDOUT, &nothing);
}

static void on_reply(void *arg, int err, struct reader *results)
{
	struct guest_call *gc = arg;

	timer_stop(&gc->lock_timer);
	gc->done(gc, guest_errno(gc->node, gc->op, err), results);
}

struct guest_call *guest_call_new(fuse_req_t req, struct guest_node *gn, const char *name,
				  void (*done)(struct guest_call *gc, int err, struct reader *results))
{
	struct request *request = request_new(req, 0);
	struct guest_call *gc;

	if (!request)
		return NULL;
	gc = calloc(1, sizeof(*gc));
	if (gc && name)
		gc->name = strdup(name);
	if (!gc || (name && !gc->name)) {
		free(gc);
		request_err(request, -ENOMEM);
		return NULL;
	}
	gc->request = request;
	gc->node = guest_ref(gn);
	gc->done = done;
	gc->caller = fuse_req_ctx(req)->pid;
	return gc;
}

void guest_call_send(struct guest_call *gc, enum fs_op op, int rc, struct buf *args)
{
	unsigned timeout_ms;

	if (!rc)
		rc = guest_usable(gc->node);
	if (!rc && args->failed)
		rc = -ENOMEM;
	gc->op = op;
	if (log_verbose() && gc->request)
		log_debug("request %" PRIu64 ": %s %s in fs/ of %s", gc->request->number, fs_op_name(op),
			  gc->name         ? gc->name
			  : gc->node->name ? gc->node->name
					   : "/",
			  gc->node->guest->obj->name);
	if (!rc) {
		timeout_ms = op == FS_RENAME && gc->node != gc->node2 ? GUEST_LOCKED_MS : GUEST_TIMEOUT_MS;
		gc->call = agent_fs(guest_agent(gc->node), op, args, timeout_ms, on_reply, gc);
		if (!gc->call)
			rc = -ENOMEM;
	}
	buf_release(args);
	if (rc) {
		request_err(gc->request, rc);
		guest_call_free(gc);
		return;
	}
	gc->request->cancel = on_interrupt;
	gc->request->arg = gc;
	guest_lock_watch(gc);
}

void guest_done_err(struct guest_call *gc, int err, struct reader *results)
{
	(void)results;
	request_err(gc->request, err);
	guest_call_free(gc);
}

/* ---- entries */

int guest_entry(struct guest_call *gc, struct reader *results, struct fuse_entry_param *ret,
		struct guest_node **ret_node)
{
	struct guest_node *dir = gc->node2 ? gc->node2 : gc->node;
	struct guest_node *gn = guest_child(dir, gc->name);
	struct fs_attr attr;

	if (guest_attr_get(results, &attr) || (gc->type && (attr.mode & S_IFMT) != gc->type))
		return -EIO;
	guest_link_attr(dir, results, &attr);
	if (!attr.nlink)
		attr.nlink = 1; /* it was found by its name */
	if (gn && (gn->ino != attr.ino || gn->type != (attr.mode & S_IFMT))) {
		gn->detached = true;
		gn = NULL;
	}
	if (gn)
		guest_ref(gn);
	else
		gn = guest_node_new(dir->guest, dir, gc->name);
	if (!gn)
		return -ENOMEM;
	gn->ino = attr.ino;
	gn->type = attr.mode & S_IFMT;
	gn->fifo |= gc->fifo;
	*ret = (struct fuse_entry_param){
		.ino = node_id(known(gn)),
		.generation = 1,
		.attr_timeout = GUEST_CACHE_S,
		.entry_timeout = GUEST_CACHE_S,
	};
	guest_stat(gn, &attr, &ret->attr);
	*ret_node = gn;
	guest_unref(gn);
	return 0;
}
