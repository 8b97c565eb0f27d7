/* SPDX-License-Identifier: MIT */
/*
 * ext4_inode.c - inodes of a new filesystem, their blocks, and directories
 *
 * libext2fs has the bitmaps, the checksums and the trees of extents. What it would do name by name and block
 * by block (read a directory to add to it, look for the next free block) is done here at once: blocks are
 * taken in runs, and a directory is written when all its names are known.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "snap/image/ext4_priv.h"
#include "util/zero.h"

/* A run of blocks in one extent: EXT_INIT_MAX_LEN of the kernel's fs/ext4/ext4_extents.h. */
enum { EXTENT_MAX = 1 << 15, ROOT_EXTENTS = 4 };

const struct ext4_attr ext4_parent_attr = { .mode = S_IFDIR | 0755 };

struct inode *ext4_inode_new(struct ext4 *fs, const struct ext4_attr *attr, struct err *err)
{
	struct inode *inode = calloc(1, sizeof(*inode));
	errcode_t code;

	if (!inode) {
		err_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	list_init(&inode->children);
	inode->type = attr->mode & S_IFMT;
	inode->rewrite = inode->type == S_IFDIR;
	code = ext2fs_new_inode(fs->fs, fs->near, (int)attr->mode, NULL, &inode->ino);
	if (code) {
		ext4_fail(fs, code, err);
		free(inode);
		return NULL;
	}
	fs->near = inode->ino;
	ext2fs_inode_alloc_stats2(fs->fs, inode->ino, +1, inode->type == S_IFDIR);
	return inode;
}

void ext4_inode_free(struct inode *inode)
{
	free(inode->target);
	free(inode);
}

/* Nanoseconds, and the two bits by which seconds outlast 2038: "Inode Timestamps" in the kernel's ext4
 * documentation. */
static uint32_t extra_time(const struct timespec *ts)
{
	return (uint32_t)ts->tv_nsec << 2 | (uint32_t)((ts->tv_sec - (int32_t)ts->tv_sec) >> 32 & 3);
}

static void set_times(struct ext2_inode_large *large, const struct timespec *ts)
{
	large->i_atime = large->i_mtime = large->i_ctime = large->i_crtime = (uint32_t)ts->tv_sec;
	large->i_atime_extra = large->i_mtime_extra = large->i_ctime_extra = large->i_crtime_extra =
		extra_time(ts);
}

static void set_owner(struct ext2_inode_large *large, const struct ext4_attr *attr)
{
	large->i_uid = (uint16_t)attr->uid;
	ext2fs_set_i_uid_high(*large, attr->uid >> 16);
	large->i_gid = (uint16_t)attr->gid;
	ext2fs_set_i_gid_high(*large, attr->gid >> 16);
}

void ext4_inode_fill(struct ext2_inode_large *ret, const struct ext4_attr *attr)
{
	*ret = (struct ext2_inode_large){
		.i_mode = (uint16_t)attr->mode,
		.i_links_count = 1,
		.i_extra_isize = sizeof(*ret) - EXT2_GOOD_OLD_INODE_SIZE,
	};
	set_owner(ret, attr);
	set_times(ret, &attr->mtime);
}

int ext4_inode_write(struct ext4 *fs, ext2_ino_t ino, struct ext2_inode_large *large, struct err *err)
{
	/* All of it, or what an inode had before that had its place would stay behind the new one. */
	uint8_t whole[EXT4_INODE] = { 0 };
	errcode_t code;

	memcpy(whole, large, sizeof(*large));
	code = ext2fs_write_inode_full(fs->fs, ino, (struct ext2_inode *)(void *)whole, sizeof(whole));
	return code ? ext4_fail(fs, code, err) : 0;
}

/* One that is there: with what lies behind its fields. */
static int read_whole(struct ext4 *fs, ext2_ino_t ino, uint8_t whole[EXT4_INODE], struct err *err)
{
	const errcode_t code =
		ext2fs_read_inode_full(fs->fs, ino, (struct ext2_inode *)(void *)whole, EXT4_INODE);

	return code ? ext4_fail(fs, code, err) : 0;
}

static int write_whole(struct ext4 *fs, ext2_ino_t ino, uint8_t whole[EXT4_INODE], struct err *err)
{
	const errcode_t code =
		ext2fs_write_inode_full(fs->fs, ino, (struct ext2_inode *)(void *)whole, EXT4_INODE);

	return code ? ext4_fail(fs, code, err) : 0;
}

int ext4_inode_set_attr(struct ext4 *fs, struct inode *inode, const struct ext4_attr *attr, struct err *err)
{
	uint8_t whole[EXT4_INODE] __attribute__((aligned(8)));
	struct ext2_inode_large *large = (void *)whole;
	int rc = read_whole(fs, inode->ino, whole, err);

	if (rc)
		return rc;
	large->i_mode = (uint16_t)(inode->type | (attr->mode & 07777));
	large->i_extra_isize = sizeof(*large) - EXT2_GOOD_OLD_INODE_SIZE;
	set_owner(large, attr);
	set_times(large, &attr->mtime);
	return write_whole(fs, inode->ino, whole, err);
}

/* In the inode, behind its fields, and in a block. */
int ext4_inode_drop_xattrs(struct ext4 *fs, struct inode *inode, struct err *err)
{
	uint8_t whole[EXT4_INODE] __attribute__((aligned(8)));
	struct ext2_inode_large *large = (void *)whole;
	errcode_t code = 0;
	int rc = read_whole(fs, inode->ino, whole, err);

	if (rc)
		return rc;
	if (ext2fs_file_acl_block(fs->fs, EXT2_INODE(large)))
		code = ext2fs_free_ext_attr(fs->fs, inode->ino, large);
	if (code)
		return ext4_fail(fs, code, err);
	memset(whole + sizeof(*large), 0, sizeof(whole) - sizeof(*large));
	inode->has_xattrs = false;
	return write_whole(fs, inode->ino, whole, err);
}

int ext4_inode_drop(struct ext4 *fs, const struct inode *inode, struct err *err)
{
	uint8_t whole[EXT4_INODE] __attribute__((aligned(8)));
	struct ext2_inode *disk = (void *)whole;
	errcode_t code = 0;
	int rc = read_whole(fs, inode->ino, whole, err);

	if (rc)
		return rc;
	disk->i_links_count = (uint16_t)inode->links;
	if (!inode->links) {
		if (ext2fs_file_acl_block(fs->fs, disk))
			code = ext2fs_free_ext_attr(fs->fs, inode->ino,
						    (struct ext2_inode_large *)(void *)whole);
		if (!code && ext2fs_inode_has_valid_blocks2(fs->fs, disk))
			code = ext2fs_punch(fs->fs, inode->ino, disk, NULL, 0, ~0ull);
		if (code)
			return ext4_fail(fs, code, err);
		ext2fs_inode_alloc_stats2(fs->fs, inode->ino, -1, inode->type == S_IFDIR);
		disk->i_dtime = (uint32_t)time(NULL);
	}
	return write_whole(fs, inode->ino, whole, err);
}

/* ---- blocks */

/* Up to `count` blocks in a row. */
static int take_blocks(struct ext4 *fs, uint32_t count, blk64_t *ret_at, uint32_t *ret_count, struct err *err)
{
	blk64_t n = 0;
	const errcode_t code = ext2fs_new_range(fs->fs, 0, fs->goal, count, NULL, ret_at, &n);

	if (code || !n)
		return ext4_fail(fs, code ? code : EXT2_ET_BLOCK_ALLOC_FAIL, err);
	if (n > count)
		n = count;
	ext2fs_block_alloc_stats_range(fs->fs, *ret_at, n, +1);
	fs->goal = *ret_at + n;
	*ret_count = (uint32_t)n;
	return 0;
}

static int add_extent(struct ext4 *fs, uint32_t block, uint64_t at, uint32_t count, struct err *err)
{
	struct file_extent *last = fs->extents && fs->nextents ? &fs->extents[fs->nextents - 1] : NULL, *more;

	fs->nblocks += count;
	if (last && last->block + last->count == block && last->at + last->count == at &&
	    last->count + count <= EXTENT_MAX) {
		last->count += count;
		return 0;
	}
	if (!fs->extents || fs->nextents == fs->extents_size) {
		more = reallocarray(fs->extents, fs->extents_size * 2 + 16, sizeof(*more));
		if (!more)
			return err_set(err, -ENOMEM, "out of memory");
		fs->extents = more;
		fs->extents_size = fs->extents_size * 2 + 16;
	}
	fs->extents[fs->nextents++] = (struct file_extent){ block, count, at };
	return 0;
}

/* Blocks of the file, to wherever there is room. */
static int store_blocks(struct ext4 *fs, uint32_t block, const uint8_t *data, uint32_t count, struct err *err)
{
	errcode_t code;
	uint32_t n = 0;
	blk64_t at = 0;
	int rc = 0;

	while (!rc && count) {
		rc = take_blocks(fs, count, &at, &n, err);
		if (rc)
			return rc;
		code = io_channel_write_blk64(fs->fs->io, at, (int)n, data);
		rc = code ? ext4_fail(fs, code, err) : add_extent(fs, block, at, n, err);
		block += n;
		data += (size_t)n * EXT4_BLOCK;
		count -= n;
	}
	return rc;
}

/* Blocks without anything in them are left out. */
static int flush_chunk(struct ext4 *fs, struct err *err)
{
	const uint32_t first = (uint32_t)(fs->chunk_at / EXT4_BLOCK);
	const uint32_t count = (uint32_t)((fs->chunk_len + EXT4_BLOCK - 1) / EXT4_BLOCK);
	uint32_t i = 0, n;
	int rc = 0;

	memset(fs->chunk + fs->chunk_len, 0, (size_t)count * EXT4_BLOCK - fs->chunk_len);
	while (!rc && i < count) {
		for (n = 0; i + n < count && !all_zero(fs->chunk + (size_t)(i + n) * EXT4_BLOCK, EXT4_BLOCK);)
			n++;
		if (n)
			rc = store_blocks(fs, first + i, fs->chunk + (size_t)i * EXT4_BLOCK, n, err);
		i += n ? n : 1;
	}
	fs->chunk_at += (uint64_t)count * EXT4_BLOCK;
	fs->chunk_len = 0;
	return rc;
}

/* Let the next byte be that at `offset`: not before what is there already. */
static int go_to(struct ext4 *fs, uint64_t offset, struct err *err)
{
	const uint64_t end = fs->chunk_at + fs->chunk_len;
	size_t gap;
	int rc;

	if (offset < end)
		return err_set(err, -EINVAL, "%.160s: its parts overlap", fs->path);
	if (offset >> 32 >= EXT4_BLOCK)
		return err_set(err, -EFBIG, "%.160s is larger than any file can be", fs->path);
	if (offset - fs->chunk_at >= EXT4_CHUNK) {
		rc = flush_chunk(fs, err);
		if (rc)
			return rc;
		if (offset >= fs->chunk_at)
			fs->chunk_at = offset / EXT4_BLOCK * EXT4_BLOCK;
	}
	gap = (size_t)(offset - fs->chunk_at) - fs->chunk_len;
	memset(fs->chunk + fs->chunk_len, 0, gap);
	fs->chunk_len += gap;
	return 0;
}

int ext4_inode_add_data(struct ext4 *fs, uint64_t offset, const void *data, size_t n, struct err *err)
{
	const uint8_t *p = data;
	size_t part;
	int rc = go_to(fs, offset, err);

	while (!rc && n) {
		part = EXT4_CHUNK - fs->chunk_len < n ? EXT4_CHUNK - fs->chunk_len : n;
		memcpy(fs->chunk + fs->chunk_len, p, part);
		fs->chunk_len += part;
		p += part;
		n -= part;
		if (fs->chunk_len == EXT4_CHUNK)
			rc = flush_chunk(fs, err);
	}
	if (!rc && (fs->chunk_at + fs->chunk_len) >> 32 >= EXT4_BLOCK)
		rc = err_set(err, -EFBIG, "%.160s is larger than any file can be", fs->path);
	return rc;
}

/* A few runs fit into the inode: "Extent Tree" in the kernel's ext4 documentation. */
static void put_root_extents(const struct ext4 *fs, struct ext2_inode_large *large)
{
	uint8_t *root = (void *)large->i_block;
	struct ext3_extent_header header = {
		.eh_magic = ext2fs_cpu_to_le16(EXT3_EXT_MAGIC),
		.eh_entries = ext2fs_cpu_to_le16((uint16_t)fs->nextents),
		.eh_max = ext2fs_cpu_to_le16(ROOT_EXTENTS),
	};
	size_t i;

	memcpy(root, &header, sizeof(header));
	for (i = 0; i < fs->nextents; i++) {
		const struct ext3_extent extent = {
			.ee_block = ext2fs_cpu_to_le32(fs->extents[i].block),
			.ee_len = ext2fs_cpu_to_le16((uint16_t)fs->extents[i].count),
			.ee_start_hi = ext2fs_cpu_to_le16((uint16_t)(fs->extents[i].at >> 32)),
			.ee_start = ext2fs_cpu_to_le32((uint32_t)fs->extents[i].at),
		};

		memcpy(root + sizeof(header) + i * sizeof(extent), &extent, sizeof(extent));
	}
}

static errcode_t put_extent_tree(struct ext4 *fs, struct ext2_inode_large *large, ext2_ino_t ino)
{
	ext2_extent_handle_t handle;
	errcode_t code = ext2fs_extent_open2(fs->fs, ino, EXT2_INODE(large), &handle);
	size_t i;

	if (code)
		return code;
	for (i = 0; !code && i < fs->nextents; i++) {
		struct ext2fs_extent extent = {
			.e_lblk = fs->extents[i].block,
			.e_len = fs->extents[i].count,
			.e_pblk = fs->extents[i].at,
		};

		code = ext2fs_extent_insert(handle, EXT2_EXTENT_INSERT_AFTER, &extent);
		if (!code)
			code = ext2fs_extent_fix_parents(handle);
	}
	ext2fs_extent_free(handle);
	return code;
}

int ext4_inode_end_data(struct ext4 *fs, struct ext2_inode_large *large, ext2_ino_t ino, uint64_t size,
			struct err *err)
{
	errcode_t code = 0;
	int rc = size >> 32 >= EXT4_BLOCK
			 ? err_set(err, -EFBIG, "%.160s is larger than any file can be", fs->path)
			 : flush_chunk(fs, err);

