/* SPDX-License-Identifier: MIT */
/* unpack.c - what is in an archive goes into a new filesystem */
#include "snap/image/unpack.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int unpack_failed(struct archive *archive, const char *what, struct err *err)
{
	const int code = archive_errno(archive);
	const char *why = archive_error_string(archive);

	return err_set(err, code > 0 && code < 4096 ? -code : -EIO, "%.120s: %.120s", what,
		       why ? why : "unreadable");
}

static int copy_data(const struct unpack *unpack, struct archive_entry *entry, const char *path,
		     struct err *err)
{
	uint64_t end = 0;
	const void *data;
	int64_t offset;
	size_t n;
	int rc;

	for (;;) {
		rc = archive_read_data_block(unpack->archive, &data, &n, &offset);
		if (rc == ARCHIVE_EOF)
			break;
		if (rc != ARCHIVE_OK)
			return unpack_failed(unpack->archive, path, err);
		rc = offset < 0 ? err_set(err, -EINVAL, "%.160s: a part of it has no place", path)
				: ext4_write(unpack->fs, (uint64_t)offset, data, n, err);
		if (rc)
			return rc;
		end = (uint64_t)offset + n;
	}
	/* A sparse file may end in a hole. */
	if (archive_entry_size_is_set(entry) && archive_entry_size(entry) > 0 &&
	    (uint64_t)archive_entry_size(entry) > end)
		end = (uint64_t)archive_entry_size(entry);
	return ext4_end(unpack->fs, end, err);
}

bool unpack_keeps_xattr(const char *name)
{
	static const char *const prefixes[] = { "user.", "trusted." };
	static const char *const names[] = { "security.capability", "system.posix_acl_access",
					     "system.posix_acl_default" };
	size_t i;

	/* Marks of the host's container engine, and ours. */
	if (!strncmp(name, "trusted.overlay.", 16) || !strncmp(name, "trusted.sbx.", 12))
		return false;
	for (i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
		if (!strncmp(name, prefixes[i], strlen(prefixes[i])) && name[strlen(prefixes[i])])
			return true;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(name, names[i]))
			return true;
	return false;
}

static int copy_xattrs(const struct unpack *unpack, struct archive_entry *entry, struct err *err)
{
	const char *name;
	const void *value;
	size_t n;
	int rc;

	archive_entry_xattr_reset(entry);
	while (archive_entry_xattr_next(entry, &name, &value, &n) == ARCHIVE_OK) {
		if (!name || strlen(name) > 255 || !unpack_keeps_xattr(name))
			continue;
		rc = ext4_xattr(unpack->fs, name, value, n, err);
		if (rc)
			return rc;
	}
	return 0;
}

static void get_attr(const struct unpack *unpack, struct archive_entry *entry, struct ext4_attr *ret)
{
	const long nsec = archive_entry_mtime_is_set(entry) ? archive_entry_mtime_nsec(entry) : 0;

	*ret = (struct ext4_attr){
		.mode = archive_entry_mode(entry),
		.uid = (uid_t)archive_entry_uid(entry),
		.gid = (gid_t)archive_entry_gid(entry),
		.mtime = { .tv_sec = archive_entry_mtime_is_set(entry) ? archive_entry_mtime(entry) : 0,
			   .tv_nsec = nsec >= 0 && nsec < 1000000000 ? nsec : 0 },
	};
	if (!unpack->is_dir || !geteuid())
		return;
	if (ret->uid == geteuid())
		ret->uid = 0;
	if (ret->gid == getegid())
		ret->gid = 0;
}

static bool in_dev(const char *path)
{
	while (*path == '/' || (*path == '.' && path[1] == '/'))
		path += *path == '/' ? 1 : 2;
	return !strncmp(path, "dev/", 4);
}

