/* SPDX-License-Identifier: MIT */
/*
 * pack.c - from a filesystem to the one layer of an image
 *
 * Names of a directory go out sorted, so that the same files make the same layer. Every inode with more than one
 * name, and every directory, is remembered: a second name of a file is a hard link, one of a directory is damage
 * that could lead in circles.
 */
#include "snap/image/pack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "snap/image/ext4.h"
#include "snap/image/ext4_read.h"
#include "snap/image/unpack.h"
#include "snap/image_config.h"
#include "util/io.h"

enum { CHUNK = 256 << 10, SEEN_BUCKETS = 1 << 16, HOLE_MIN = 64 << 10 };

/* An inode that has been there already. */
struct seen {
	struct seen *next;
	ext2_ino_t ino;
	char path[]; /* of a file */
};

struct entry_name {
	ext2_ino_t ino;
	char *name;
};

struct pack {
	ext2_filsys fs;
	struct archive *tar, *zip;
	struct archive_entry *entry;
	struct confined_count *count;
	int out_fd, write_rc;
	struct sha256_ctx plain, packed;
	uint64_t size;
	struct buf *config;
	struct seen *seen[SEEN_BUCKETS];
	unsigned names, depth;
	char path[PATH_MAX]; /* "./etc/passwd" */
	uint8_t chunk[CHUNK];
};

static int failed(const struct pack *pack, int rc, struct err *err)
{
	if (pack->write_rc)
		return err_sys(err, pack->write_rc, "cannot write the layer");
	return err_sys(err, rc, "%.160s", pack->path);
}

static int tar_failed(const struct pack *pack, struct err *err)
{
	const int code = archive_errno(pack->tar);
	const char *why = archive_error_string(pack->tar);

	if (pack->write_rc)
		return failed(pack, 0, err);
	return err_set(err, code > 0 && code < 4096 ? -code : -EIO, "%.120s: %.100s", pack->path,
		       why ? why : "cannot be put into a tar");
}

/* ---- where the bytes go: the tar is summed up, packed, summed up again, and written */

static la_ssize_t write_packed(struct archive *archive, void *arg, const void *data, size_t n)
{
	struct pack *pack = arg;
	const int rc = write_all(pack->out_fd, data, n);

	if (rc) {
		pack->write_rc = rc;
		archive_set_error(archive, -rc, "cannot write");
		return -1;
	}
	sha256_update(&pack->packed, n, data);
	pack->size += n;
	return (la_ssize_t)n;
}

static la_ssize_t write_plain(struct archive *archive, void *arg, const void *data, size_t n)
{
	struct pack *pack = arg;

	sha256_update(&pack->plain, n, data);
	if (!pack->zip)
		return write_packed(archive, arg, data, n);
	if (archive_write_data(pack->zip, data, n) == (la_ssize_t)n)
		return (la_ssize_t)n;
	archive_set_error(archive, archive_errno(pack->zip), "cannot compress");
	return -1;
}

/* A stream of bytes without entries, compressed. The time of day stays out of it. */
static int open_zip(struct pack *pack)
{
	struct archive_entry *entry;

	pack->zip = archive_write_new();
	if (!pack->zip || archive_write_set_format_raw(pack->zip) != ARCHIVE_OK ||
	    archive_write_add_filter_gzip(pack->zip) != ARCHIVE_OK ||
	    archive_write_set_filter_option(pack->zip, "gzip", "compression-level", "4") != ARCHIVE_OK ||
	    archive_write_set_filter_option(pack->zip, "gzip", "timestamp", NULL) != ARCHIVE_OK ||
	    archive_write_set_bytes_per_block(pack->zip, 0) != ARCHIVE_OK ||
	    archive_write_open(pack->zip, pack, NULL, write_packed, NULL) != ARCHIVE_OK)
		return -ENOMEM;
	entry = archive_entry_new();
	if (!entry)
		return -ENOMEM;
	archive_entry_set_filetype(entry, AE_IFREG);
	if (archive_write_header(pack->zip, entry) != ARCHIVE_OK) {
		archive_entry_free(entry);
		return -EIO;
	}
	archive_entry_free(entry);
	return 0;
}

