/* SPDX-License-Identifier: MIT */
/* ext4_read.c - what an inode says, of a filesystem that may be hostile */
#include "snap/image/ext4_read.h"

#include <errno.h>
#include <string.h>
#include <sys/sysmacros.h>

int ext4_read_errno(errcode_t code)
{
	switch (code) {
	case 0:
		return 0;
	case EXT2_ET_FILE_NOT_FOUND:
		return -ENOENT;
	case EXT2_ET_NO_DIRECTORY:
		return -ENOTDIR;
	case EXT2_ET_NO_MEMORY:
	case ENOMEM:
		return -ENOMEM;
	default:
		return -EIO;
	}
}

int ext4_read_inode(ext2_filsys fs, ext2_ino_t ino, struct ext2_inode_large *ret)
{
	*ret = (struct ext2_inode_large){ 0 };
	if (!ino || ino > fs->super->s_inodes_count)
		return -EIO;
	return ext4_read_errno(
		ext2fs_read_inode_full(fs, ino, (struct ext2_inode *)(void *)ret, sizeof(*ret)));
}

uid_t ext4_uid(const struct ext2_inode_large *inode)
{
	return inode->i_uid | (uint32_t)inode->i_uid_high << 16;
}

gid_t ext4_gid(const struct ext2_inode_large *inode)
{
	return inode->i_gid | (uint32_t)inode->i_gid_high << 16;
}

/* Seconds are 32 bits and two more in `extra`, whose other 30 are nanoseconds ("Inode Timestamps" in the
 * kernel's ext4 documentation). */
struct timespec ext4_time(const struct ext2_inode_large *inode, uint32_t seconds, uint32_t extra)
{
	struct timespec time = { .tv_sec = (int32_t)seconds };

	if (inode->i_extra_isize >= 24) { /* up to i_crtime_extra */
		time.tv_sec += (int64_t)(extra & 3) << 32;
		time.tv_nsec = extra >> 2;
	}
	return time;
}

struct timespec ext4_mtime(const struct ext2_inode_large *inode)
{
	return ext4_time(inode, inode->i_mtime, inode->i_mtime_extra);
}

dev_t ext4_device(const struct ext2_inode_large *inode)
{
	uint32_t old = inode->i_block[0], new = inode->i_block[1];

	if (!LINUX_S_ISCHR(inode->i_mode) && !LINUX_S_ISBLK(inode->i_mode))
		return 0;
	if (old)
		return makedev(old >> 8 & 0xff, old & 0xff);
	return makedev((new & 0xfff00) >> 8, (new & 0xff) | (new >> 12 & 0xfff00));
}

int ext4_read_at(ext2_file_t file, void *data, unsigned n, uint64_t offset)
{
	unsigned got = 0;
	errcode_t code = ext2fs_file_llseek(file, offset, EXT2_SEEK_SET, NULL);

	if (!code)
		code = ext2fs_file_read(file, data, n, &got);
	return code ? ext4_read_errno(code) : (int)got;
}

int ext4_read_target(ext2_filsys fs, ext2_ino_t ino, const struct ext2_inode_large *inode, char ret[PATH_MAX])
{
	const uint64_t size = EXT2_I_SIZE(inode);
	ext2_file_t file;
	int rc;

	if (!size || size >= PATH_MAX)
		return -EIO;
	if (ext2fs_is_fast_symlink((struct ext2_inode *)(void *)(uintptr_t)inode)) {
		if (size > sizeof(inode->i_block))
			return -EIO;
		memcpy(ret, inode->i_block, size);
	} else {
		rc = ext4_read_errno(ext2fs_file_open(fs, ino, 0, &file));
		if (rc)
			return rc;
		rc = ext4_read_at(file, ret, (unsigned)size, 0);
		ext2fs_file_close(file);
		if (rc != (int)size)
			return rc < 0 ? rc : -EIO;
	}
	ret[size] = '\0';
	return memchr(ret, '\0', size) ? -EIO : 0;
}

bool is_entry_name(const char *name, int n)
{
	if (n <= 0 || n > EXT2_NAME_LEN || memchr(name, '/', (size_t)n) || memchr(name, '\0', (size_t)n))
		return false;
	return !(name[0] == '.' && (n == 1 || (n == 2 && name[1] == '.')));
}
