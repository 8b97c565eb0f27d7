/* SPDX-License-Identifier: MIT */
/*
 * ext4.c - make an ext4 filesystem in a file, through libext2fs
 *
 * mke2fs makes it empty, since it knows the defaults of the day; its -d option, which could fill it too,
 * takes owners from the host's files, which an ordinary user cannot set. The inode tables are marked as
 * zeroed: the file is new, and otherwise the kernel of every fresh sandbox would write tens of megabytes of
 * zeros into its overlay in the background.
 */
#include "cli/ext4.h"

#include <errno.h>
#include <et/com_err.h>
#include <ext2fs/ext2fs.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

struct ext4 {
	ext2_filsys fs;
	ext2_file_t open; /* the regular file being written, or NULL */
	ext2_ino_t last;  /* the entry made last */
	char path[4097];  /* its name, for messages */
};

static const struct ext4_attr parent_attr = { .mode = S_IFDIR | 0755 };

/* ---- errors */

static int fail(const struct ext4 *fs, errcode_t code, struct err *err)
{
	switch (code) {
	case EXT2_ET_BLOCK_ALLOC_FAIL:
	case EXT2_ET_INODE_ALLOC_FAIL:
		return err_set(err, -ENOSPC, "%.160s does not fit: the image needs to be larger (--size)",
			       fs->path);
	case EXT2_ET_NO_MEMORY:
	case ENOMEM:
		return err_set(err, -ENOMEM, "out of memory");
	default:
		return err_set(err, -EIO, "%.160s: %s", fs->path, error_message(code));
	}
}

/* ---- paths */

struct place {
	ext2_ino_t dir;
	char name[EXT2_NAME_LEN + 1];
};

static int set_attr(struct ext4 *fs, ext2_ino_t ino, const struct ext4_attr *attr, struct err *err)
{
	struct ext2_inode inode;
	errcode_t code = ext2fs_read_inode(fs->fs, ino, &inode);

	if (code)
		return fail(fs, code, err);
	inode.i_mode = (uint16_t)((inode.i_mode & S_IFMT) | (attr->mode & 07777));
	inode.i_uid = (uint16_t)attr->uid;
	ext2fs_set_i_uid_high(inode, attr->uid >> 16);
	inode.i_gid = (uint16_t)attr->gid;
	ext2fs_set_i_gid_high(inode, attr->gid >> 16);
	inode.i_atime = inode.i_mtime = inode.i_ctime = (uint32_t)attr->mtime;
	code = ext2fs_write_inode(fs->fs, ino, &inode);
	return code ? fail(fs, code, err) : 0;
}

/* Enter ino into a directory, which grows if it is full. */
static int enter(struct ext4 *fs, const struct place *at, ext2_ino_t ino, int type, struct err *err)
{
	errcode_t code = ext2fs_link(fs->fs, at->dir, at->name, ino, type);

	if (code == EXT2_ET_DIR_NO_SPACE) {
		code = ext2fs_expand_dir(fs->fs, at->dir);
		if (!code)
			code = ext2fs_link(fs->fs, at->dir, at->name, ino, type);
	}
	return code ? fail(fs, code, err) : 0;
}

static int make_dir(struct ext4 *fs, const struct place *at, ext2_ino_t *ret, struct err *err)
{
	errcode_t code = ext2fs_mkdir(fs->fs, at->dir, 0, at->name);

	if (code == EXT2_ET_DIR_NO_SPACE) {
		code = ext2fs_expand_dir(fs->fs, at->dir);
		if (!code)
			code = ext2fs_mkdir(fs->fs, at->dir, 0, at->name);
	}
	if (!code)
		code = ext2fs_lookup(fs->fs, at->dir, at->name, (int)strlen(at->name), NULL, ret);
	return code ? fail(fs, code, err) : 0;
}

/* 0 and *ret the inode, or 0 if there is none of that name. */
static int find(struct ext4 *fs, const struct place *at, ext2_ino_t *ret, struct err *err)
{
	const errcode_t code = ext2fs_lookup(fs->fs, at->dir, at->name, (int)strlen(at->name), NULL, ret);

	if (code == EXT2_ET_FILE_NOT_FOUND)
		*ret = 0;
	return code && code != EXT2_ET_FILE_NOT_FOUND ? fail(fs, code, err) : 0;
}

/* Go down into the directory at->name. */
static int descend(struct ext4 *fs, struct place *at, struct err *err)
{
	ext2_ino_t ino;
	int rc = find(fs, at, &ino, err);

	if (!rc && !ino) {
		rc = make_dir(fs, at, &ino, err);
		if (!rc)
			rc = set_attr(fs, ino, &parent_attr, err);
	} else if (!rc && ext2fs_check_directory(fs->fs, ino)) {
		return err_set(err, -ENOTDIR, "%.160s: %.60s is not a directory", fs->path, at->name);
	}
	at->dir = ino;
	return rc;
}

