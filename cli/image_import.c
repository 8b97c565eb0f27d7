/* SPDX-License-Identifier: MIT */
/*
 * image_import.c - from a directory or an archive to a filesystem
 *
 * libarchive reads both in the same way. Nothing is unpacked on the host: entries go straight into the new
 * filesystem, where a path has no way out, so a hostile archive can only make a strange image.
 *
 * In a directory an ordinary user's own files become root's, for they could not have been made root's there.
 */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/images.h"

enum { BLOCK = 128 * 1024 };

struct image_import {
	struct ext4 *fs;
	struct archive *archive;
	size_t strip; /* bytes of each path that are the source's own */
	bool is_dir;
};

static int archive_failed(struct image_import *import, const char *what, struct err *err)
{
	const int code = archive_errno(import->archive);

	return err_set(err, code > 0 && code < 4096 ? -code : -EIO, "%.120s: %.120s", what,
		       archive_error_string(import->archive) ? archive_error_string(import->archive)
							     : "unreadable");
}

static int copy_data(struct image_import *import, struct archive_entry *entry, const char *path,
		     struct err *err)
{
	uint64_t end = 0;
	const void *data;
	int64_t offset;
	size_t n;
	int rc;

	for (;;) {
		rc = archive_read_data_block(import->archive, &data, &n, &offset);
		if (rc == ARCHIVE_EOF)
			break;
		if (rc != ARCHIVE_OK)
			return archive_failed(import, path, err);
		rc = ext4_write(import->fs, (uint64_t)offset, data, n, err);
		if (rc)
			return rc;
		end = (uint64_t)offset + n;
	}
	/* A sparse file may end in a hole. */
	if (archive_entry_size_is_set(entry) && (uint64_t)archive_entry_size(entry) > end)
		end = (uint64_t)archive_entry_size(entry);
	return ext4_end(import->fs, end, err);
}

static int copy_xattrs(struct image_import *import, struct archive_entry *entry, struct err *err)
{
	const char *name;
	const void *value;
	size_t n;
	int rc;

	archive_entry_xattr_reset(entry);
	while (archive_entry_xattr_next(entry, &name, &value, &n) == ARCHIVE_OK) {
		/* Capabilities of programs, and what users put there; the host's security labels mean
		 * nothing. */
		if (strncmp(name, "user.", 5) != 0 && strcmp(name, "security.capability") != 0)
			continue;
		rc = ext4_xattr(import->fs, name, value, n, err);
		if (rc)
			return rc;
	}
	return 0;
}

static void get_attr(const struct image_import *import, struct archive_entry *entry, struct ext4_attr *ret)
{
	*ret = (struct ext4_attr){
		.mode = archive_entry_mode(entry),
		.uid = (uid_t)archive_entry_uid(entry),
		.gid = (gid_t)archive_entry_gid(entry),
		.mtime = archive_entry_mtime_is_set(entry) ? archive_entry_mtime(entry) : 0,
	};
	if (!import->is_dir || !geteuid())
		return;
	if (ret->uid == geteuid())
		ret->uid = 0;
	if (ret->gid == getegid())
		ret->gid = 0;
}

static int copy_entry(struct image_import *import, struct archive_entry *entry, struct err *err)
{
	const char *full = archive_entry_pathname(entry), *path, *link = archive_entry_hardlink(entry);
	struct ext4_attr attr;
	int rc;

	if (!full || strlen(full) < import->strip)
		return err_set(err, -EINVAL, "a name in the archive cannot be read");
	path = full + import->strip;
	if (link)
		return ext4_link(import->fs, path, strlen(link) < import->strip ? link : link + import->strip,
				 err);
	get_attr(import, entry, &attr);
	switch (attr.mode & S_IFMT) {
	case S_IFDIR:
		rc = ext4_dir(import->fs, path, &attr, err);
		break;
	case S_IFREG:
		rc = ext4_file(import->fs, path, &attr, err);
		if (!rc)
			rc = copy_data(import, entry, path, err);
		break;
	case S_IFLNK:
		if (!archive_entry_symlink(entry))
			return err_set(err, -EINVAL, "%.200s: a link without a target", path);
		return ext4_symlink(import->fs, path, archive_entry_symlink(entry), &attr, err);
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
		return ext4_node(import->fs, path, archive_entry_rdev(entry), &attr, err);
	default:
		return 0; /* a socket: means nothing without its process */
	}
	return rc ? rc : copy_xattrs(import, entry, err);
}

static int open_source(struct image_import *import, const char *source, struct err *err)
{
	struct stat st;
	int rc;

	if (stat(source, &st) < 0)
		return err_sys(err, -errno, "%.200s", source);
	import->is_dir = S_ISDIR(st.st_mode);
	import->archive = import->is_dir ? archive_read_disk_new() : archive_read_new();
	if (!import->archive)
		return err_set(err, -ENOMEM, "out of memory");
	if (import->is_dir) {
		archive_read_disk_set_symlink_physical(import->archive);
		/* Of a root with /proc and others mounted, the root alone. */
		archive_read_disk_set_behavior(import->archive, ARCHIVE_READDISK_NO_TRAVERSE_MOUNTS |
									ARCHIVE_READDISK_NO_ACL |
									ARCHIVE_READDISK_NO_FFLAGS);
		import->strip = strlen(source);
		rc = archive_read_disk_open(import->archive, source);
	} else {
		archive_read_support_filter_gzip(import->archive);
		archive_read_support_filter_bzip2(import->archive);
		archive_read_support_filter_xz(import->archive);
		archive_read_support_filter_zstd(import->archive);
		archive_read_support_filter_lz4(import->archive);
		archive_read_support_format_tar(import->archive);
		rc = archive_read_open_filename(import->archive, source, BLOCK);
	}
	return rc == ARCHIVE_OK ? 0 : archive_failed(import, source, err);
}

static int copy_all(struct image_import *import, struct archive_entry_linkresolver *links, const char *source,
		    struct err *err)
{
	struct archive_entry *entry = archive_entry_new(), *current, *later;
	int rc = 0;

	while (entry && !rc) {
		rc = archive_read_next_header2(import->archive, entry);
		if (rc == ARCHIVE_EOF) {
			archive_entry_free(entry);
			return 0;
		}
		if (rc < ARCHIVE_WARN || (rc == ARCHIVE_WARN && import->is_dir)) {
			rc = archive_failed(import, source, err);
			break;
		}
		/* On disk, a file's second name looks like another file. */
		current = entry;
		if (import->is_dir) {
			archive_read_disk_descend(import->archive);
			archive_entry_linkify(links, &current, &later);
		}
		rc = copy_entry(import, current, err);
	}
	if (!entry)
		return err_set(err, -ENOMEM, "out of memory");
	archive_entry_free(entry);
	return rc;
}

int image_import(struct ext4 *fs, const char *source, struct err *err)
{
	struct archive_entry_linkresolver *links = archive_entry_linkresolver_new();
	struct image_import import = { .fs = fs };
	int rc;

	if (!links)
		return err_set(err, -ENOMEM, "out of memory");
	archive_entry_linkresolver_set_strategy(links, ARCHIVE_FORMAT_TAR);
	rc = open_source(&import, source, err);
	if (!rc)
		rc = copy_all(&import, links, source, err);
	archive_read_free(import.archive);
	archive_entry_linkresolver_free(links);
	return rc;
}
