/* SPDX-License-Identifier: MIT */
/*
 * ramimage.c - the index of a RAM image: what lies before and behind its blocks
 *
 * The index is behind the blocks because their places are known only when all are compressed, and the header,
 * which makes the file one of ours, is written last. The index has two checksums a block: of the bytes
 * stored, so that any damage is found, even one that decompresses to the same content; and of the content, by
 * which a later image finds that it has the same block.
 */
#include "snap/ramimage.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "util/io.h"

enum { VERSION = 1 };

static const char magic[8] = "SBXRAM";

struct header {
	char magic[8];
	uint32_t version;
	uint32_t block_size;
	uint64_t size;
	uint64_t data_end;
	uint32_t nsources;
	uint32_t zero;
	uint64_t tail_sum;
	uint64_t reserved;
	uint64_t header_sum; /* of all above */
};
_Static_assert(sizeof(struct header) == RAMIMAGE_HEADER, "as on disk");

struct disk_block {
	uint64_t offset;
	uint32_t len, source;
	uint64_t content, stored;
};
_Static_assert(sizeof(struct disk_block) == 32, "as on disk");

void ramimage_release(struct ramimage *image)
{
	free(image->blocks);
	free(image->sources);
	*image = (struct ramimage){ 0 };
}

size_t ramimage_tail_len(const struct ramimage *image)
{
	return image->nsources * (size_t)ID_LEN + image->nblocks * sizeof(struct disk_block);
}

int ramimage_parse_header(const uint8_t bytes[RAMIMAGE_HEADER], uint64_t file_size, const char *name,
			  struct ramimage *ret, struct err *err)
{
	struct ramimage image = { 0 };
	struct header header;

	memcpy(&header, bytes, sizeof(header));
	if (memcmp(header.magic, magic, sizeof(magic)) != 0)
		return err_set(err, -EIO, "%s is damaged: it does not begin like a RAM image", name);
	if (le64toh(header.header_sum) != XXH3_64bits(bytes, offsetof(struct header, header_sum)))
		return err_set(err, -EIO, "%s is damaged in its header", name);
	if (le32toh(header.version) != VERSION || le32toh(header.block_size) != RAMIMAGE_BLOCK)
		return err_set(err, -EINVAL, "%s has version %u, this program knows version %u", name,
			       le32toh(header.version), VERSION);
	image.size = le64toh(header.size);
	image.data_end = le64toh(header.data_end);
	image.nsources = le32toh(header.nsources);
	if (image.size > RAMIMAGE_SIZE_MAX || image.nsources > RAMIMAGE_SOURCES_MAX)
		return err_set(err, -EINVAL, "%s claims to be larger than an image can be", name);
	image.nblocks = (size_t)((image.size + RAMIMAGE_BLOCK - 1) / RAMIMAGE_BLOCK);
	if (image.data_end < RAMIMAGE_HEADER || image.data_end > file_size ||
	    file_size - image.data_end != ramimage_tail_len(&image))
		return err_set(err, -EIO, "%s is damaged: it is shorter or longer than it says", name);
	*ret = image;
	return 0;
}

static bool block_valid(const struct ramimage *image, size_t i)
{
	const struct ramimage_block *block = &image->blocks[i];
	uint64_t end;

	if (!block->len)
		return !block->offset && !block->source && !block->content && !block->stored;
	if (block->len > ramimage_block_len(image, i) || block->source > image->nsources ||
	    block->offset < RAMIMAGE_HEADER || __builtin_add_overflow(block->offset, block->len, &end))
		return false;
	return end <= (block->source ? (uint64_t)INT64_MAX : image->data_end);
}

int ramimage_parse_tail(const uint8_t bytes[RAMIMAGE_HEADER], const uint8_t *tail, const char *name,
			struct ramimage *image, struct err *err)
{
	struct header header;
	int rc = 0;