static int open_tar(struct pack *pack, bool gzip, struct err *err)
{
	int rc = gzip ? open_zip(pack) : 0;

	pack->tar = archive_write_new();
	pack->entry = archive_entry_new();
	if (rc || !pack->tar || !pack->entry || archive_write_set_format_pax(pack->tar) != ARCHIVE_OK ||
	    archive_write_set_format_option(pack->tar, "pax", "xattrheader", "SCHILY") != ARCHIVE_OK ||
	    archive_write_set_bytes_per_block(pack->tar, CHUNK) != ARCHIVE_OK ||
	    archive_write_set_bytes_in_last_block(pack->tar, 1) != ARCHIVE_OK ||
	    archive_write_open(pack->tar, pack, NULL, write_plain, NULL) != ARCHIVE_OK)
		return err_set(err, -ENOMEM, "cannot begin a tar");
	return 0;
}

static int close_tar(struct pack *pack, struct pack_result *ret, struct err *err)
{
	uint8_t sum[SHA256_DIGEST_SIZE];
	unsigned i;

	if (archive_write_close(pack->tar) != ARCHIVE_OK)
		return tar_failed(pack, err);
	if (pack->zip && archive_write_close(pack->zip) != ARCHIVE_OK)
		return failed(pack, -EIO, err);
	sha256_digest(&pack->plain, sizeof(sum), sum);
	for (i = 0; i < sizeof(sum); i++)
		snprintf(ret->diff_id + 2 * i, 3, "%02x", sum[i]);
	sha256_digest(&pack->packed, sizeof(sum), sum);
	for (i = 0; i < sizeof(sum); i++)
		snprintf(ret->digest + 2 * i, 3, "%02x", sum[i]);
	ret->size = pack->size;
	return 0;
}

/* ---- what was there already */

/* NULL: it was not. */
static const struct seen *find_seen(const struct pack *pack, ext2_ino_t ino)
{
	const struct seen *at = pack->seen[ino % SEEN_BUCKETS];

	while (at && at->ino != ino)
		at = at->next;
	return at;
}

static int add_seen(struct pack *pack, ext2_ino_t ino, const char *path)
{
	const size_t n = strlen(path) + 1;
	struct seen *seen = malloc(sizeof(*seen) + n);

	if (!seen)
		return -ENOMEM;
	seen->ino = ino;
	memcpy(seen->path, path, n);
	seen->next = pack->seen[ino % SEEN_BUCKETS];
	pack->seen[ino % SEEN_BUCKETS] = seen;
	return 0;
}

/* ---- attributes */

struct take_xattr {
	struct pack *pack;
	bool root;
	int rc;
};

static int take_xattr(char *name, char *value, size_t n, void *arg)
{
	struct take_xattr *take = arg;

	if (take->root && !strcmp(name, IMAGE_CONFIG_XATTR)) {
		if (n <= IMAGE_CONFIG_MAX)
			buf_add(take->pack->config, value, n);
		else
			take->rc = -E2BIG;
	} else if (unpack_keeps_xattr(name)) {
		archive_entry_xattr_add_entry(take->pack->entry, name, value, n);
	}
	return 0;
}

static int take_xattrs(struct pack *pack, ext2_ino_t ino)
{
	struct take_xattr take = { pack, ino == EXT2_ROOT_INO, 0 };
	struct ext2_xattr_handle *handle;
	errcode_t code = ext2fs_xattrs_open(pack->fs, ino, &handle);

	if (code)
		return ext4_read_errno(code);
	code = ext2fs_xattrs_read(handle);
	if (!code)
		code = ext2fs_xattrs_iterate(handle, take_xattr, &take);
	ext2fs_xattrs_close(&handle);
	return code ? ext4_read_errno(code) : take.rc;
}