int unpack_entry(const struct unpack *unpack, struct archive_entry *entry, struct err *err)
{
	const char *full = archive_entry_pathname(entry), *path, *link = archive_entry_hardlink(entry);
	struct ext4_attr attr;
	int rc;

	if (!full || strlen(full) < unpack->strip)
		return err_set(err, -EINVAL, "a name in the archive cannot be read");
	path = full + unpack->strip;
	if (unpack->is_layer && ext4_is_whiteout(path))
		return ext4_whiteout(unpack->fs, path, err);
	if (link)
		return ext4_link(unpack->fs, path, strlen(link) < unpack->strip ? link : link + unpack->strip,
				 err);
	get_attr(unpack, entry, &attr);
	switch (attr.mode & S_IFMT) {
	case S_IFDIR:
		rc = ext4_dir(unpack->fs, path, &attr, err);
		break;
	case S_IFREG:
		rc = ext4_file(unpack->fs, path, &attr, err);
		if (!rc)
			rc = copy_data(unpack, entry, path, err);
		break;
	case S_IFLNK:
		if (!archive_entry_symlink(entry))
			return err_set(err, -EINVAL, "%.200s: a link without a target", path);
		rc = ext4_symlink(unpack->fs, path, archive_entry_symlink(entry), &attr, err);
		break;
	case S_IFCHR:
	case S_IFBLK:
		if (!in_dev(path))
			return err_set(err, -EPERM, "%.160s is a device, and these belong in dev/", path);
		return ext4_node(unpack->fs, path, archive_entry_rdev(entry), &attr, err);
	case S_IFIFO:
		return ext4_node(unpack->fs, path, 0, &attr, err);
	default:
		return 0; /* a socket: means nothing without its process */
	}
	return rc ? rc : copy_xattrs(unpack, entry, err);
}

int unpack_rest(const struct unpack *unpack, struct err *err)
{
	struct archive_entry *entry = archive_entry_new();
	int rc = 0;

	if (!entry)
		return err_set(err, -ENOMEM, "out of memory");
	while (!rc) {
		rc = archive_read_next_header2(unpack->archive, entry);
		if (rc == ARCHIVE_EOF) {
			rc = 0;
			break;
		}
		rc = rc < ARCHIVE_WARN ? unpack_failed(unpack->archive, "the archive", err)
				       : unpack_entry(unpack, entry, err);
	}
	archive_entry_free(entry);
	return rc;
}

/* ---- a directory */

static int unpack_found(struct unpack *unpack, struct archive_entry_linkresolver *links, const char *dir,
			struct err *err)
{
	struct archive_entry *entry = archive_entry_new(), *current, *later;
	int rc = 0;

	while (entry && !rc) {
		rc = archive_read_next_header2(unpack->archive, entry);
		if (rc == ARCHIVE_EOF) {
			archive_entry_free(entry);
			return 0;
		}
		if (rc < ARCHIVE_OK) {
			rc = unpack_failed(unpack->archive, dir, err);
			break;
		}
		/* On disk, a file's second name looks like another file. */
		current = entry;
		archive_read_disk_descend(unpack->archive);
		archive_entry_linkify(links, &current, &later);
		rc = unpack_entry(unpack, current, err);
	}
	if (!entry)
		return err_set(err, -ENOMEM, "out of memory");
	archive_entry_free(entry);
	return rc;
}

int unpack_dir(struct ext4 *fs, const char *dir, struct err *err)
{
	struct archive_entry_linkresolver *links = archive_entry_linkresolver_new();
	struct unpack unpack = { .fs = fs, .strip = strlen(dir), .is_dir = true };
	int rc;

	unpack.archive = archive_read_disk_new();
	if (!links || !unpack.archive) {
		rc = err_set(err, -ENOMEM, "out of memory");
		goto out;
	}
	archive_entry_linkresolver_set_strategy(links, ARCHIVE_FORMAT_TAR);
	archive_read_disk_set_symlink_physical(unpack.archive);
	/* Of a root with /proc and others mounted, the root alone. */
	archive_read_disk_set_behavior(unpack.archive, ARCHIVE_READDISK_NO_TRAVERSE_MOUNTS |
							       ARCHIVE_READDISK_NO_ACL |
							       ARCHIVE_READDISK_NO_FFLAGS);
	if (archive_read_disk_open(unpack.archive, dir) != ARCHIVE_OK)
		rc = unpack_failed(unpack.archive, dir, err);
	else
		rc = unpack_found(&unpack, links, dir, err);
out:
	archive_read_free(unpack.archive);
	if (links)
		archive_entry_linkresolver_free(links);
	return rc;
}
