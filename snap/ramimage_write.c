/* SPDX-License-Identifier: MIT */
/*
 * ramimage_write.c - write a RAM image
 *
 * Threads take batches of blocks. One reads its blocks (where there may be something: reading a
 * memfd's hole through a mapping would fill it), leaves out zeroes and what the parent has, compresses the
 * rest into a buffer, takes as much room at the end of the file as that needs, and writes it there. The order
 * of batches in a file is therefore a matter of chance; the blocks of one batch lie side by side, which is
 * what reading wants.
 */
#include "snap/ramimage.h"

#include <errno.h>
#include <lz4.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "snap/parallel.h"
#include "snap/template.h"
#include "util/io.h"
#include "util/zero.h"

enum { BATCH = 16 };

struct writer {
	const struct ramimage_content *content;
	int fd;
	const struct ramimage *parent;
	struct ramimage *image; /* blocks are filled in, each by the thread that has its batch */
	atomic_uint_fast64_t end;
	atomic_bool used[RAMIMAGE_SOURCES_MAX];
};

/* A thread's own. */
struct write_scratch {
	uint8_t block[RAMIMAGE_BLOCK];
	uint8_t out[BATCH * RAMIMAGE_BLOCK];
	LZ4_stream_t lz4;
};

/* A block the parent has too: its place there, with the source as this image counts them. */
static bool refer(struct writer *writer, size_t i, uint64_t content, struct ramimage_block *ret)
{
	const struct ramimage_block *block;

	if (!writer->parent || i >= writer->parent->nblocks)
		return false;
	block = &writer->parent->blocks[i];
	if (!block->len || block->content != content ||
	    ramimage_block_len(writer->parent, i) != ramimage_block_len(writer->image, i))
		return false;
	*ret = *block;
	ret->source = block->source + 1; /* the parent itself, then its own sources */
	atomic_store_explicit(&writer->used[block->source], true, memory_order_relaxed);
	return true;
}

/* ---- what is to be written */

static bool is_over(const struct ramimage_content *content, uint64_t offset)
{
	return content->map && template_map_has(content->map, offset);
}

/* One past the last page from offset on, at most `end`, that is in the same file as that one. */
static uint64_t run_end(const struct ramimage_content *content, uint64_t offset, uint64_t end)
{
	if (!content->map)
		return end;
	return template_map_next(content->map, end, offset - offset % RAM_PAGE, !is_over(content, offset));
}

static bool has_over(const struct ramimage_content *content, uint64_t offset, size_t n)
{
	return is_over(content, offset) || run_end(content, offset, offset + n) < offset + n;
}

static int read_block(const struct ramimage_content *content, uint8_t *ret, uint64_t offset, size_t n)
{
	uint64_t at = offset, end;
	int rc = 0;

	for (; !rc && at < offset + n; at = end) {
		end = run_end(content, at, offset + n);
		rc = pread_all(is_over(content, at) ? content->over_fd : content->memfd, ret + (at - offset),
			       (size_t)(end - at), at);
	}
	return rc;
}

/* ---- writing it */

/* Compress a block of len bytes to out, where as many are free; or copy it if that is not larger. */
static void store_block(struct write_scratch *scratch, size_t len, uint8_t *out, struct ramimage_block *ret)
{
	int n = LZ4_compress_fast_extState(&scratch->lz4, (const char *)scratch->block, (char *)out, (int)len,
					   (int)len - 1, 1);

	if (n <= 0) {
		memcpy(out, scratch->block, len);
		n = (int)len;
	}
	ret->len = (uint32_t)n;
	ret->stored = XXH3_64bits(out, (size_t)n);
}