static int begin_entry(struct pack *pack, ext2_ino_t ino, const struct ext2_inode_large *inode)
{
	const struct timespec mtime = ext4_mtime(inode);

	archive_entry_clear(pack->entry);
	archive_entry_set_pathname(pack->entry, pack->path);
	archive_entry_set_mode(pack->entry, inode->i_mode);
	archive_entry_set_uid(pack->entry, ext4_uid(inode));
	archive_entry_set_gid(pack->entry, ext4_gid(inode));
	archive_entry_set_mtime(pack->entry, mtime.tv_sec,
				mtime.tv_nsec < 1000000000 ? mtime.tv_nsec : 999999999);
	return take_xattrs(pack, ino);
}

static int put_header(struct pack *pack, struct err *err)
{
	/* A warning is of a name that is no UTF-8, which goes out as it is. */
	return archive_write_header(pack->tar, pack->entry) < ARCHIVE_WARN ? tar_failed(pack, err) : 0;
}

/* ---- data */

struct extents {
	struct archive_entry *entry;
	uint64_t block_size, size;
	uint64_t from, to; /* the part that grows, in bytes */
	bool any;
};

static void add_part(struct extents *extents)
{
	if (extents->to > extents->from)
		archive_entry_sparse_add_entry(extents->entry, (la_int64_t)extents->from,
					       (la_int64_t)(extents->to - extents->from));
}

/* Small holes are not worth their header. */
static int add_block(ext2_filsys fs, blk64_t *block, e2_blkcnt_t index, blk64_t ref, int offset, void *arg)
{
	struct extents *extents = arg;
	uint64_t at;

	(void)fs;
	(void)block;
	(void)ref;
	(void)offset;
	if (index < 0)
		return 0;
	at = (uint64_t)index * extents->block_size;
	if (at >= extents->size)
		return BLOCK_ABORT;
	if (!extents->any || at < extents->to || at - extents->to >= HOLE_MIN) {
		/* What goes backwards was written by nobody who means well: the file is whole then, zeros and all. */
		if (extents->any && at < extents->to) {
			archive_entry_sparse_clear(extents->entry);
			extents->from = 0;
			extents->to = extents->size;
			return BLOCK_ABORT;
		}
		add_part(extents);
		extents->from = at;
		extents->any = true;
	}
	extents->to = at + extents->block_size;
	if (extents->to > extents->size)
		extents->to = extents->size;
	return 0;
}

static int find_holes(struct pack *pack, ext2_ino_t ino, const struct ext2_inode_large *inode)
{
	struct extents extents = { .entry = pack->entry,
				   .block_size = pack->fs->blocksize,
				   .size = EXT2_I_SIZE(inode) };
	const uint64_t stored =
		ext2fs_get_stat_i_blocks(pack->fs, (struct ext2_inode *)(void *)(uintptr_t)inode) * 512;
	errcode_t code;

	if (stored + HOLE_MIN > extents.size || inode->i_flags & EXT4_INLINE_DATA_FL)
		return 0;
	code = ext2fs_block_iterate3(pack->fs, ino, BLOCK_FLAG_READ_ONLY | BLOCK_FLAG_DATA_ONLY, NULL,
				     add_block, &extents);
	if (code)
		return ext4_read_errno(code);
	add_part(&extents);
	/* The end of the file, where that is a hole: a part without bytes says where it is. */
	if (extents.to < extents.size)
		archive_entry_sparse_add_entry(pack->entry, (la_int64_t)extents.size, 0);
	return 0;
}

/* Bytes from..to of the file, which are in the tar or, in a hole, only counted by libarchive. */
static int put_data(struct pack *pack, ext2_file_t file, uint64_t size, struct err *err)
{
	uint64_t at = 0;
	int n;

	while (at < size) {
		n = ext4_read_at(file, pack->chunk,
				 size - at < CHUNK ? (unsigned)(size - at) : (unsigned)CHUNK, at);
		if (n <= 0)
			return failed(pack, n ? n : -EIO, err);
		if (archive_write_data(pack->tar, pack->chunk, (size_t)n) < 0)
			return tar_failed(pack, err);
		at += (uint64_t)n;
		pack->count->done += (uint64_t)n;
	}
	return 0;
}