	memcpy(&header, bytes, sizeof(header));
	if (le64toh(header.tail_sum) != XXH3_64bits(tail, ramimage_tail_len(image)))
		return err_set(err, -EIO, "%s is damaged in its index", name);
	image->sources = calloc(image->nsources ? image->nsources : 1, ID_SIZE);
	image->blocks = calloc(image->nblocks ? image->nblocks : 1, sizeof(*image->blocks));
	if (!image->sources || !image->blocks) {
		rc = err_set(err, -ENOMEM, "out of memory");
		goto fail;
	}
	for (unsigned i = 0; i < image->nsources; i++, tail += ID_LEN) {
		memcpy(image->sources[i], tail, ID_LEN);
		if (!id_valid(image->sources[i], "")) {
			rc = err_set(err, -EINVAL, "%s refers to something that is not an identifier", name);
			goto fail;
		}
	}
	for (size_t i = 0; i < image->nblocks; i++, tail += sizeof(struct disk_block)) {
		struct disk_block disk;

		memcpy(&disk, tail, sizeof(disk));
		image->blocks[i] = (struct ramimage_block){
			.offset = le64toh(disk.offset),
			.len = le32toh(disk.len),
			.source = le32toh(disk.source),
			.content = le64toh(disk.content),
			.stored = le64toh(disk.stored),
		};
		if (!block_valid(image, i)) {
			rc = err_set(err, -EINVAL, "%s: the entry of block %zu contradicts itself", name, i);
			goto fail;
		}
	}
	return 0;
fail:
	ramimage_release(image);
	return rc;
}

int ramimage_open(int fd, const char *name, struct ramimage *ret, struct err *err)
{
	uint8_t header[RAMIMAGE_HEADER], *tail = NULL;
	struct ramimage image = { 0 };
	struct stat st;
	int rc;

	if (fstat(fd, &st))
		return err_sys(err, -errno, "cannot read %s", name);
	if (st.st_size < RAMIMAGE_HEADER)
		return err_set(err, -EIO, "%s is damaged: it was cut off", name);
	rc = pread_all(fd, header, sizeof(header), 0);
	if (rc)
		return err_sys(err, rc, "cannot read %s", name);
	rc = ramimage_parse_header(header, (uint64_t)st.st_size, name, &image, err);
	if (rc)
		return rc;
	tail = malloc(ramimage_tail_len(&image) + 1);
	if (!tail)
		return err_set(err, -ENOMEM, "out of memory");
	rc = pread_all(fd, tail, ramimage_tail_len(&image), image.data_end);
	if (rc)
		err_sys(err, rc, "cannot read %s", name);
	else
		rc = ramimage_parse_tail(header, tail, name, &image, err);
	free(tail);
	if (!rc)
		*ret = image;
	return rc;
}

uint8_t *ramimage_encode_tail(const struct ramimage *image, uint8_t ret_header[RAMIMAGE_HEADER])
{
	struct header header = {
		.version = htole32(VERSION),
		.block_size = htole32(RAMIMAGE_BLOCK),
		.size = htole64(image->size),
		.data_end = htole64(image->data_end),
		.nsources = htole32(image->nsources),
	};
	uint8_t *tail = malloc(ramimage_tail_len(image) + 1), *p = tail;

	if (!tail)
		return NULL;
	for (unsigned i = 0; i < image->nsources; i++, p += ID_LEN)
		memcpy(p, image->sources[i], ID_LEN);
	for (size_t i = 0; i < image->nblocks; i++, p += sizeof(struct disk_block)) {
		const struct ramimage_block *block = &image->blocks[i];
		struct disk_block disk = {
			.offset = htole64(block->offset),
			.len = htole32(block->len),
			.source = htole32(block->source),
			.content = htole64(block->content),
			.stored = htole64(block->stored),
		};

		memcpy(p, &disk, sizeof(disk));
	}
	memcpy(header.magic, magic, sizeof(magic));
	header.tail_sum = htole64(XXH3_64bits(tail, ramimage_tail_len(image)));
	header.header_sum = htole64(XXH3_64bits(&header, offsetof(struct header, header_sum)));
	memcpy(ret_header, &header, sizeof(header));
	return tail;
}