	if (rc)
		return rc;
	large->i_flags |= EXT4_EXTENTS_FL;
	if (fs->nextents <= ROOT_EXTENTS)
		put_root_extents(fs, large);
	else
		code = put_extent_tree(fs, large, ino);
	if (!code)
		code = ext2fs_iblk_add_blocks(fs->fs, EXT2_INODE(large), fs->nblocks);
	if (!code)
		code = ext2fs_inode_size_set(fs->fs, EXT2_INODE(large), size);
	fs->chunk_at = 0;
	fs->nextents = 0;
	fs->nblocks = 0;
	return code ? ext4_fail(fs, code, err) : ext4_inode_write(fs, ino, large, err);
}

/* ---- directories */

static int entry_type(mode_t type)
{
	switch (type) {
	case S_IFDIR:
		return EXT2_FT_DIR;
	case S_IFCHR:
		return EXT2_FT_CHRDEV;
	case S_IFBLK:
		return EXT2_FT_BLKDEV;
	case S_IFIFO:
		return EXT2_FT_FIFO;
	case S_IFLNK:
		return EXT2_FT_SYMLINK;
	default:
		return EXT2_FT_REG_FILE;
	}
}

/* A directory's blocks while they are filled. */
struct dir_blocks {
	uint8_t *data;
	size_t count, size;
	struct ext2_dir_entry *last; /* with all the room that is left in its block */
	size_t used;                 /* bytes of it */
};

static int add_block(struct ext4 *fs, ext2_ino_t dir, ext2_ino_t parent, struct dir_blocks *blocks,
		     struct err *err)
{
	errcode_t code;
	uint8_t *data;
	char *block;

