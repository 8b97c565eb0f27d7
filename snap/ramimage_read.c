/* SPDX-License-Identifier: MIT */
/*
 * ramimage_read.c - read or verify a RAM image
 *
 * Threads take batches of blocks, read neighbours in the file at once, and check each block before they
 * believe it. Content goes to the memfd with write(2), which is faster than a mapping of it: no fault for
 * each page, and no zeroing of a page that is then overwritten. Pages of zeroes stay holes.
 */
#include "snap/ramimage.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "snap/parallel.h"
#include "util/io.h"

enum { BATCH = 4 };

struct ram_reader {
	const struct ramimage *image;
	const struct ramimage_files *files;
	int memfd; /* -1: only verify */
};

/* A thread's own. */
struct read_scratch {
	uint8_t block[RAMIMAGE_BLOCK];
	uint8_t in[BATCH * RAMIMAGE_BLOCK];
};

/* Names the file a block is in. */
static int damaged(const struct ram_reader *reader, size_t i, const char *how, struct err *err)
{
	uint32_t source = reader->image->blocks[i].source;

	if (source)
		return err_set(err, -EIO, "%s is damaged: block %zu, which is in object %s, %s",
			       reader->files->name, i, reader->image->sources[source - 1], how);
	return err_set(err, -EIO, "%s is damaged: block %zu %s", reader->files->name, i, how);
}

static bool page_zero(const uint8_t *page, size_t n)
{
	return !page[0] && !memcmp(page, page + 1, n - 1);
}

/* Write the block's pages that are not zero, neighbours together. */
static int put_pages(int memfd, const uint8_t *block, size_t len, uint64_t offset)
{
	size_t at = 0, page;
	int rc = 0;

	while (!rc && at < len) {
		size_t end = at;

		while (end < len) {
			page = len - end < RAM_PAGE ? len - end : RAM_PAGE;
			if (page_zero(block + end, page))
				break;
			end += page;
		}
		if (end > at)
			rc = pwrite_all(memfd, block + at, end - at, offset + at);
		at = end + RAM_PAGE;
	}
	return rc;
}

static int take_block(const struct ram_reader *reader, size_t i, const uint8_t *bytes, uint8_t *scratch,
		      struct err *err)
{
	const struct ramimage_block *block = &reader->image->blocks[i];
	size_t len = ramimage_block_len(reader->image, i);
	const uint8_t *content = bytes;
	int rc;

	if (XXH3_64bits(bytes, block->len) != block->stored)
		return damaged(reader, i, "does not match its checksum", err);
	if (block->len < len) {
		content = scratch;
		if (LZ4_decompress_safe((const char *)bytes, (char *)scratch, (int)block->len, (int)len) !=
		    (int)len)
			return damaged(reader, i, "cannot be decompressed", err);
	}
	if (reader->memfd < 0)
		return XXH3_64bits(content, len) == block->content
			       ? 0
			       : damaged(reader, i, "does not have the expected content", err);
	rc = put_pages(reader->memfd, content, len, (uint64_t)i * RAMIMAGE_BLOCK);
	return rc ? err_sys(err, rc, "cannot fill the RAM") : 0;
}

static int read_batch(void *arg, size_t batch, void *scratch_arg, struct err *err)
{
	const struct ram_reader *reader = arg;
	struct read_scratch *scratch = scratch_arg;
	const struct ramimage_block *blocks = reader->image->blocks;
	size_t first = batch * BATCH, last = first + BATCH, i, end, len;
	int fd, rc;

	if (last > reader->image->nblocks)
		last = reader->image->nblocks;
	for (i = first; i < last; i = end) {
		end = i + 1;
		len = blocks[i].len;
		if (!len)
			continue;
		while (end < last && blocks[end].len && blocks[end].source == blocks[i].source &&
		       blocks[end].offset == blocks[i].offset + len)
			len += blocks[end++].len;
		fd = blocks[i].source ? reader->files->sources[blocks[i].source - 1] : reader->files->fd;
		rc = pread_all(fd, scratch->in, len, blocks[i].offset);
		if (rc)
			return rc == -EIO ? damaged(reader, i, "cannot be read", err)
					  : err_sys(err, rc, "cannot read %s", reader->files->name);
		for (len = 0; i < end; len += blocks[i++].len) {
			rc = take_block(reader, i, scratch->in + len, scratch->block, err);
			if (rc)
				return rc;
		}
	}
	return 0;
}

static int read_all(const struct ram_reader *reader, struct progress *progress, struct err *err)
{
	return parallel_run((reader->image->nblocks + BATCH - 1) / BATCH, read_batch, (void *)reader,
			    sizeof(struct read_scratch), progress, err);
}

int ramimage_read(const struct ramimage *image, const struct ramimage_files *files, struct progress *progress,
		  int *ret_memfd, struct err *err)
{
	struct ram_reader reader = { image, files, -1 };
	int rc;

	reader.memfd = memfd_new("sbx-template", image->size);
	if (reader.memfd < 0)
		return err_sys(err, reader.memfd, "cannot make memory for %s", files->name);
	rc = read_all(&reader, progress, err);
	if (!rc) {
		rc = memfd_seal(reader.memfd);
		if (rc)
			err_sys(err, rc, "cannot seal the memory of %s", files->name);
	}
	if (rc)
		close(reader.memfd);
	else
		*ret_memfd = reader.memfd;
	return rc;
}

int ramimage_digest_sources(const struct ramimage *image, const struct ramimage_files *files,
			    char ret[DIGEST_TEXT], struct err *err)
{
	const struct ram_reader reader = { image, files, -1 };
	uint8_t *bytes = malloc(2 * RAMIMAGE_BLOCK), *content;
	struct digest digest;
	int rc = 0;

	if (!bytes)
		return err_set(err, -ENOMEM, "out of memory");
	digest_begin(&digest, image->size);
	for (size_t i = 0; !rc && i < image->nblocks; i++) {
		const struct ramimage_block *block = &image->blocks[i];
		const size_t len = ramimage_block_len(image, i);

		if (!block->source)
			continue;
		rc = pread_all(files->sources[block->source - 1], bytes, block->len, block->offset);
		if (rc)
			err_sys(err, rc, "cannot read %s", files->name);
		else
			rc = take_block(&reader, i, bytes, bytes + RAMIMAGE_BLOCK, err);
		content = block->len < len ? bytes + RAMIMAGE_BLOCK : bytes;
		if (!rc)
			digest_block(&digest, (uint64_t)i * RAMIMAGE_BLOCK, content, len);
	}
	free(bytes);
	if (!rc)
		digest_end(&digest, ret);
	return rc;
}

int ramimage_verify(const struct ramimage *image, const struct ramimage_files *files,
		    struct progress *progress, struct err *err)
{
	struct ram_reader reader = { image, files, -1 };
	uint64_t own = RAMIMAGE_HEADER;

	for (size_t i = 0; i < image->nblocks; i++)
		if (!image->blocks[i].source)
			own += image->blocks[i].len;
	if (own != image->data_end)
		return err_set(err, -EIO, "%s is damaged: it holds more or less than the blocks it lists",
			       files->name);
	return read_all(&reader, progress, err);
}
