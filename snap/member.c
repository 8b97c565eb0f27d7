/* SPDX-License-Identifier: MIT */
/*
 * member.c - the container of an archive
 *
 * Three kinds of headers, each with an XXH3 of itself at its end: one for the archive, one for a file, one
 * for a chunk, which also has the XXH3 of the bytes that follow it. A file ends with a chunk header of no
 * bytes at its size, the archive with a file header without a name, whose size is the number of files.
 *
 * The stream may come from anyone: lengths are bounded before anything is allocated or read, and chunks must
 * come in rising order within the size the file has announced.
 */
#include "snap/member.h"

#include <endian.h>
#include <errno.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "util/io.h"

enum { ARCHIVE_VERSION = 2, WITHOUT_DIGESTS = 1 };

#define DIGESTS "digests"

static const char archive_magic[8] = "SBXARCH";
static const char file_magic[8] = "SBXFILE";

struct archive_header {
	char magic[8];
	uint32_t version, reserved;
	uint64_t sum;
};

struct file_header {
	char magic[8];
	char name[MEMBER_NAME_MAX + 1];
	uint64_t size;
	uint64_t sum;
};

struct chunk_header {
	uint64_t offset;
	uint32_t len;    /* bytes of the file */
	uint32_t stored; /* bytes that follow; as many as len: not compressed */
	uint64_t data_sum;
	uint64_t sum;
};

_Static_assert(sizeof(struct archive_header) == 24 && sizeof(struct file_header) == 88 &&
		       sizeof(struct chunk_header) == 32,
	       "as in the stream");

/* Set the checksum in the last eight bytes of a header, or compare it. */
static void seal(void *header, size_t n)
{
	uint64_t sum = htole64(XXH3_64bits(header, n - sizeof(sum)));

	memcpy((uint8_t *)header + n - sizeof(sum), &sum, sizeof(sum));
}

static bool sealed(const void *header, size_t n)
{
	uint64_t sum;

	memcpy(&sum, (const uint8_t *)header + n - sizeof(sum), sizeof(sum));
	return le64toh(sum) == XXH3_64bits(header, n - sizeof(sum));
}

/* A line about a file that is complete. */
static void note(struct buf *digests, const char *name, struct digest *digest)
{
	char text[DIGEST_TEXT];

	digest_end(digest, text);
	buf_printf(digests, "%s %s\n", name, text);
}

/* ---- writing */

static int put(struct member_writer *w, const void *data, size_t n, struct err *err)
{
	int rc = write_all(w->fd, data, n);

	return rc ? err_sys(err, rc, "cannot write the archive") : 0;
}

int member_writer_begin(struct member_writer *w, int fd, struct err *err)
{
	struct archive_header header = { .version = htole32(ARCHIVE_VERSION) };
	int rc;

	*w = (struct member_writer){ .fd = fd };
	w->packed = malloc(MEMBER_CHUNK);
	if (!w->packed)
		return err_set(err, -ENOMEM, "out of memory");
	memcpy(header.magic, archive_magic, sizeof(header.magic));
	seal(&header, sizeof(header));
	rc = put(w, &header, sizeof(header), err);
	if (rc)
		member_writer_release(w);
	return rc;
}

static int put_file_header(struct member_writer *w, const char *name, uint64_t size, struct err *err)
{
	struct file_header header = { .size = htole64(size) };

	memcpy(header.magic, file_magic, sizeof(header.magic));
	memcpy(header.name, name, strlen(name));
	seal(&header, sizeof(header));
	return put(w, &header, sizeof(header), err);
}

int member_begin(struct member_writer *w, const char *name, uint64_t size, struct err *err)
{
	if (strlen(name) > MEMBER_NAME_MAX)
		return err_set(err, -ENAMETOOLONG, "%s is too long a name for an archive", name);
	w->count++;
	snprintf(w->name, sizeof(w->name), "%s", name);
	digest_begin(&w->digest, size);
	return put_file_header(w, name, size, err);
}

static int put_chunk_header(struct member_writer *w, uint64_t offset, size_t len, const void *data,
			    size_t stored, struct err *err)
{
	struct chunk_header header = {
		.offset = htole64(offset),
		.len = htole32((uint32_t)len),
		.stored = htole32((uint32_t)stored),
		.data_sum = htole64(XXH3_64bits(data, stored)),
	};

	seal(&header, sizeof(header));
	return put(w, &header, sizeof(header), err);
}

