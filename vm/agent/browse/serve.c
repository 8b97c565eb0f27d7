/* SPDX-License-Identifier: MIT */
/*
 * serve.c - answer file operations from an ext4 filesystem
 *
 * The same answers as a guest's agent gives (vm/agent/guest/files.c), but nothing can be changed. Paths are
 * walked one directory at a time and links in them are not followed: who asks has resolved them.
 */
#include "vm/agent/browse/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/image/ext4_disk.h"
#include "snap/image/ext4_read.h"
#include "vm/agent/proto.h"

/* Entries of a directory listing go on until the reply is this large; a name, its attr
 * and a link's target fit above it. */
enum { READDIR_FULL = PROTO_PAYLOAD_MAX - 8192, NAME_LEN_MAX = 255 };

int server_open(struct browse_server *server, struct chain *chain, struct err *err)
{
	*server = (struct browse_server){ 0 };
	return ext4_view_open(chain, &server->fs, err);
}

void server_close(struct browse_server *server)
{
	for (unsigned i = 0; i < BROWSE_FILES_MAX; i++)
		if (server->open[i].id)
			ext2fs_file_close(server->open[i].file);
	ext4_view_close(server->fs);
}

/* ---- paths and attributes */

/* A path below a directory. */
static int find(ext2_filsys fs, const char *path, ext2_ino_t at, ext2_ino_t *ret)
{
	errcode_t rc;

	for (;;) {
		size_t n;

		path += strspn(path, "/");
		n = strcspn(path, "/");
		if (!n)
			break;
		if (n > NAME_LEN_MAX)
			return -ENAMETOOLONG;
		rc = ext2fs_check_directory(fs, at);
		if (!rc)
			rc = ext2fs_lookup(fs, at, path, (int)n, NULL, &at);
		if (rc)
			return ext4_read_errno(rc);
		path += n;
	}
	*ret = at;
	return 0;
}

static ext2_file_t handle_file(const struct browse_server *server, uint32_t id)
{
	const uint32_t slot = id % BROWSE_FILES_MAX;

	return id && server->open[slot].id == id ? server->open[slot].file : NULL;
}

/* A FILE. What is checked is what was said of it before, and nothing changes. */
static int get_file(struct browse_server *server, struct reader *args, ext2_ino_t *ret)
{
	const uint32_t handle = get_u32(args);
	const ext2_file_t file = handle_file(server, handle);
	char path[PATH_MAX];
	struct fs_id id;

	get_str(args, path, PATH_MAX);
	get_u8(args);
	fs_id_get(args, &id);
	if (args->bad || (!handle && path[0] != '/'))
		return -EINVAL;
	if (!handle)
		return find(server->fs, path, EXT2_ROOT_INO, ret);
	*ret = file ? ext2fs_file_get_inode_num(file) : 0;
	return file ? 0 : -EBADF;
}

static struct fs_time to_time(struct timespec time)
{
	return (struct fs_time){ time.tv_sec, (uint32_t)time.tv_nsec };
}

static void put_attr(struct buf *reply, ext2_filsys fs, ext2_ino_t ino, const struct ext2_inode_large *inode)
{
	const struct ext2_inode *small = (const struct ext2_inode *)(const void *)inode;
	uint64_t blocks = ext2fs_get_stat_i_blocks(fs, (struct ext2_inode *)(void *)(uintptr_t)small);
	const struct fs_attr attr = {
		.id = { .dev = 1, .ino = ino, .gen = inode->i_generation },
		.mode = inode->i_mode,
		.nlink = inode->i_links_count,
		.uid = ext4_uid(inode),
		.gid = ext4_gid(inode),
		.rdev = ext4_device(inode),
		.size = EXT2_I_SIZE(inode),
		.blocks = blocks,
		.atime = to_time(ext4_time(inode, inode->i_atime, inode->i_atime_extra)),
		.mtime = to_time(ext4_mtime(inode)),
		.ctime = to_time(ext4_time(inode, inode->i_ctime, inode->i_ctime_extra)),
	};

	fs_attr_put(reply, &attr);
}

