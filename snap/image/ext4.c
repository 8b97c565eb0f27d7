/* SPDX-License-Identifier: MIT */
/*
 * ext4.c - make an ext4 filesystem in a file, through libext2fs
 *
 * mke2fs makes it empty, since it knows the defaults of the day; its -d option, which could fill it too,
 * takes owners from the host's files, which an ordinary user cannot set. The inode tables are marked as
 * zeroed: the file is new, and otherwise the kernel of every fresh sandbox would write tens of megabytes of
 * zeros into its overlay in the background.
 */
#include "snap/image/ext4.h"

#include <errno.h>
#include <et/com_err.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snap/image/ext4_priv.h"

/* A link's target up to this length is in the inode. */
enum { FAST_LINK_MAX = 59 };

int ext4_fail(const struct ext4 *fs, errcode_t code, struct err *err)
{
	switch (code) {
	case EXT2_ET_BLOCK_ALLOC_FAIL:
	case EXT2_ET_INODE_ALLOC_FAIL:
		return err_set(err, -ENOSPC, "%.160s does not fit: the image needs to be larger (--size)",
			       fs->path);
	case EXT2_ET_NO_MEMORY:
	case ENOMEM:
		return err_set(err, -ENOMEM, "out of memory");
	case ENOSPC:
	case EDQUOT:
		return err_sys(err, (int)-code, "%.160s", fs->path);
	case EXT2_ET_EA_NO_SPACE:
		return err_set(err, -ENOSPC, "%.160s: its extended attributes are too large", fs->path);
	default:
		return err_set(err, -EIO, "%.160s: %s", fs->path, error_message(code));
	}
}

/* ---- entries */

/* Make room for a name that is no directory. */
static int clear(struct ext4 *fs, const char *path, struct place *at, struct err *err)
{
	struct name *name;
	int rc = ext4_name_resolve(fs, path, true, at, err);

	if (rc)
		return rc;
	if (!*at->name)
		return err_set(err, -EISDIR, "the root of an image is a directory");
	name = ext4_name_find(fs, at->dir, at->name);
	return name ? ext4_name_remove(fs, name, err) : 0;
}

/* An entry in the making: where it goes, its file, and that as it is written. */
struct new_entry {
	struct place at;
	struct inode *inode;
	struct ext2_inode_large large;
};

/* Written, and then entered. */
static int enter(struct ext4 *fs, struct new_entry *entry, struct err *err)
{
	int rc = ext4_inode_write(fs, entry->inode->ino, &entry->large, err);

	if (rc) {
		ext4_inode_free(entry->inode);
		return rc;
	}
	fs->last = entry->inode;
	return ext4_name_add(fs, &entry->at, entry->inode, err);
}

static int begin_inode(struct ext4 *fs, const struct ext4_attr *attr, struct new_entry *entry,
		       struct err *err)
{
	entry->inode = ext4_inode_new(fs, attr, err);
	ext4_inode_fill(&entry->large, attr);
	return entry->inode ? 0 : err ? err->code : -ENOMEM;
}

static int begin_entry(struct ext4 *fs, const char *path, const struct ext4_attr *attr,
		       struct new_entry *entry, struct err *err)
{
	int rc = clear(fs, path, &entry->at, err);

	return rc ? rc : begin_inode(fs, attr, entry, err);
}

int ext4_dir(struct ext4 *fs, const char *path, const struct ext4_attr *attr, struct err *err)
{
	struct new_entry entry;
	struct name *name;
	int rc = ext4_name_resolve(fs, path, true, &entry.at, err);

	if (rc)
		return rc;
	name = *entry.at.name ? ext4_name_find(fs, entry.at.dir, entry.at.name) : entry.at.dir;
	if (name && name->inode->type != S_IFDIR) {
		rc = ext4_name_remove(fs, name, err);
		if (rc)
			return rc;
		name = NULL;
	}
	if (!name) {
		rc = begin_inode(fs, attr, &entry, err);
		return rc ? rc : enter(fs, &entry, err);
	}
	ext4_name_mark(fs, name);
	fs->last = name->inode;
	if (name->inode->has_xattrs)
		rc = ext4_inode_drop_xattrs(fs, name->inode, err);
	return rc ? rc : ext4_inode_set_attr(fs, name->inode, attr, err);
}

int ext4_symlink(struct ext4 *fs, const char *path, const char *target, const struct ext4_attr *attr,
		 struct err *err)
{
	const size_t len = strlen(target);
	struct new_entry entry;
	struct inode *inode;
	int rc;

	if (!len || len >= EXT4_BLOCK)
		return err_set(err, len ? -ENAMETOOLONG : -EINVAL, "%.160s: a link %s", path,
			       len ? "whose target is too long" : "without a target");
	rc = begin_entry(fs, path, attr, &entry, err);
	if (rc)
		return rc;
	inode = entry.inode;
	inode->target = strdup(target);
	if (!inode->target)
		rc = err_set(err, -ENOMEM, "out of memory");
	else if (len > FAST_LINK_MAX)
		rc = ext4_inode_add_data(fs, 0, target, len, err);
	if (!rc && len > FAST_LINK_MAX) {
		rc = ext4_inode_end_data(fs, &entry.large, inode->ino, len, err);
	} else if (!rc) {
		memcpy(entry.large.i_block, target, len);
		entry.large.i_size = (uint32_t)len;
	}
	if (!rc)
		return enter(fs, &entry, err);
	ext4_inode_free(inode);
	return rc;
}