int member_chunk(struct member_writer *w, uint64_t offset, const void *data, size_t n, bool try_pack,
		 struct err *err)
{
	int packed = 0, rc;

	digest_block(&w->digest, offset, data, n);
	/* One byte less than n of room: what is not smaller is not worth it. */
	if (try_pack)
		packed = LZ4_compress_default(data, (char *)w->packed, (int)n, (int)n - 1);
	if (packed > 0)
		data = w->packed;
	rc = put_chunk_header(w, offset, n, data, packed > 0 ? (size_t)packed : n, err);
	return rc ? rc : put(w, data, packed > 0 ? (size_t)packed : n, err);
}

int member_end(struct member_writer *w, uint64_t size, struct err *err)
{
	note(&w->digests, w->name, &w->digest);
	return put_chunk_header(w, size, 0, NULL, 0, err);
}

int member_writer_end(struct member_writer *w, struct err *err)
{
	const struct buf digests = w->digests;
	int rc = digests.failed ? err_set(err, -ENOMEM, "out of memory") : 0;
	size_t at, n;

	w->digests = (struct buf){ 0 };
	if (!rc)
		rc = member_begin(w, DIGESTS, digests.len, err);
	for (at = 0; !rc && at < digests.len; at += n) {
		n = digests.len - at < MEMBER_CHUNK ? digests.len - at : MEMBER_CHUNK;
		rc = member_chunk(w, at, buf_bytes(&digests) + at, n, true, err);
	}
	if (!rc)
		rc = member_end(w, digests.len, err);
	buf_release((struct buf *)&digests);
	return rc ? rc : put_file_header(w, "", w->count, err);
}

void member_writer_release(struct member_writer *w)
{
	free(w->packed);
	w->packed = NULL;
	buf_release(&w->digests);
}

/* ---- reading */

static int take(struct member_reader *r, void *data, size_t n, struct err *err)
{
	ssize_t got = read_some(r->fd, data, n);

	if (got < 0)
		return err_sys(err, (int)got, "cannot read the archive");
	if ((size_t)got < n)
		return err_set(err, -EIO, "the archive is cut off");
	return 0;
}

