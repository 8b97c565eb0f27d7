/* SPDX-License-Identifier: MIT */
/* tarball.c - a tar, compressed or not, as a stream */
#include "snap/image/tarball.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/image/unpack.h"
#include "util/io.h"

enum { TAR_BLOCK = 512 };

static la_ssize_t read_raw(struct archive *archive, void *arg, const void **ret)
{
	struct tarball *tarball = arg;
	ssize_t n;

	if (tarball->blob) {
		n = blob_read(tarball->blob, tarball->raw, sizeof(tarball->raw), &tarball->err);
	} else {
		n = read_some(tarball->fd, tarball->raw, sizeof(tarball->raw));
		if (n < 0)
			err_sys(&tarball->err, (int)n, "cannot read the archive");
		else if (tarball->done)
			*tarball->done += (uint64_t)n;
	}
	if (n < 0) {
		archive_set_error(archive, (int)-n, "%s", tarball->err.text);
		return ARCHIVE_FATAL;
	}
	if (tarball->hash_in)
		sha256_update(&tarball->in, (size_t)n, tarball->raw);
	*ret = tarball->raw;
	return n;
}

/* What the callback said is the reason, where there is one. */
static int failed(struct tarball *tarball, struct archive *archive, struct err *err)
{
	return tarball->err.code ? err_set(err, tarball->err.code, "%s", tarball->err.text)
				 : unpack_failed(archive, "the archive", err);
}

ssize_t tarball_read(struct tarball *tarball, const void **ret, struct err *err)
{
	ssize_t n = archive_read_data(tarball->unzip, tarball->plain, sizeof(tarball->plain));

	if (n < 0)
		return failed(tarball, tarball->unzip, err);
	if ((uint64_t)n > *tarball->budget)
		return err_set(err, -EFBIG,
			       "it unpacks to far more than fits: a larger image (--size) may do");
	*tarball->budget -= (uint64_t)n;
	if (tarball->hash_out)
		sha256_update(&tarball->out, (size_t)n, tarball->plain);
	if (tarball->kept)
		buf_add(tarball->kept, tarball->plain, (size_t)n);
	*ret = tarball->plain;
	return n;
}

static la_ssize_t read_plain(struct archive *archive, void *arg, const void **ret)
{
	struct tarball *tarball = arg;
	ssize_t n = tarball_read(tarball, ret, &tarball->err);
	const size_t last = tarball->plain_len % TAR_BLOCK;

	if (n > 0)
		tarball->plain_len += (uint64_t)n;
	/* Some tools leave the padding of the last file out, and engines take that. Where a digest says that nothing
	 * was cut off, so do we. */
	if (!n && last && tarball->hash_out) {
		memset(tarball->plain, 0, TAR_BLOCK);
		n = (ssize_t)(TAR_BLOCK - last);
		tarball->plain_len += (uint64_t)n;
	}
	if (n >= 0)
		return n;
	archive_set_error(archive, (int)-n, "%s", tarball->err.text);
	return ARCHIVE_FATAL;
}

int tarball_open(struct tarball *tarball, struct err *err)
{
	struct archive_entry *entry;
	int rc;

	sha256_init(&tarball->in);
	sha256_init(&tarball->out);
	tarball->unzip = archive_read_new();
	tarball->tar = archive_read_new();
	if (!tarball->unzip || !tarball->tar)
		return err_set(err, -ENOMEM, "out of memory");
	archive_read_support_filter_gzip(tarball->unzip);
	archive_read_support_filter_bzip2(tarball->unzip);
	archive_read_support_filter_xz(tarball->unzip);
	archive_read_support_filter_zstd(tarball->unzip);
	archive_read_support_filter_lz4(tarball->unzip);
	archive_read_support_format_raw(tarball->unzip);
	archive_read_support_format_empty(tarball->unzip);
	archive_read_support_format_tar(tarball->tar);
	if (archive_read_open(tarball->unzip, tarball, NULL, read_raw, NULL) != ARCHIVE_OK)
		return failed(tarball, tarball->unzip, err);
	rc = archive_read_next_header(tarball->unzip, &entry);
	if (rc == ARCHIVE_EOF)
		return err_set(err, -EINVAL, "the archive is empty");
	if (rc < ARCHIVE_WARN)
		return failed(tarball, tarball->unzip, err);
	if (archive_read_open(tarball->tar, tarball, NULL, read_plain, NULL) != ARCHIVE_OK)
		return failed(tarball, tarball->tar, err);
	return 0;
}

bool tarball_is_compressed(const struct tarball *tarball)
{
	return archive_filter_code(tarball->unzip, 0) != ARCHIVE_FILTER_NONE;
}

int tarball_end(struct tarball *tarball, const char *digest, const char *diff_id, struct err *err)
{
	const void *data;
	ssize_t n;
	int rc = 0;

	while ((n = tarball_read(tarball, &data, err)) > 0)
		;
	/* What the decompressor has no use for is part of the blob, too. */
	while (n >= 0 && (n = read_raw(tarball->unzip, tarball, &data)) > 0)
		;
	if (n < 0)
		return tarball->err.code ? failed(tarball, tarball->unzip, err) : (int)n;
	if (tarball->hash_in)
		rc = digest_check(&tarball->in, digest, "a layer", err);
	if (!rc && tarball->hash_out)
		rc = digest_check(&tarball->out, diff_id, "an unpacked layer", err);
	return rc;
}

void tarball_close(struct tarball *tarball)
{
	archive_read_free(tarball->tar);
	archive_read_free(tarball->unzip);
}

static int apply(struct tarball *tarball, struct ext4 *fs, const struct oci_ref *ref, const char *diff_id,
		 struct err *err)
{
	int rc;

	if (ref->size != UINT64_MAX && ref->size != blob_size(tarball->blob))
		return err_set(err, -EIO, "%.80s does not have the size it should have", ref->name);
	tarball->hash_in = *ref->digest;
	tarball->hash_out = *diff_id;
	rc = tarball_open(tarball, err);
	if (!rc) {
		const struct unpack unpack = { .fs = fs, .archive = tarball->tar, .is_layer = true };

		ext4_layer(fs);
		rc = unpack_rest(&unpack, err);
		/* Why a stream ended early is better known where it did. */
		if (rc && tarball->err.code)
			rc = err_set(err, tarball->err.code, "%s", tarball->err.text);
	}
	return rc ? rc : tarball_end(tarball, ref->digest, diff_id, err);
}

int tarball_apply(struct ext4 *fs, const struct container *container, const struct oci_ref *ref,
		  const char *diff_id, uint64_t *budget, struct err *err)
{
	struct tarball *tarball = calloc(1, sizeof(*tarball));
	int rc;

	if (!tarball)
		return err_set(err, -ENOMEM, "out of memory");
	tarball->fd = -1;
	tarball->budget = budget;
	rc = blob_open(container, ref->name, &tarball->blob, err);
	if (!rc) {
		rc = apply(tarball, fs, ref, diff_id, err);
		tarball_close(tarball);
		blob_close(tarball->blob);
	}
	free(tarball);
	return rc;
}