static int put_file(struct pack *pack, ext2_ino_t ino, const struct ext2_inode_large *inode, struct err *err)
{
	const uint64_t size = EXT2_I_SIZE(inode);
	ext2_file_t file;
	int rc = ext4_read_errno(ext2fs_file_open(pack->fs, ino, 0, &file));

	if (rc)
		return failed(pack, rc, err);
	archive_entry_set_size(pack->entry, (la_int64_t)size);
	rc = find_holes(pack, ino, inode);
	rc = rc ? failed(pack, rc, err) : put_header(pack, err);
	if (!rc)
		rc = put_data(pack, file, size, err);
	ext2fs_file_close(file);
	return rc;
}

static int put_link(struct pack *pack, ext2_ino_t ino, const struct ext2_inode_large *inode, struct err *err)
{
	char target[PATH_MAX];
	const int rc = ext4_read_target(pack->fs, ino, inode, target);

	if (rc)
		return failed(pack, rc, err);
	archive_entry_set_symlink(pack->entry, target);
	return put_header(pack, err);
}

/* ---- directories */

struct dir_names {
	struct pack *pack;
	struct entry_name *children;
	size_t n, size;
	int rc;
};

static int add_child(ext2_ino_t dir, int entry, struct ext2_dir_entry *dirent, int offset, int blocksize,
		     char *buf, void *arg)
{
	const int len = ext2fs_dirent_name_len(dirent);
	struct dir_names *listing = arg;
	struct entry_name *more;

	(void)dir;
	(void)offset;
	(void)blocksize;
	(void)buf;
	if (entry != DIRENT_OTHER_FILE || !is_entry_name(dirent->name, len))
		return 0;
	if (listing->pack->names++ >= EXT4_NAMES_MAX) {
		listing->rc = -E2BIG;
		return DIRENT_ABORT;
	}
	if (listing->n == listing->size) {
		listing->size = listing->size ? 2 * listing->size : 16;
		more = reallocarray(listing->children, listing->size, sizeof(*more));
		listing->rc = more ? 0 : -ENOMEM;
		if (!more)
			return DIRENT_ABORT;
		listing->children = more;
	}
	more = &listing->children[listing->n];
	*more = (struct entry_name){ dirent->inode, strndup(dirent->name, (size_t)len) };
	if (!more->name) {
		listing->rc = -ENOMEM;
		return DIRENT_ABORT;
	}
	listing->n++;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry_name *)a)->name, ((const struct entry_name *)b)->name);
}

static int put_child(struct pack *pack, const struct entry_name *child, size_t at, struct err *err);

/* The entries of the directory pack->path, whose length is `at`. */
static int put_children(struct pack *pack, ext2_ino_t ino, size_t at, struct err *err)
{
	struct dir_names listing = { .pack = pack };
	int rc = ext4_read_errno(ext2fs_dir_iterate2(pack->fs, ino, 0, NULL, add_child, &listing));
	size_t i;

	if (!rc)
		rc = listing.rc;
	if (rc)
		failed(pack, rc, err);
	if (listing.n)
		qsort(listing.children, listing.n, sizeof(*listing.children), by_name);
	for (i = 0; !rc && i < listing.n; i++)
		rc = put_child(pack, &listing.children[i], at, err);
	for (i = 0; i < listing.n; i++)
		free(listing.children[i].name);
	free(listing.children);
	pack->path[at] = '\0';
	return rc;
}

static int put_dir(struct pack *pack, ext2_ino_t ino, size_t at, struct err *err)
{
	int rc;

	if (find_seen(pack, ino))
		return err_set(err, -EIO, "%.160s: a directory that is in another place, too", pack->path);
	rc = add_seen(pack, ino, "");
	if (rc)
		return failed(pack, rc, err);
	rc = put_header(pack, err);
	if (rc)
		return rc;
	if (pack->depth >= EXT4_DEPTH_MAX)
		return failed(pack, -ENAMETOOLONG, err);
	pack->depth++;
	rc = put_children(pack, ino, at, err);
	pack->depth--;
	return rc;
}

