/* SPDX-License-Identifier: MIT */
/* ext4_disk.c - a disk for libext2fs: layers, and on top what the journal holds for it */
#include "snap/image/ext4_disk.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "snap/image/ext4_journal.h"

/* libext2fs passes no context to a manager's open. */
static struct {
	struct chain *chain;
	struct redo *redo; /* by block, each block once */
	size_t n;
	unsigned block_size;
} disk;

void disk_set_chain(struct chain *chain)
{
	disk.chain = chain;
}

static int by_block(const void *a, const void *b)
{
	const struct redo *x = a, *y = b;

	if (x->block != y->block)
		return x->block < y->block ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

void disk_set_redo(struct redo *redo, size_t n, unsigned block_size)
{
	size_t kept = 0;

	if (n)
		qsort(redo, n, sizeof(*redo), by_block);
	for (size_t i = 0; i < n; i++)
		if (i + 1 == n || redo[i + 1].block != redo[i].block)
			redo[kept++] = redo[i];
	free(disk.redo);
	disk.redo = redo;
	disk.n = kept;
	disk.block_size = block_size;
}

/* The first redone block at or behind this one; disk.n if there is none. */
static size_t find_redo(uint64_t block)
{
	size_t low = 0, high = disk.n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (disk.redo[mid].block < block)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Put the part of a redone block that lies in [offset, offset + n) over data. */
static int overlay(const struct redo *redo, uint8_t *data, size_t n, uint64_t offset)
{
	uint64_t start = redo->block * disk.block_size, end = start + disk.block_size;
	uint64_t from = start > offset ? start : offset, to = end < offset + n ? end : offset + n;
	const uint32_t magic = htobe32(JOURNAL_MAGIC);
	int rc = chain_read(disk.chain, data + (from - offset), (size_t)(to - from),
			    redo->from * disk.block_size + (from - start), NULL);

	if (!rc && redo->escaped)
		for (uint64_t at = from; at < to && at < start + sizeof(magic); at++)
			data[at - offset] = ((const uint8_t *)&magic)[at - start];
	return rc;
}

int disk_read(void *data, size_t n, uint64_t offset)
{
	int rc = chain_read(disk.chain, data, n, offset, NULL);

	if (rc || !disk.n || !n)
		return rc;
	for (size_t i = find_redo(offset / disk.block_size);
	     !rc && i < disk.n && disk.redo[i].block * disk.block_size < offset + n; i++)
		rc = overlay(&disk.redo[i], data, n, offset);
	return rc;
}

/* ---- the manager: all that a read-only user of libext2fs calls */

static errcode_t manager_open(const char *name, int flags, io_channel *ret)
{
	struct struct_io_channel *channel;

	if (flags & IO_FLAG_RW)
		return EROFS;
	channel = calloc(1, sizeof(*channel));
	if (!channel)
		return ENOMEM;
	channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
	channel->manager = &disk_io_manager;
	channel->name = strdup(name);
	channel->block_size = 1024;
	channel->refcount = 1;
	if (!channel->name) {
		free(channel);
		return ENOMEM;
	}
	*ret = channel;
	return 0;
}

static errcode_t manager_close(io_channel channel)
{
	if (--channel->refcount)
		return 0;
	free(channel->name);
	free(channel);
	return 0;
}

static errcode_t manager_set_blksize(io_channel channel, int size)
{
	channel->block_size = size;
	return 0;
}

static errcode_t manager_read(io_channel channel, unsigned long long block, int count, void *data)
{
	/* A negative count is one of bytes. */
	size_t n = count < 0 ? (size_t) - (long)count : (size_t)count * (size_t)channel->block_size;
	uint64_t offset;

	if (__builtin_mul_overflow(block, (uint64_t)channel->block_size, &offset))
		return EINVAL;
	return disk_read(data, n, offset) ? EIO : 0;
}

static errcode_t manager_read32(io_channel channel, unsigned long block, int count, void *data)
{
	return manager_read(channel, block, count, data);
}

static errcode_t manager_write(io_channel channel, unsigned long long block, int count, const void *data)
{
	(void)channel;
	(void)block;
	(void)count;
	(void)data;
	return EROFS;
}

static errcode_t manager_write32(io_channel channel, unsigned long block, int count, const void *data)
{
	return manager_write(channel, block, count, data);
}

static errcode_t manager_flush(io_channel channel)
{
	(void)channel;
	return 0;
}

struct struct_io_manager disk_io_manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER,
	.name = "layers",
	.open = manager_open,
	.close = manager_close,
	.set_blksize = manager_set_blksize,
	.read_blk = manager_read32,
	.write_blk = manager_write32,
	.flush = manager_flush,
	.read_blk64 = manager_read,
	.write_blk64 = manager_write,
};

/* ---- the filesystem */

int ext4_view_open(struct chain *chain, ext2_filsys *ret, struct err *err)
{
	const int flags = EXT2_FLAG_64BITS | EXT2_FLAG_SOFTSUPP_FEATURES;
	int rc;

	*ret = NULL;
	disk_set_chain(chain);
	if (ext2fs_open("disk", flags, 0, 0, &disk_io_manager, ret))
		return err_set(err, -EIO, "the disk holds no ext4 filesystem");
	rc = journal_apply(*ret, err);
	if (rc <= 0)
		return rc;
	ext2fs_close_free(ret);
	if (ext2fs_open("disk", flags, 0, 0, &disk_io_manager, ret))
		return err_set(err, -EIO, "the filesystem cannot be opened after its journal was read");
	return 0;
}

void ext4_view_close(ext2_filsys fs)
{
	if (fs)
		ext2fs_close_free(&fs);
	disk_set_redo(NULL, 0, 0);
	disk_set_chain(NULL);
}
