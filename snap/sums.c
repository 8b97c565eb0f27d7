/* SPDX-License-Identifier: MIT */
/*
 * sums.c - checksums of a layer
 *
 * A sums file (docs/format.md) is a header with the layer's size, an XXH3 for every 64 KiB of the layer, and
 * an XXH3 of all that. Layers are full of holes, so blocks are looked for with SEEK_DATA; a block in a hole
 * has the checksum of zeroes without being read.
 */
#include "snap/sums.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "snap/id.h"
#include "snap/parallel.h"
#include "util/buf.h"
#include "util/io.h"

enum { SUMS_VERSION = 1, BATCH = 64, HEADER = 24, LAYER_MAX_BITS = 44 };

static const char magic[8] = "SBXSUMS";

struct layer_sums {
	int fd;
	const char *file;
	uint64_t size;
	size_t n;
	uint64_t *sums;
	uint64_t zero; /* of a block of zeroes */
};

static size_t block_len(const struct layer_sums *sums, size_t i)
{
	uint64_t left = sums->size - (uint64_t)i * SUMS_BLOCK;

	return left < SUMS_BLOCK ? (size_t)left : SUMS_BLOCK;
}

/* Checksums of the blocks of one batch, into ret. */
static int sum_batch(const struct layer_sums *sums, size_t first, size_t n, uint64_t *ret, void *scratch,
		     struct err *err)
{
	uint64_t data = 0; /* nothing but holes before here */
	size_t i;

	for (i = first; i < first + n; i++) {
		uint64_t offset = (uint64_t)i * SUMS_BLOCK;
		size_t len = block_len(sums, i);
		int rc;

		if (offset >= data) {
			off_t found = lseek(sums->fd, (off_t)offset, SEEK_DATA);

			if (found < 0 && errno != ENXIO)
				return err_sys(err, -errno, "cannot read layer %s", sums->file);
			data = found < 0 ? UINT64_MAX : (uint64_t)found;
		}
		if (data >= offset + len && len == SUMS_BLOCK) {
			ret[i - first] = sums->zero;
			continue;
		}
		rc = pread_all(sums->fd, scratch, len, offset);
		if (rc)
			return err_sys(err, rc, "cannot read block %zu of layer %s", i, sums->file);
		ret[i - first] = XXH3_64bits(scratch, len);
		data = offset + len; /* look again */
	}
	return 0;
}

static size_t batches(const struct layer_sums *sums)
{
	return (sums->n + BATCH - 1) / BATCH;
}

static size_t batch_len(const struct layer_sums *sums, size_t batch)
{
	size_t left = sums->n - batch * BATCH;

	return left < BATCH ? left : BATCH;
}

static int make_batch(void *arg, size_t batch, void *scratch, struct err *err)
{
	struct layer_sums *sums = arg;
	size_t first = batch * BATCH;

	return sum_batch(sums, first, batch_len(sums, batch), sums->sums + first, scratch, err);
}

static int check_batch(void *arg, size_t batch, void *scratch, struct err *err)
{
	const struct layer_sums *sums = arg;
	size_t first = batch * BATCH, n = batch_len(sums, batch);
	uint64_t found[BATCH] = { 0 };
	int rc = sum_batch(sums, first, n, found, scratch, err);

	for (size_t i = 0; !rc && i < n; i++)
		if (found[i] != le64toh(sums->sums[first + i]))
			rc = err_set(err, -EIO, "layer %s is damaged in block %zu", sums->file, first + i);
	return rc;
}