/* Find where path is to be, making directories on the way; ret->name is "" for the root itself. */
static int resolve(struct ext4 *fs, const char *path, struct place *ret, struct err *err)
{
	const char *p;
	size_t n;
	int rc;

	snprintf(fs->path, sizeof(fs->path), "%s", path);
	*ret = (struct place){ .dir = EXT2_ROOT_INO };
	for (p = path; *p; p += n) {
		p += strspn(p, "/");
		n = strcspn(p, "/");
		if (!n || (n == 1 && *p == '.'))
			continue;
		if (n == 2 && !memcmp(p, "..", 2))
			return err_set(err, -EINVAL, "%.160s: a path with .. is refused", path);
		if (n > EXT2_NAME_LEN)
			return err_set(err, -ENAMETOOLONG, "%.160s: a name is too long", path);
		if (*ret->name) {
			rc = descend(fs, ret, err);
			if (rc)
				return rc;
		}
		memcpy(ret->name, p, n);
		ret->name[n] = '\0';
	}
	return 0;
}

/* ---- replacing */

static int drop_inode(struct ext4 *fs, ext2_ino_t ino, struct err *err)
{
	struct ext2_inode inode;
	errcode_t code = ext2fs_read_inode(fs->fs, ino, &inode);

	if (code)
		return fail(fs, code, err);
	if (--inode.i_links_count == 0) {
		if (ext2fs_inode_has_valid_blocks2(fs->fs, &inode))
			code = ext2fs_punch(fs->fs, ino, &inode, NULL, 0, ~0ull);
		if (!code) {
			ext2fs_inode_alloc_stats2(fs->fs, ino, -1, 0);
			inode.i_dtime = (uint32_t)time(NULL);
		}
	}
	if (!code)
		code = ext2fs_write_inode(fs->fs, ino, &inode);
	return code ? fail(fs, code, err) : 0;
}

/* Make room for a name that is no directory. */
static int clear(struct ext4 *fs, const char *path, struct place *at, struct err *err)
{
	ext2_ino_t ino;
	errcode_t code;
	int rc = resolve(fs, path, at, err);

	if (rc)
		return rc;
	if (!*at->name)
		return err_set(err, -EISDIR, "the root of an image is a directory");
	rc = find(fs, at, &ino, err);
	if (rc || !ino)
		return rc;
	if (!ext2fs_check_directory(fs->fs, ino))
		return err_set(err, -EISDIR, "%.160s: there is a directory of that name", path);
	code = ext2fs_unlink(fs->fs, at->dir, at->name, ino, 0);
	return code ? fail(fs, code, err) : drop_inode(fs, ino, err);
}