static int write_batch(void *arg, size_t batch, void *scratch_arg, struct err *err)
{
	struct writer *writer = arg;
	struct write_scratch *scratch = scratch_arg;
	struct ramimage *image = writer->image;
	size_t first = batch * BATCH, last = first + BATCH, len = 0;
	uint64_t data = 0; /* nothing but holes before here */
	uint64_t place, end;
	int rc;

	if (last > image->nblocks)
		last = image->nblocks;
	end = (uint64_t)last * RAMIMAGE_BLOCK;
	for (size_t i = first; i < last; i++) {
		uint64_t offset = (uint64_t)i * RAMIMAGE_BLOCK, hash;
		size_t n = ramimage_block_len(image, i);
		struct ramimage_block *block = &image->blocks[i];

		if (!has_over(writer->content, offset, n)) {
			if (offset >= data)
				data = memfd_data(writer->content->memfd, offset, end, RAMIMAGE_BLOCK);
			if (data >= offset + n)
				continue;
			data = offset + n; /* ask again */
		}
		rc = read_block(writer->content, scratch->block, offset, n);
		if (rc)
			return err_sys(err, rc, "cannot read the captured RAM");
		if (all_zero(scratch->block, n))
			continue;
		hash = XXH3_64bits(scratch->block, n);
		if (refer(writer, i, hash, block))
			continue;
		store_block(scratch, n, scratch->out + len, block);
		block->content = hash;
		block->offset = len; /* in the batch, for now */
		len += block->len;
	}
	if (!len)
		return 0;
	place = atomic_fetch_add(&writer->end, len);
	for (size_t i = first; i < last; i++)
		if (image->blocks[i].len && !image->blocks[i].source)
			image->blocks[i].offset += place;
	rc = pwrite_all(writer->fd, scratch->out, len, place);
	return rc ? err_sys(err, rc, "cannot write the RAM image") : 0;
}

/* Name the sources that were used, and number them accordingly. */
static void number_sources(struct writer *writer, const char *parent_id)
{
	uint32_t number[RAMIMAGE_SOURCES_MAX + 1] = { 0 };
	struct ramimage *image = writer->image;

	for (unsigned i = 0; i < RAMIMAGE_SOURCES_MAX; i++) {
		if (!writer->used[i])
			continue;
		memcpy(image->sources[image->nsources], i ? writer->parent->sources[i - 1] : parent_id,
		       ID_SIZE);
		number[i + 1] = ++image->nsources;
	}
	for (size_t i = 0; i < image->nblocks; i++)
		image->blocks[i].source = number[image->blocks[i].source];
}

int ramimage_write(const struct ramimage_content *content, const struct ramimage *parent,
		   const char *parent_id, int fd, struct progress *progress, struct ramimage *ret,
		   struct err *err)
{
	const uint64_t size = content->size;
	struct ramimage image = { .size = size };
	struct writer writer = { .content = content, .fd = fd, .image = &image, .end = RAMIMAGE_HEADER };
	uint8_t header[RAMIMAGE_HEADER], *tail = NULL;
	int rc;

	if (size > RAMIMAGE_SIZE_MAX)
		return err_set(err, -ERANGE, "more RAM than an image can hold");
	if (parent && parent->nsources < RAMIMAGE_SOURCES_MAX)
		writer.parent = parent;
	image.nblocks = (size_t)((size + RAMIMAGE_BLOCK - 1) / RAMIMAGE_BLOCK);
	image.blocks = calloc(image.nblocks ? image.nblocks : 1, sizeof(*image.blocks));
	image.sources = calloc(RAMIMAGE_SOURCES_MAX, ID_SIZE);
	if (!image.blocks || !image.sources) {
		rc = err_set(err, -ENOMEM, "out of memory");
		goto out;
	}
	rc = parallel_run((image.nblocks + BATCH - 1) / BATCH, write_batch, &writer,
			  sizeof(struct write_scratch), progress, err);
	if (rc)
		goto out;
	image.data_end = writer.end;
	number_sources(&writer, parent_id);
	tail = ramimage_encode_tail(&image, header);
	if (!tail) {
		rc = err_set(err, -ENOMEM, "out of memory");
		goto out;
	}
	rc = pwrite_all(fd, tail, ramimage_tail_len(&image), image.data_end);
	if (!rc)
		rc = pwrite_all(fd, header, sizeof(header), 0);
	if (rc)
		err_sys(err, rc, "cannot write the RAM image");
out:
	free(tail);
	if (rc)
		ramimage_release(&image);
	else
		*ret = image;
	return rc;
}