/* Everything but the checksums themselves. sums->fd is the caller's to close. */
static int open_layer(struct layer_sums *sums, int dir_fd, const char *file, struct err *err)
{
	void *zeroes = calloc(1, SUMS_BLOCK);
	struct stat st;

	if (!zeroes)
		return err_set(err, -ENOMEM, "out of memory");
	sums->zero = XXH3_64bits(zeroes, SUMS_BLOCK);
	free(zeroes);
	sums->file = file;
	sums->fd = openat(dir_fd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (sums->fd < 0 && errno == ENOENT)
		return err_set(err, -EINVAL, "layer %s is missing", file);
	if (sums->fd < 0 || fstat(sums->fd, &st))
		return err_sys(err, -errno, "cannot open layer %s", file);
	if (!S_ISREG(st.st_mode) || st.st_size >> LAYER_MAX_BITS)
		return err_set(err, -EINVAL, "layer %s is not a regular file, or too large", file);
	sums->size = (uint64_t)st.st_size;
	sums->n = (size_t)((sums->size + SUMS_BLOCK - 1) / SUMS_BLOCK);
	return 0;
}

static void close_layer(struct layer_sums *sums)
{
	if (sums->fd >= 0)
		close(sums->fd);
}

/* Put header, sums and checksum into a new file and give it its name. */
static int publish(const struct layer_sums *sums, int sums_fd, int tmp_fd, struct err *err)
{
	struct buf out = { 0 };
	char draft[ID_SIZE];
	int rc;

	buf_add(&out, magic, sizeof(magic));
	buf_put_u32(&out, SUMS_VERSION);
	buf_put_u32(&out, SUMS_BLOCK);
	buf_put_u64(&out, sums->size);
	for (size_t i = 0; i < sums->n; i++)
		buf_put_u64(&out, sums->sums[i]);
	if (!out.failed)
		buf_put_u64(&out, XXH3_64bits(buf_bytes(&out), out.len));
	rc = out.failed ? -ENOMEM : id_make(draft);
	if (!rc)
		rc = write_file_at(tmp_fd, draft, buf_bytes(&out), out.len);
	if (!rc && renameat(tmp_fd, draft, sums_fd, sums->file)) {
		rc = -errno;
		unlinkat(tmp_fd, draft, 0);
	}
	buf_release(&out);
	return rc ? err_sys(err, rc, "cannot write the checksums of layer %s", sums->file) : 0;
}

int sums_write(int dir_fd, const char *file, int sums_fd, int tmp_fd, struct err *err)
{
	struct layer_sums sums = { .fd = -1 };
	int rc = open_layer(&sums, dir_fd, file, err);

	if (rc)
		goto out;
	if (fsync(sums.fd)) {
		rc = err_sys(err, -errno, "cannot sync layer %s", file);
		goto out;
	}
	sums.sums = calloc(sums.n ? sums.n : 1, sizeof(*sums.sums));
	if (!sums.sums) {
		rc = err_set(err, -ENOMEM, "out of memory");
		goto out;
	}
	rc = parallel_run(batches(&sums), make_batch, &sums, SUMS_BLOCK, NULL, err);
	if (!rc)
		rc = publish(&sums, sums_fd, tmp_fd, err);
out:
	free(sums.sums);
	close_layer(&sums);
	return rc;
}

/* Read the sums file and hold it against the layer's size. */
static int read_file(struct layer_sums *sums, int sums_fd, const char *name, struct buf *text,
		     struct err *err)
{
	size_t expected = HEADER + (sums->n + 1) * sizeof(uint64_t);
	int rc = read_file_at(sums_fd, name, expected, text);
	struct reader reader;
	char found[8];
	uint64_t sum;

	if (rc == -ENOENT)
		return err_set(err, -EINVAL, "the checksums of layer %s are missing", sums->file);
	if (rc == -EFBIG || (!rc && text->len != expected))
		return err_set(err, -EIO, "layer %s or its checksums are damaged: their sizes do not match",
			       sums->file);
	if (rc)
		return err_sys(err, rc, "cannot read the checksums of layer %s", sums->file);
	memcpy(&sum, buf_bytes(text) + expected - sizeof(sum), sizeof(sum));
	if (le64toh(sum) != XXH3_64bits(buf_bytes(text), expected - sizeof(sum)))
		return err_set(err, -EIO, "the checksums of layer %s are damaged", sums->file);
	reader = reader_init(buf_bytes(text), expected);
	memcpy(found, reader.p, sizeof(found));
	reader.p += sizeof(found);
	if (memcmp(found, magic, sizeof(magic)) != 0 || get_u32(&reader) != SUMS_VERSION ||
	    get_u32(&reader) != SUMS_BLOCK)
		return err_set(err, -EINVAL, "the checksums of layer %s have another version", sums->file);
	if (get_u64(&reader) != sums->size)
		return err_set(err, -EIO, "layer %s does not have the size it was saved with", sums->file);
	return 0;
}

/* The checksums of a file as they are there, *ret for the caller to free. */
static int load_sums(struct layer_sums *sums, int sums_fd, const char *name, struct err *err)
{
	struct buf text = { 0 };
	int rc = read_file(sums, sums_fd, name, &text, err);

	if (!rc) {
		sums->sums = malloc((sums->n ? sums->n : 1) * sizeof(*sums->sums));
		if (!sums->sums)
			rc = err_set(err, -ENOMEM, "out of memory");
	}
	if (!rc) /* aligned now */
		memcpy(sums->sums, buf_bytes(&text) + HEADER, sums->n * sizeof(*sums->sums));
	buf_release(&text);
	return rc;
}

int sums_read(int dir_fd, const char *file, int sums_fd, uint64_t *ret_size, uint64_t **ret, size_t *ret_n,
	      struct err *err)
{
	struct layer_sums sums = { .fd = -1 };
	int rc = open_layer(&sums, dir_fd, file, err);
	size_t i;

	if (!rc)
		rc = load_sums(&sums, sums_fd, file, err);
	close_layer(&sums);
	if (rc)
		return rc;
	for (i = 0; i < sums.n; i++)
		sums.sums[i] = le64toh(sums.sums[i]);
	*ret_size = sums.size;
	*ret = sums.sums;
	*ret_n = sums.n;
	return 0;
}

/* Whether the name leads to another file by now. */
static bool replaced(const struct layer_sums *sums, int dir_fd)
{
	struct stat now, opened;

	return !fstat(sums->fd, &opened) && !fstatat(dir_fd, sums->file, &now, AT_SYMLINK_NOFOLLOW) &&
	       now.st_ino != opened.st_ino;
}

/* Compare with the checksums of the given name. *ret_replaced: the layer was replaced meanwhile. */
static int check_with(int dir_fd, const char *file, int sums_fd, const char *name, struct progress *progress,
		      bool *ret_replaced, struct err *err)
{
	struct layer_sums sums = { .fd = -1 };
	int rc = open_layer(&sums, dir_fd, file, err);

	if (!rc)
		rc = load_sums(&sums, sums_fd, name, err);
	if (!rc)
		rc = parallel_run(batches(&sums), check_batch, &sums, SUMS_BLOCK, progress, err);
	*ret_replaced = rc && sums.fd >= 0 && replaced(&sums, dir_fd);
	free(sums.sums);
	close_layer(&sums);
	return rc;
}

void sums_next_name(const char *file, char ret[SUMS_NEXT_MAX])
{
	snprintf(ret, SUMS_NEXT_MAX, "%.40s.next", file);
}

/* Which file the name leads to; 0: none. */
static ino_t inode_of(int dir_fd, const char *name)
{
	struct stat st;

	return fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) ? 0 : st.st_ino;
}

int sums_check(int dir_fd, const char *file, int sums_fd, struct progress *progress, struct err *err)
{
	char next[SUMS_NEXT_MAX];
	struct err why;
	ino_t before;
	bool again;
	int rc;

	sums_next_name(file, next);
	do {
		why = (struct err){ 0 };
		before = inode_of(sums_fd, file);
		rc = check_with(dir_fd, file, sums_fd, file, progress, &again, &why);
		if (rc == -EIO && !again && !faccessat(sums_fd, next, F_OK, AT_SYMLINK_NOFOLLOW))
			rc = check_with(dir_fd, file, sums_fd, next, progress, &again, &why);
		/* Those that waited may have got their place after the old ones were read, and before they
		 * were looked for. */
		again = again || inode_of(sums_fd, file) != before;
	} while ((rc == -EIO || rc == -EINVAL) && again);
	if (rc && err)
		*err = why;
	return rc;
}

bool sums_next_fit(int dir_fd, const char *file, int sums_fd)
{
	char next[SUMS_NEXT_MAX];
	bool again;

	sums_next_name(file, next);
	return !check_with(dir_fd, file, sums_fd, next, NULL, &again, NULL);
}