static int look_up(struct browse_server *server, struct reader *args, ext2_ino_t *ret_ino,
		   struct ext2_inode_large *ret)
{
	int rc = get_file(server, args, ret_ino);

	return rc ? rc : ext4_read_inode(server->fs, *ret_ino, ret);
}

static int put_target(struct buf *reply, ext2_filsys fs, ext2_ino_t ino, const struct ext2_inode_large *inode)
{
	char target[PATH_MAX];
	const int rc = ext4_read_target(fs, ino, inode, target);

	if (!rc)
		buf_put_str(reply, target);
	return rc;
}

/* With a link's target. */
static int put_attr_of(struct buf *reply, ext2_filsys fs, ext2_ino_t ino,
		       const struct ext2_inode_large *inode)
{
	put_attr(reply, fs, ino, inode);
	/* One that is damaged is seen, and cannot be followed. */
	if (LINUX_S_ISLNK(inode->i_mode) && put_target(reply, fs, ino, inode))
		buf_put_str(reply, "");
	return 0;
}

static int op_getattr(struct browse_server *server, struct reader *args, struct buf *reply)
{
	struct ext2_inode_large inode;
	ext2_ino_t ino = 0;
	int rc = look_up(server, args, &ino, &inode);

	return rc ? rc : put_attr_of(reply, server->fs, ino, &inode);
}

static int op_lookup(struct browse_server *server, struct reader *args, struct buf *reply)
{
	char name[NAME_LEN_MAX + 1];
	struct ext2_inode_large inode;
	ext2_ino_t ino = 0;
	int rc = get_file(server, args, &ino);

	get_str(args, name, sizeof(name));
	if (!rc && (args->bad || !*name || strchr(name, '/')))
		rc = -EINVAL;
	if (!rc)
		rc = find(server->fs, name, ino, &ino);
	if (!rc)
		rc = ext4_read_inode(server->fs, ino, &inode);
	return rc ? rc : put_attr_of(reply, server->fs, ino, &inode);
}

static int op_readlink(struct browse_server *server, struct reader *args, struct buf *reply)
{
	struct ext2_inode_large inode;
	ext2_ino_t ino = 0;
	int rc = look_up(server, args, &ino, &inode);

	if (rc)
		return rc;
	return LINUX_S_ISLNK(inode.i_mode) ? put_target(reply, server->fs, ino, &inode) : -EINVAL;
}

/* ---- directories */

/* Entries have no stable place to name, so a cookie counts them; nothing changes between two calls. */
struct dirents {
	ext2_filsys fs;
	struct buf *entries;
	uint64_t at, from;
	uint32_t count;
	bool more;
	int rc;
};

static int add_entry(ext2_ino_t dir, int entry, struct ext2_dir_entry *dirent, int offset, int blocksize,
		     char *buf, void *arg)
{
	struct dirents *listing = arg;
	struct ext2_inode_large inode;
	char name[NAME_LEN_MAX + 1];
	int n = ext2fs_dirent_name_len(dirent);

	(void)dir;
	(void)offset;
	(void)blocksize;
	(void)buf;
	if (entry != DIRENT_OTHER_FILE || listing->at++ < listing->from)
		return 0;
	if (listing->entries->len >= READDIR_FULL) {
		listing->more = true;
		return DIRENT_ABORT;
	}
	/* A name that no guest could have made is none. */
	if (!is_entry_name(dirent->name, n))
		return 0;
	listing->rc = ext4_read_inode(listing->fs, dirent->inode, &inode);
	if (listing->rc)
		return DIRENT_ABORT;
	memcpy(name, dirent->name, (size_t)n);
	name[n] = '\0';
	buf_put_u64(listing->entries, listing->at);
	buf_put_str(listing->entries, name);
	put_attr_of(listing->entries, listing->fs, dirent->inode, &inode);
	listing->count++;
	return 0;
}