/* The type as directories have it. */
static int entry_type(mode_t mode)
{
	switch (mode & S_IFMT) {
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

/* A new inode, entered at a place. */
static int make_inode(struct ext4 *fs, const struct place *at, struct ext2_inode *inode,
		      const struct ext4_attr *attr, struct err *err)
{
	ext2_extent_handle_t extents;
	errcode_t code;
	int rc;

	inode->i_mode = (uint16_t)attr->mode;
	inode->i_links_count = 1;
	code = ext2fs_new_inode(fs->fs, at->dir, (int)attr->mode, NULL, &fs->last);
	if (code)
		return fail(fs, code, err);
	rc = enter(fs, at, fs->last, entry_type(attr->mode), err);
	if (rc)
		return rc;
	ext2fs_inode_alloc_stats2(fs->fs, fs->last, +1, 0);
	if (S_ISREG(attr->mode)) {
		/* Writes an empty extent tree into the inode. */
		inode->i_flags |= EXT4_EXTENTS_FL;
		code = ext2fs_extent_open2(fs->fs, fs->last, inode, &extents);
		if (code)
			return fail(fs, code, err);
		ext2fs_extent_free(extents);
	}
	code = ext2fs_write_new_inode(fs->fs, fs->last, inode);
	return code ? fail(fs, code, err) : set_attr(fs, fs->last, attr, err);
}

/* ---- entries */

int ext4_dir(struct ext4 *fs, const char *path, const struct ext4_attr *attr, struct err *err)
{
	struct place at;
	int rc = resolve(fs, path, &at, err);

	if (rc)
		return rc;
	if (*at.name) {
		rc = descend(fs, &at, err);
		if (rc)
			return rc;
	}
	fs->last = at.dir;
	return set_attr(fs, at.dir, attr, err);
}

int ext4_symlink(struct ext4 *fs, const char *path, const char *target, const struct ext4_attr *attr,
		 struct err *err)
{
	struct place at;
	errcode_t code;
	int rc = clear(fs, path, &at, err);

	if (rc)
		return rc;
	code = ext2fs_symlink(fs->fs, at.dir, 0, at.name, target);
	if (code == EXT2_ET_DIR_NO_SPACE) {
		code = ext2fs_expand_dir(fs->fs, at.dir);
		if (!code)
			code = ext2fs_symlink(fs->fs, at.dir, 0, at.name, target);
	}
	if (code)
		return fail(fs, code, err);
	rc = find(fs, &at, &fs->last, err);
	return rc ? rc : set_attr(fs, fs->last, attr, err);
}

int ext4_node(struct ext4 *fs, const char *path, dev_t rdev, const struct ext4_attr *attr, struct err *err)
{
	const uint32_t major = major(rdev), minor = minor(rdev);
	struct ext2_inode inode = { 0 };
	struct place at;
	int rc;

	rc = clear(fs, path, &at, err);
	if (rc)
		return rc;
	if (!S_ISFIFO(attr->mode)) {
		/* Small numbers in the first word as ever, others in the second: fs/ext4/ext4.h,
		 * new_encode_dev() */
		if (major < 256 && minor < 256)
			inode.i_block[0] = major << 8 | minor;
		else
			inode.i_block[1] = (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
	}
	return make_inode(fs, &at, &inode, attr, err);
}

int ext4_link(struct ext4 *fs, const char *path, const char *existing, struct err *err)
{
	struct ext2_inode inode;
	struct place at, from;
	ext2_ino_t ino;
	errcode_t code;
	int rc;

	rc = resolve(fs, existing, &from, err);
	if (!rc)
		rc = find(fs, &from, &ino, err);
	if (rc)
		return rc;
	if (!ino || !ext2fs_check_directory(fs->fs, ino))
		return err_set(err, -ENOENT, "%.100s is a link to %.100s, which is not a file", path,
			       existing);
	rc = resolve(fs, path, &at, err);
	if (rc)
		return rc;
	if (at.dir == from.dir && !strcmp(at.name, from.name))
		return 0;
	rc = clear(fs, path, &at, err);
	if (rc)
		return rc;
	code = ext2fs_read_inode(fs->fs, ino, &inode);
	if (code)
		return fail(fs, code, err);
	rc = enter(fs, &at, ino, entry_type(inode.i_mode), err);
	if (rc)
		return rc;
	inode.i_links_count++;
	fs->last = ino;
	code = ext2fs_write_inode(fs->fs, ino, &inode);
	return code ? fail(fs, code, err) : 0;
}

int ext4_file(struct ext4 *fs, const char *path, const struct ext4_attr *attr, struct err *err)
{
	struct ext2_inode inode = { 0 };
	struct place at;
	errcode_t code;
	int rc;

	rc = clear(fs, path, &at, err);
	if (!rc)
		rc = make_inode(fs, &at, &inode, attr, err);
	if (rc)
		return rc;
	code = ext2fs_file_open(fs->fs, fs->last, EXT2_FILE_WRITE, &fs->open);
	return code ? fail(fs, code, err) : 0;
}

int ext4_write(struct ext4 *fs, uint64_t offset, const void *data, size_t n, struct err *err)
{
	const char *p = data;
	unsigned part, written;
	errcode_t code;

	code = ext2fs_file_llseek(fs->open, offset, EXT2_SEEK_SET, NULL);
	for (; !code && n; p += written, n -= written) {
		part = n < 1 << 20 ? (unsigned)n : 1 << 20;
		code = ext2fs_file_write(fs->open, p, part, &written);
	}
	return code ? fail(fs, code, err) : 0;
}

int ext4_end(struct ext4 *fs, uint64_t size, struct err *err)
{
	errcode_t code = ext2fs_file_set_size2(fs->open, (ext2_off64_t)size);
	const errcode_t closed = ext2fs_file_close(fs->open);

	fs->open = NULL;
	code = code ? code : closed;
	return code ? fail(fs, code, err) : 0;
}

int ext4_xattr(struct ext4 *fs, const char *name, const void *value, size_t n, struct err *err)
{
	struct ext2_xattr_handle *handle;
	errcode_t code, closed;

	code = ext2fs_xattrs_open(fs->fs, fs->last, &handle);
	if (code)
		return fail(fs, code, err);
	code = ext2fs_xattrs_read(handle);
	if (!code)
		code = ext2fs_xattr_set(handle, name, value, n);
	closed = ext2fs_xattrs_close(&handle);
	code = code ? code : closed;
	return code ? fail(fs, code, err) : 0;
}

/* ---- the filesystem */

static int run_mke2fs(const char *file, uint64_t size, struct err *err)
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
	const int rc = run_mke2fs(file, size, err);

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
	code = ext2fs_open(file, EXT2_FLAG_RW | EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &fs->fs);
	if (!code)
		code = ext2fs_read_bitmaps(fs->fs);
	if (code) {
		rc = fail(fs, code, err);
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

	if (fs->open)
		ext2fs_file_close(fs->open);
	if (fs->fs && keep)
		code = ext2fs_close_free(&fs->fs);
	else if (fs->fs)
		ext2fs_free(fs->fs);
	if (code) {
		snprintf(fs->path, sizeof(fs->path), "the new filesystem");
		rc = fail(fs, code, err);
	}
	free(fs);
	return rc;
}