int member_reader_begin(struct member_reader *r, int fd, struct err *err)
{
	struct archive_header header;
	int rc;

	*r = (struct member_reader){ .fd = fd };
	rc = take(r, &header, sizeof(header), err);
	if (rc)
		return rc;
	if (memcmp(header.magic, archive_magic, sizeof(header.magic)) != 0)
		return err_set(err, -EINVAL, "this is not an archive of a snapshot");
	if (!sealed(&header, sizeof(header)))
		return err_set(err, -EIO, "the archive's header is damaged");
	r->version = le32toh(header.version);
	if (r->version < WITHOUT_DIGESTS || r->version > ARCHIVE_VERSION || header.reserved)
		return err_set(err, -EINVAL,
			       "the archive has version %u, this program knows versions %d to %d", r->version,
			       WITHOUT_DIGESTS, ARCHIVE_VERSION);
	r->packed = malloc(MEMBER_CHUNK);
	r->chunk = malloc(MEMBER_CHUNK);
	if (!r->packed || !r->chunk) {
		member_reader_release(r);
		return err_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

/* The archive has said that it ends. */
static int check_end(struct member_reader *r, const struct file_header *header, struct err *err)
{
	uint8_t more;
	ssize_t got;

	if (le64toh(header->size) != r->count || (r->version > WITHOUT_DIGESTS && !r->ended))
		return err_set(err, -EIO, "a file is missing from the archive");
	got = read_some(r->fd, &more, 1);
	if (got < 0)
		return err_sys(err, (int)got, "cannot read the archive");
	return got ? err_set(err, -EIO, "there is data after the end of the archive") : 0;
}

/* The last file says of all others what came of them. */
static int check_digests(struct member_reader *r, struct err *err)
{
	struct buf found = r->digests;
	const uint8_t *data;
	size_t n, at = 0;
	uint64_t offset;
	int rc;

	r->digests = (struct buf){ 0 };
	while ((rc = member_read(r, &offset, &data, &n, err)) > 0) {
		if (offset != at || n > found.len - at || memcmp(buf_bytes(&found) + at, data, n) != 0) {
			rc = err_set(err, -EIO, "the archive's files do not have the digests that it gives");
			break;
		}
		at += n;
	}
	if (!rc && at != found.len)
		rc = err_set(err, -EIO, "the archive does not give the digests of all its files");
	buf_release(&found);
	r->ended = !rc;
	return rc;
}

int member_next(struct member_reader *r, char name[MEMBER_NAME_MAX + 1], uint64_t *ret_size, struct err *err)
{
	struct file_header header;
	size_t len;
	int rc = take(r, &header, sizeof(header), err);

	if (rc)
		return rc;
	if (memcmp(header.magic, file_magic, sizeof(header.magic)) != 0 || !sealed(&header, sizeof(header)))
		return err_set(err, -EIO, "the archive is damaged at its file %llu",
			       (unsigned long long)r->count);
	len = strnlen(header.name, sizeof(header.name));
	if (len == sizeof(header.name))
		return err_set(err, -EINVAL, "a file name in the archive is not terminated");
	if (!len)
		return check_end(r, &header, err);
	if (r->ended)
		return err_set(err, -EINVAL, "the archive goes on after its digests");
	memcpy(r->name, header.name, sizeof(header.name));
	r->count++;
	r->at = 0;
	r->size = le64toh(header.size);
	digest_begin(&r->digest, r->size);
	if (r->version > WITHOUT_DIGESTS && !strcmp(r->name, DIGESTS)) {
		rc = check_digests(r, err);
		return rc ? rc : member_next(r, name, ret_size, err);
	}
	memcpy(name, header.name, sizeof(header.name));
	*ret_size = r->size;
	return 1;
}

int member_read(struct member_reader *r, uint64_t *ret_offset, const uint8_t **ret_data, size_t *ret_n,
		struct err *err)
{
	struct chunk_header header;
	uint32_t len, stored;
	uint64_t offset;
	int rc = take(r, &header, sizeof(header), err);

	if (rc)
		return rc;
	if (!sealed(&header, sizeof(header)))
		return err_set(err, -EIO, "the archive is damaged in its file %llu at byte %llu",
			       (unsigned long long)r->count, (unsigned long long)r->at);
	offset = le64toh(header.offset);
	len = le32toh(header.len);
	stored = le32toh(header.stored);
	if (offset < r->at || offset > r->size || len > MEMBER_CHUNK || len > r->size - offset ||
	    stored > len || (!len && offset != r->size) || (len && !stored))
		return err_set(err, -EINVAL, "a chunk in the archive does not fit its file");
	/* As blocks are, which digests are made of. */
	if (r->version > WITHOUT_DIGESTS && len &&
	    (offset % MEMBER_CHUNK || (len < MEMBER_CHUNK && len < r->size - offset)))
		return err_set(err, -EINVAL, "a chunk in the archive is not a block of its file");
	if (!len) {
		note(&r->digests, r->name, &r->digest);
		return r->digests.failed ? err_set(err, -ENOMEM, "out of memory") : 0;
	}
	rc = take(r, r->packed, stored, err);
	if (rc)
		return rc;
	if (XXH3_64bits(r->packed, stored) != le64toh(header.data_sum))
		return err_set(err, -EIO, "the archive is damaged in its file %llu at byte %llu",
			       (unsigned long long)r->count, (unsigned long long)offset);
	*ret_data = r->packed;
	if (stored < len) {
		if (LZ4_decompress_safe((const char *)r->packed, (char *)r->chunk, (int)stored, (int)len) !=
		    (int)len)
			return err_set(err, -EINVAL, "a chunk in the archive cannot be decompressed");
		*ret_data = r->chunk;
	}
	*ret_offset = offset;
	*ret_n = len;
	r->at = offset + len;
	digest_block(&r->digest, offset, *ret_data, len);
	return 1;
}

void member_reader_release(struct member_reader *r)
{
	free(r->packed);
	free(r->chunk);
	r->packed = r->chunk = NULL;
	buf_release(&r->digests);
}