static int list(struct browse_server *server, ext2_ino_t ino, uint64_t from, struct buf *reply)
{
	struct buf entries = { 0 };
	struct dirents listing = { .fs = server->fs, .entries = &entries, .from = from };
	int rc = ext4_read_errno(ext2fs_dir_iterate2(server->fs, ino, 0, NULL, add_entry, &listing));

	if (!rc)
		rc = listing.rc;
	if (!rc && entries.failed)
		rc = -ENOMEM;
	if (!rc) {
		buf_put_u8(reply, listing.more);
		buf_put_u32(reply, listing.count);
		buf_add(reply, buf_bytes(&entries), entries.len);
	}
	buf_release(&entries);
	return rc;
}

static int list_dir(struct browse_server *server, bool opens, struct reader *args, struct buf *reply)
{
	struct ext2_inode_large inode;
	ext2_ino_t ino = 0;
	int rc = look_up(server, args, &ino, &inode);
	const uint64_t from = opens ? 0 : get_u64(args);

	if (args->bad)
		return -EINVAL;
	if (!rc && !LINUX_S_ISDIR(inode.i_mode))
		rc = -ENOTDIR;
	if (!rc && opens)
		buf_put_u32(reply, 0); /* a path is as good as a handle, where nothing changes */
	return rc ? rc : list(server, ino, from, reply);
}

/* ---- contents */

static int new_handle(struct browse_server *server, ext2_file_t file, uint64_t size, uint32_t *ret)
{
	for (uint32_t i = 1; i <= BROWSE_FILES_MAX; i++) {
		uint32_t id = server->last + i, slot = id % BROWSE_FILES_MAX;

		if (!id || server->open[slot].id)
			continue;
		server->open[slot].id = id;
		server->open[slot].file = file;
		server->open[slot].size = size;
		server->last = *ret = id;
		return 0;
	}
	return -ENFILE;
}

static int op_readdir(struct browse_server *server, struct reader *args, struct buf *reply)
{
	return list_dir(server, false, args, reply);
}

static int op_opendir(struct browse_server *server, struct reader *args, struct buf *reply)
{
	return list_dir(server, true, args, reply);
}