/* *ret_done: it was written as another name of a file. */
static int put_hardlink(struct pack *pack, ext2_ino_t ino, const struct ext2_inode_large *inode,
			bool *ret_done, struct err *err)
{
	const struct seen *seen = find_seen(pack, ino);
	int rc;

	*ret_done = seen;
	if (!seen) {
		rc = inode->i_links_count > 1 ? add_seen(pack, ino, pack->path) : 0;
		return rc ? failed(pack, rc, err) : 0;
	}
	if (!*seen->path)
		return failed(pack, -EIO, err);
	archive_entry_clear(pack->entry);
	archive_entry_set_pathname(pack->entry, pack->path);
	archive_entry_set_mode(pack->entry, inode->i_mode);
	archive_entry_set_hardlink(pack->entry, seen->path);
	return put_header(pack, err);
}

static int put_inode(struct pack *pack, ext2_ino_t ino, size_t at, struct err *err)
{
	struct ext2_inode_large inode;
	bool done = false;
	int rc = ext4_read_inode(pack->fs, ino, &inode);

	if (rc)
		return failed(pack, rc, err);
	if (LINUX_S_ISSOCK(inode.i_mode) ||
	    (ino != EXT2_ROOT_INO && !strcmp(pack->path, "./lost+found") && LINUX_S_ISDIR(inode.i_mode)))
		return 0;
	if (!LINUX_S_ISDIR(inode.i_mode)) {
		rc = put_hardlink(pack, ino, &inode, &done, err);
		if (rc || done)
			return rc;
	}
	rc = begin_entry(pack, ino, &inode);
	if (rc)
		return failed(pack, rc, err);
	switch (inode.i_mode & S_IFMT) {
	case S_IFDIR:
		return put_dir(pack, ino, at, err);
	case S_IFREG:
		return put_file(pack, ino, &inode, err);
	case S_IFLNK:
		return put_link(pack, ino, &inode, err);
	case S_IFCHR:
	case S_IFBLK:
		archive_entry_set_rdev(pack->entry, ext4_device(&inode));
		return put_header(pack, err);
	case S_IFIFO:
		return put_header(pack, err);
	default:
		return failed(pack, -EIO, err);
	}
}

static int put_child(struct pack *pack, const struct entry_name *child, size_t at, struct err *err)
{
	const size_t n = strlen(child->name);

	if (at + 1 + n >= sizeof(pack->path))
		return failed(pack, -ENAMETOOLONG, err);
	pack->path[at] = '/';
	memcpy(pack->path + at + 1, child->name, n + 1);
	if (!strncmp(child->name, ".wh.", 4))
		return err_set(err, -EINVAL, "%.160s: in a layer that name means that something is not there",
			       pack->path);
	return put_inode(pack, child->ino, at + 1 + n, err);
}

int pack_layer(ext2_filsys fs, int out_fd, bool gzip, struct confined_count *count, struct pack_result *ret,
	       struct buf *ret_config, struct err *err)
{
	struct pack *pack = calloc(1, sizeof(*pack));
	struct seen *seen;
	size_t i;
	int rc;

	if (!pack)
		return err_set(err, -ENOMEM, "out of memory");
	*ret = (struct pack_result){ 0 };
	pack->fs = fs;
	pack->out_fd = out_fd;
	pack->count = count;
	pack->config = ret_config;
	pack->path[0] = '.';
	sha256_init(&pack->plain);
	sha256_init(&pack->packed);
	count->total = (ext2fs_blocks_count(fs->super) - ext2fs_free_blocks_count(fs->super)) * fs->blocksize;
	rc = open_tar(pack, gzip, err);
	if (!rc)
		rc = put_inode(pack, EXT2_ROOT_INO, 1, err);
	if (!rc)
		rc = close_tar(pack, ret, err);
	archive_entry_free(pack->entry);
	if (pack->tar)
		archive_write_free(pack->tar);
	if (pack->zip)
		archive_write_free(pack->zip);
	for (i = 0; i < SEEN_BUCKETS; i++) {
		while ((seen = pack->seen[i])) {
			pack->seen[i] = seen->next;
			free(seen);
		}
	}
	free(pack);
	return rc;
}