	if (blocks->count == blocks->size) {
		data = reallocarray(blocks->data, blocks->size * 2 + 1, EXT4_BLOCK);
		if (!data)
			return err_set(err, -ENOMEM, "out of memory");
		blocks->data = data;
		blocks->size = blocks->size * 2 + 1;
	}
	code = ext2fs_new_dir_block(fs->fs, blocks->count ? 0 : dir, parent, &block);
	if (code)
		return ext4_fail(fs, code, err);
	data = blocks->data + blocks->count++ * EXT4_BLOCK;
	memcpy(data, block, EXT4_BLOCK);
	ext2fs_free_mem(&block);
	blocks->last = (void *)data;
	blocks->used = 0;
	if (blocks->count == 1) {
		blocks->last = (void *)(data + blocks->last->rec_len); /* ".." after "." */
		blocks->used = EXT2_DIR_REC_LEN(2);
	}
	return 0;
}

static int add_entry(struct ext4 *fs, ext2_ino_t dir, const struct name *name, struct dir_blocks *blocks,
		     struct err *err)
{
	const size_t want = EXT2_DIR_REC_LEN(name->len);
	struct ext2_dir_entry *entry;
	size_t room;
	int rc;

	if (!blocks->last || blocks->used + want > blocks->last->rec_len) {
		rc = add_block(fs, dir, 0, blocks, err);
		if (rc)
			return rc;
	}
	room = blocks->last->rec_len;
	entry = (void *)((uint8_t *)blocks->last + blocks->used);
	if (blocks->used)
		blocks->last->rec_len = (uint16_t)blocks->used;
	entry->inode = name->inode->ino;
	entry->rec_len = (uint16_t)(room - blocks->used);
	ext2fs_dirent_set_name_len(entry, name->len);
	ext2fs_dirent_set_file_type(entry, entry_type(name->inode->type));
	memcpy(entry->name, name->text, name->len);
	blocks->last = entry;
	blocks->used = want;
	return 0;
}

static int store_dir(struct ext4 *fs, ext2_ino_t ino, const struct dir_blocks *blocks, struct err *err)
{
	errcode_t code = 0;
	uint32_t done = 0, n, i;
	blk64_t at;
	int rc = 0;

	while (!rc && !code && done < blocks->count) {
		rc = take_blocks(fs, (uint32_t)(blocks->count - done), &at, &n, err);
		for (i = 0; !rc && !code && i < n; i++)
			code = ext2fs_write_dir_block4(
				fs->fs, at + i, blocks->data + (size_t)(done + i) * EXT4_BLOCK, 0, ino);
		if (!rc && !code)
			rc = add_extent(fs, done, at, n, err);
		done += n;
	}
	return code ? ext4_fail(fs, code, err) : rc;
}

static int write_dir(struct ext4 *fs, const struct name *dir, struct err *err)
{
	const ext2_ino_t ino = dir->inode->ino;
	uint8_t whole[EXT4_INODE] __attribute__((aligned(8)));
	struct ext2_inode_large *large = (void *)whole;
	struct dir_blocks blocks = { 0 };
	const struct name *name;
	uint32_t subdirs = 0;
	errcode_t code = 0;
	int rc;

	snprintf(fs->path, sizeof(fs->path), "%s", *dir->text ? dir->text : "/");
	rc = add_block(fs, ino, dir->parent ? dir->parent->inode->ino : ino, &blocks, err);
	list_for_each (name, &dir->inode->children, siblings) {
		subdirs += name->inode->type == S_IFDIR;
		if (!rc)
			rc = add_entry(fs, ino, name, &blocks, err);
	}
	if (!rc)
		rc = store_dir(fs, ino, &blocks, err);
	if (!rc)
		rc = read_whole(fs, ino, whole, err);
	if (!rc && ext2fs_inode_has_valid_blocks2(fs->fs, EXT2_INODE(large)))
		code = ext2fs_punch(fs->fs, ino, EXT2_INODE(large), NULL, 0, ~0ull);
	if (!rc && !code) {
		/* More than it can count: "dir_nlink" in ext4(5). */
		large->i_links_count = subdirs + 2 >= EXT2_LINK_MAX ? 1 : (uint16_t)(subdirs + 2);
		large->i_flags |= EXT4_EXTENTS_FL;
		if (fs->nextents <= ROOT_EXTENTS)
			put_root_extents(fs, large);
		else
			code = put_extent_tree(fs, large, ino);
	}
	if (!rc && !code)
		code = ext2fs_iblk_add_blocks(fs->fs, EXT2_INODE(large), fs->nblocks);
	if (!rc && !code)
		code = ext2fs_inode_size_set(fs->fs, EXT2_INODE(large), blocks.count * EXT4_BLOCK);
	if (!rc && !code)
		rc = write_whole(fs, ino, whole, err);
	fs->nextents = 0;
	fs->nblocks = 0;
	free(blocks.data);
	return code ? ext4_fail(fs, code, err) : rc;
}

static int write_below(struct ext4 *fs, const struct name *dir, struct err *err)
{
	const struct name *name;
	int rc = dir->inode->rewrite ? write_dir(fs, dir, err) : 0;

	list_for_each (name, &dir->inode->children, siblings)
		if (!rc && name->inode->type == S_IFDIR)
			rc = write_below(fs, name, err);
	return rc;
}

int ext4_inode_write_dirs(struct ext4 *fs, struct err *err)
{
	return write_below(fs, fs->root, err);
}