static int op_open(struct browse_server *server, struct reader *args, struct buf *reply)
{
	struct ext2_inode_large inode;
	ext2_file_t file = NULL;
	ext2_ino_t ino = 0;
	uint32_t id = 0, flags;
	int rc = look_up(server, args, &ino, &inode);

	flags = get_u32(args);
	if (args->bad)
		return -EINVAL;
	if (rc)
		return rc;
	if (LINUX_S_ISDIR(inode.i_mode))
		return -EISDIR;
	if (LINUX_S_ISLNK(inode.i_mode))
		return -ELOOP;
	if (!LINUX_S_ISREG(inode.i_mode))
		return -EACCES;
	if ((flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC)
		return -EROFS;
	rc = ext4_read_errno(ext2fs_file_open(server->fs, ino, 0, &file));
	if (!rc)
		rc = new_handle(server, file, EXT2_I_SIZE(&inode), &id);
	if (rc) {
		if (file)
			ext2fs_file_close(file);
		return rc;
	}
	buf_put_u32(reply, id);
	put_attr(reply, server->fs, ino, &inode);
	return 0;
}

static int op_read(struct browse_server *server, struct reader *args, struct buf *reply)
{
	const uint32_t id = get_u32(args), slot = id % BROWSE_FILES_MAX;
	const uint64_t offset = get_u64(args);
	const uint32_t size = get_u32(args);
	void *p;
	int rc;

	if (args->bad || size > PROTO_DATA_MAX)
		return -EINVAL;
	if (!handle_file(server, id))
		return -EBADF;
	if (offset >= server->open[slot].size)
		return 0;
	p = buf_reserve(reply, size);
	if (!p)
		return -ENOMEM;
	rc = ext4_read_at(server->open[slot].file, p, size, offset);
	if (rc > 0)
		buf_grow(reply, (size_t)rc);
	return rc < 0 ? rc : 0;
}

/* All of it counts as data, but for what follows its end. */
static int op_seek(struct browse_server *server, struct reader *args, struct buf *reply)
{
	const uint32_t id = get_u32(args);
	const uint64_t offset = get_u64(args);
	const uint32_t whence = get_u32(args);
	uint64_t size;

	if (args->bad || (whence != SEEK_DATA && whence != SEEK_HOLE))
		return -EINVAL;
	if (!handle_file(server, id))
		return -EBADF;
	size = server->open[id % BROWSE_FILES_MAX].size;
	if (offset >= size)
		return -ENXIO;
	buf_put_u64(reply, whence == SEEK_DATA ? offset : size);
	return 0;
}

static int op_close(struct browse_server *server, struct reader *args, struct buf *reply)
{
	const uint32_t id = get_u32(args), slot = id % BROWSE_FILES_MAX;

	(void)reply;
	if (args->bad || !handle_file(server, id))
		return -EBADF;
	server->open[slot].id = 0;
	ext2fs_file_close(server->open[slot].file);
	return 0;
}

static int op_statfs(struct browse_server *server, struct reader *args, struct buf *reply)
{
	struct ext2_super_block *super = server->fs->super;

	(void)args;
	buf_put_u64(reply, server->fs->blocksize);
	buf_put_u64(reply, ext2fs_blocks_count(super));
	buf_put_u64(reply, ext2fs_free_blocks_count(super));
	buf_put_u64(reply, 0); /* read-only: nothing is available */
	buf_put_u64(reply, super->s_inodes_count);
	buf_put_u64(reply, super->s_free_inodes_count);
	buf_put_u32(reply, NAME_LEN_MAX);
	return 0;
}

/* Only asking for attributes is allowed. */
static int op_setattr(struct browse_server *server, struct reader *args, struct buf *reply)
{
	struct reader again = *args;
	ext2_ino_t ino;
	int rc = get_file(server, &again, &ino);

	if (rc)
		return rc;
	return get_u32(&again) ? -EROFS : op_getattr(server, args, reply);
}

static int op_fsync(struct browse_server *server, struct reader *args, struct buf *reply)
{
	(void)server;
	(void)args;
	(void)reply;
	return 0;
}

static int op_getxattr(struct browse_server *server, struct reader *args, struct buf *reply)
{
	ext2_ino_t ino = 0;
	const int rc = get_file(server, args, &ino);

	return rc ? rc : serve_xattr(server->fs, ino, args, reply);
}

typedef int (*op_fn)(struct browse_server *server, struct reader *args, struct buf *reply);

static const op_fn ops[] = {
	[FS_GETATTR] = op_getattr,   [FS_SETATTR] = op_setattr, [FS_LOOKUP] = op_lookup,
	[FS_READDIR] = op_readdir,   [FS_OPENDIR] = op_opendir, [FS_READLINK] = op_readlink,
	[FS_OPEN] = op_open,         [FS_READ] = op_read,       [FS_CLOSE] = op_close,
	[FS_SEEK] = op_seek,         [FS_FSYNC] = op_fsync,     [FS_STATFS] = op_statfs,
	[FS_GETXATTR] = op_getxattr,
};

/* Whatever else there is changes something. */
int serve(struct browse_server *server, uint8_t op, struct reader *args, struct buf *reply)
{
	const bool known = op < sizeof(ops) / sizeof(ops[0]) && ops[op];
	const int rc = known ? ops[op](server, args, reply) : -EROFS;

	return rc ? rc : reply->failed ? -ENOMEM : 0;
}
