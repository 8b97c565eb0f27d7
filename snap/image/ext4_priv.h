/* SPDX-License-Identifier: MIT */
/* ext4_priv.h - the parts of a new filesystem: names (ext4_names.c), inodes and their data (ext4_inode.c) */
#ifndef SBX_SNAP_IMAGE_EXT4_PRIV_H
#define SBX_SNAP_IMAGE_EXT4_PRIV_H

#include <ext2fs/ext2fs.h>

#include "snap/image/ext4.h"
#include "util/list.h"

enum { EXT4_BLOCK = 4096, EXT4_INODE = 256, EXT4_CHUNK = 1 << 20 };

/* An inode that has names. */
struct inode {
	ext2_ino_t ino;
	uint32_t links; /* names; those of a directory are not counted */
	mode_t type;    /* S_IFMT bits */
	bool has_xattrs;
	bool rewrite;         /* a directory that is not on the disk as it is here */
	char *target;         /* of a symbolic link */
	struct list children; /* of a directory: struct name */
};

/* A name in a directory. The root has one without text. */
struct name {
	struct list siblings;
	struct name *chain; /* the next one with its hash */
	struct name *parent;
	struct inode *inode;
	uint32_t layer; /* the last that brought it, or something below it */
	uint16_t depth;
	uint8_t len;
	char text[];
};

struct file_extent {
	uint32_t block; /* of the file */
	uint32_t count;
	uint64_t at; /* on the disk */
};

struct ext4 {
	ext2_filsys fs;
	char path[4097]; /* what is under way, for messages */

	struct name *root, **buckets;
	size_t nbuckets, nnames;
	uint64_t seed;
	uint32_t layer;

	struct inode *last; /* the entry made last */
	ext2_ino_t near;    /* where new inodes are looked for */
	blk64_t goal;       /* and blocks */

	/* The regular file being written. Its bytes gather in `chunk`, which begins at a block. */
	struct inode *open;
	struct ext4_attr attr;
	uint8_t *chunk;
	uint64_t chunk_at;
	size_t chunk_len;
	struct file_extent *extents;
	size_t nextents, extents_size;
	uint64_t nblocks;
};

/* Any failure of libext2fs, said of fs->path. */
int ext4_fail(const struct ext4 *fs, errcode_t code, struct err *err);

/* ---- names */

struct place {
	struct name *dir;
	char name[EXT2_NAME_LEN + 1]; /* "": the root itself */
};

int ext4_names_open(struct ext4 *fs, struct err *err);
void ext4_names_close(struct ext4 *fs);
/* Find where path is to be; missing directories are made if `make`, else *ret->dir is NULL. */
int ext4_name_resolve(struct ext4 *fs, const char *path, bool make, struct place *ret, struct err *err);
struct name *ext4_name_find(const struct ext4 *fs, const struct name *dir, const char *text);
/* Takes the inode over, also when it fails. */
int ext4_name_add(struct ext4 *fs, const struct place *at, struct inode *inode, struct err *err);
/* It and all below it, and what has no name then. */
int ext4_name_remove(struct ext4 *fs, struct name *name, struct err *err);
/* The layer under way has brought it. */
void ext4_name_mark(struct ext4 *fs, struct name *name);

/* ---- inodes */

/* A new one, not written yet; attr->mode says of which type. */
struct inode *ext4_inode_new(struct ext4 *fs, const struct ext4_attr *attr, struct err *err);
void ext4_inode_free(struct inode *inode);
/* Give its place on the disk, and all it holds, back. */
int ext4_inode_drop(struct ext4 *fs, const struct inode *inode, struct err *err);
/* The inode as it is to be on the disk, without content. */
void ext4_inode_fill(struct ext2_inode_large *ret, const struct ext4_attr *attr);
int ext4_inode_write(struct ext4 *fs, ext2_ino_t ino, struct ext2_inode_large *large, struct err *err);
int ext4_inode_set_attr(struct ext4 *fs, struct inode *inode, const struct ext4_attr *attr, struct err *err);
/* It has no extended attributes any more. */
int ext4_inode_drop_xattrs(struct ext4 *fs, struct inode *inode, struct err *err);
/* The file's data: bytes come in rising order, then the inode is written. */
int ext4_inode_add_data(struct ext4 *fs, uint64_t offset, const void *data, size_t n, struct err *err);
int ext4_inode_end_data(struct ext4 *fs, struct ext2_inode_large *large, ext2_ino_t ino, uint64_t size,
			struct err *err);
/* Write all directories. */
int ext4_inode_write_dirs(struct ext4 *fs, struct err *err);

/* A directory of the kind that is made on the way to an entry. */
extern const struct ext4_attr ext4_parent_attr;

#endif