int ext4_node(struct ext4 *fs, const char *path, dev_t rdev, const struct ext4_attr *attr, struct err *err)
{
	const uint32_t major = major(rdev), minor = minor(rdev);
	struct new_entry entry;
	int rc = begin_entry(fs, path, attr, &entry, err);

	if (rc)
		return rc;
	if (!S_ISFIFO(attr->mode)) {
		/* Small numbers in the first word as ever, others in the second: fs/ext4/ext4.h,
		 * new_encode_dev() */
		if (major < 256 && minor < 256)
			entry.large.i_block[0] = major << 8 | minor;
		else
			entry.large.i_block[1] = (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
	}
	return enter(fs, &entry, err);
}

/* What `existing` names; links in its directory are followed, and it itself may be one. */
static struct name *find_existing(struct ext4 *fs, const char *existing, struct err *err)
{
	struct place from;

	if (ext4_name_resolve(fs, existing, false, &from, err))
		return NULL;
	return from.dir && *from.name ? ext4_name_find(fs, from.dir, from.name) : NULL;
}

int ext4_link(struct ext4 *fs, const char *path, const char *existing, struct err *err)
{
	struct err why = { 0 };
	struct name *from = find_existing(fs, existing, &why), *there;
	uint32_t links;
	struct place at;
	int rc;

	if (why.code)
		return err_set(err, why.code, "%s", why.text);
	if (!from || from->inode->type == S_IFDIR)
		return err_set(err, -ENOENT, "%.100s is a link to %.100s, which is not a file", path,
			       existing);
	rc = ext4_name_resolve(fs, path, true, &at, err);
	if (rc)
		return rc;
	if (!*at.name)
		return err_set(err, -EISDIR, "the root of an image is a directory");
	there = ext4_name_find(fs, at.dir, at.name);
	fs->last = from->inode;
	if (there && there->inode == from->inode) {
		ext4_name_mark(fs, there);
		return 0;
	}
	links = from->inode->links;
	if (links >= EXT2_LINK_MAX)
		return err_set(err, -EMLINK, "%.160s: the file has too many names", fs->path);
	if (there) {
		/* The file may be below what goes. */
		struct name *above;

		for (above = from; above; above = above->parent)
			if (above == there)
				return err_set(err, -EINVAL, "%.100s is a link to %.100s, which it replaces",
					       path, existing);
		rc = ext4_name_remove(fs, there, err);
		if (rc)
			return rc;
		fs->last = from->inode;
	}
	rc = ext4_name_add(fs, &at, from->inode, err);
	return rc ? rc : ext4_inode_drop(fs, from->inode, err); /* writes the number of its names */
}

int ext4_file(struct ext4 *fs, const char *path, const struct ext4_attr *attr, struct err *err)
{
	struct new_entry entry;
	int rc = begin_entry(fs, path, attr, &entry, err);

	if (rc)
		return rc;
	fs->last = fs->open = entry.inode;
	fs->attr = *attr;
	return ext4_name_add(fs, &entry.at, entry.inode, err);
}

int ext4_write(struct ext4 *fs, uint64_t offset, const void *data, size_t n, struct err *err)
{
	return ext4_inode_add_data(fs, offset, data, n, err);
}

int ext4_end(struct ext4 *fs, uint64_t size, struct err *err)
{
	const struct inode *inode = fs->open;
	struct ext2_inode_large large;

	fs->open = NULL;
	ext4_inode_fill(&large, &fs->attr);
	return ext4_inode_end_data(fs, &large, inode->ino, size, err);
}

int ext4_xattr(struct ext4 *fs, const char *name, const void *value, size_t n, struct err *err)
{
	struct ext2_xattr_handle *handle;
	errcode_t code, closed;

	if (!fs->last)
		return err_set(err, -EINVAL, "there is no file for an extended attribute");
	fs->last->has_xattrs = true;
	code = ext2fs_xattrs_open(fs->fs, fs->last->ino, &handle);
	if (code)
		return ext4_fail(fs, code, err);
	code = ext2fs_xattrs_read(handle);
	if (!code)
		code = ext2fs_xattr_set(handle, name, value, n);
	closed = ext2fs_xattrs_close(&handle);
	code = code ? code : closed;
	return code ? ext4_fail(fs, code, err) : 0;
}

/* Blocks that are taken, and that the inode says it has. */
static int count_blocks(struct ext4 *fs, ext2_ino_t ino, struct ext2_inode *inode, blk64_t *ret,
			struct err *err)
{
	const errcode_t code = ext2fs_read_inode(fs->fs, ino, inode);

	if (code)
		return ext4_fail(fs, code, err);
	*ret = ext2fs_blocks_count(fs->fs->super) - ext2fs_free_blocks_count(fs->fs->super) -
	       ext2fs_get_stat_i_blocks(fs->fs, inode) / (EXT4_BLOCK / 512);
	return 0;
}

int ext4_root_xattr(struct ext4 *fs, const char *name, const void *value, size_t n, struct err *err)
{
	blk64_t before = 0, after = 0;
	struct ext2_inode inode;
	errcode_t code;
	int rc;

	snprintf(fs->path, sizeof(fs->path), "/");
	fs->last = fs->root->inode;
	if (n <= EXT4_BLOCK / 2)
		return ext4_xattr(fs, name, value, n, err);
	/* The kernel's ext4 documentation, "Extended Attributes": EXT4_FEATURE_INCOMPAT_EA_INODE */
	ext2fs_set_feature_ea_inode(fs->fs->super);
	ext2fs_mark_super_dirty(fs->fs);
	rc = count_blocks(fs, EXT2_ROOT_INO, &inode, &before, err);
	if (!rc)
		rc = ext4_xattr(fs, name, value, n, err);
	if (!rc)
		rc = count_blocks(fs, EXT2_ROOT_INO, &inode, &after, err);
	if (rc || after == before)
		return rc;
	/* The blocks of the other inode are the file's, too, and libext2fs does not say so. */
	code = ext2fs_iblk_add_blocks(fs->fs, &inode, after - before);
	if (!code)
		code = ext2fs_write_inode(fs->fs, EXT2_ROOT_INO, &inode);
	return code ? ext4_fail(fs, code, err) : 0;
}

/* ---- the filesystem */

int ext4_make(const char *file, uint64_t size, struct err *err)
{
	/* Debian keeps it out of an ordinary user's PATH. */
	static const char *const paths[] = { "/usr/sbin/mke2fs", "/sbin/mke2fs" };
	char blocks[32];
	/* A journal of 4 MiB is the smallest there is: a sandbox commits little at a time. */
	const char *const argv[] = { "mke2fs",
				     "-q",
				     "-F",
				     "-t",
				     "ext4",
				     "-b",
				     "4096",
				     "-J",
				     "size=4",
				     "-m",
				     "0",
				     "-i",
				     "8192",
				     "-I",
				     "256",
				     "-E",
				     "root_owner=0:0,lazy_itable_init=0,assume_storage_prezeroed=1,nodiscard",
				     file,
				     blocks,
				     NULL };
	int rc, status;
	pid_t pid;

	snprintf(blocks, sizeof(blocks), "%" PRIu64, size / 4096);
	rc = posix_spawn(&pid, access(paths[0], X_OK) ? paths[1] : paths[0], NULL, NULL, (char *const *)argv,
			 environ);
	if (rc)
		return err_sys(err, -rc, "mke2fs");
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_sys(err, -errno, "mke2fs");
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return err_set(err, -EIO, "mke2fs failed");
	return 0;
}

int ext4_new(const char *file, uint64_t size, struct ext4 **ret, struct err *err)
{
	const int rc = ext4_make(file, size, err);

	return rc ? rc : ext4_open(file, ret, err);
}

int ext4_open(const char *file, struct ext4 **ret, struct err *err)
{
	struct ext4 *fs = calloc(1, sizeof(*fs));
	errcode_t code;
	int rc;

	if (!fs)
		return err_set(err, -ENOMEM, "out of memory");
	initialize_ext2_error_table();
	snprintf(fs->path, sizeof(fs->path), "the new filesystem");
	fs->near = EXT2_ROOT_INO;
	fs->chunk = malloc(EXT4_CHUNK);
	code = fs->chunk ? ext2fs_open(file, EXT2_FLAG_RW | EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &fs->fs)
			 : EXT2_ET_NO_MEMORY;
	if (!code)
		code = ext2fs_read_bitmaps(fs->fs);
	if (!code && (fs->fs->blocksize != EXT4_BLOCK || EXT2_INODE_SIZE(fs->fs->super) != EXT4_INODE))
		code = EXT2_ET_UNIMPLEMENTED;
	rc = code ? ext4_fail(fs, code, err) : ext4_names_open(fs, err);
	/* As a missing directory is made: no layer need say anything of the root, and mke2fs's is of today. */
	if (!rc)
		rc = ext4_inode_set_attr(fs, fs->root->inode, &ext4_parent_attr, err);
	if (rc) {
		ext4_close(fs, false, NULL);
		return rc;
	}
	*ret = fs;
	return 0;
}

int ext4_close(struct ext4 *fs, bool keep, struct err *err)
{
	errcode_t code = 0;
	int rc = 0;

	if (keep)
		rc = ext4_inode_write_dirs(fs, err);
	if (fs->fs && keep && !rc)
		code = ext2fs_close_free(&fs->fs);
	else if (fs->fs)
		ext2fs_free(fs->fs);
	if (code) {
		snprintf(fs->path, sizeof(fs->path), "the new filesystem");
		rc = ext4_fail(fs, code, err);
	}
	ext4_names_close(fs);
	free(fs->extents);
	free(fs->chunk);
	free(fs);
	return rc;
}
