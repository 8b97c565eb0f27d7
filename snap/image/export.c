/* SPDX-License-Identifier: MIT */
/*
 * export.c - a disk becomes a container image again
 *
 * A tar says of each file how long it is before it comes, and an image's parts are called by their digests: so the
 * layer goes into a file without a name first, and is copied from there.
 */
#include "snap/image/export.h"

#include <archive.h>
#include <archive_entry.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "snap/image/confined.h"
#include "snap/image/ext4_disk.h"
#include "snap/image/oci.h"
#include "snap/image/pack.h"
#include "util/io.h"

enum { COPY = 1 << 20, NAME_SIZE = 80 };

static const char oci_layout[] = "{\"imageLayoutVersion\":\"1.0.0\"}";

/* ---- in the child */

struct export_job {
	const struct image_export *export;
	int spool_fd;
};

static int pack_disk(void *arg, struct confined_count *count, struct buf *said, struct err *err)
{
	const struct export_job *job = arg;
	struct pack_result result;
	struct buf config = { 0 };
	ext2_filsys fs = NULL;
	int rc = confined_enter(err);

	if (!rc)
		rc = ext4_view_open(job->export->chain, &fs, err);
	if (!rc)
		rc = pack_layer(fs, job->spool_fd, job->export->kind == EXPORT_OCI, count, &result, &config,
				err);
	ext4_view_close(fs);
	if (!rc && config.failed)
		rc = err_set(err, -ENOMEM, "out of memory");
	if (!rc) {
		buf_add(said, &result, sizeof(result));
		if (config.len)
			buf_add(said, buf_bytes(&config), config.len);
	}
	buf_release(&config);
	return rc;
}

/* ---- what it said */

static bool is_digest(const char text[OCI_DIGEST + 1])
{
	return !text[OCI_DIGEST] && strspn(text, "0123456789abcdef") == OCI_DIGEST;
}

/* The bytes of the child's answer: a result, and the config. */
static int take_answer(struct buf *said, int spool_fd, struct pack_result *ret, struct err *err)
{
	struct stat st;

	if (said->len < sizeof(*ret))
		return err_set(err, -EIO, "the process that reads the disk makes no sense");
	memcpy(ret, buf_bytes(said), sizeof(*ret));
	buf_consume(said, sizeof(*ret));
	if (!is_digest(ret->digest) || !is_digest(ret->diff_id) || fstat(spool_fd, &st) < 0 ||
	    ret->size != (uint64_t)st.st_size)
		return err_set(err, -EIO, "the process that reads the disk makes no sense");
	return image_config_check(said, err);
}

/* ---- the archive */

struct out {
	struct archive *tar;
	int fd, write_rc;
};

static la_ssize_t write_out(struct archive *archive, void *arg, const void *data, size_t n)
{
	struct out *out = arg;

	out->write_rc = write_all(out->fd, data, n);
	if (!out->write_rc)
		return (la_ssize_t)n;
	archive_set_error(archive, -out->write_rc, "cannot write");
	return -1;
}

static int out_failed(const struct out *out, struct err *err)
{
	const char *why = archive_error_string(out->tar);

	if (out->write_rc)
		return err_sys(err, out->write_rc, "cannot write the archive");
	return err_set(err, -EIO, "cannot write the archive: %.160s", why ? why : "no reason is given");
}

/* The archive is the same whoever writes it when: all is root's and of 1970. */
static int begin_member(const struct out *out, const char *name, uint64_t size, struct err *err)
{
	struct archive_entry *entry = archive_entry_new();
	int rc;

	if (!entry)
		return err_set(err, -ENOMEM, "out of memory");
	archive_entry_set_pathname(entry, name);
	archive_entry_set_mode(entry, S_IFREG | 0644);
	archive_entry_set_size(entry, (la_int64_t)size);
	archive_entry_set_mtime(entry, 0, 0);
	rc = archive_write_header(out->tar, entry) < ARCHIVE_WARN ? out_failed(out, err) : 0;
	archive_entry_free(entry);
	return rc;
}

static int add_bytes(const struct out *out, const char *name, const void *data, size_t n, struct err *err)
{
	int rc = begin_member(out, name, n, err);

	if (!rc && archive_write_data(out->tar, data, n) != (la_ssize_t)n)
		rc = out_failed(out, err);
	return rc;
}

static int add_spool(const struct out *out, const char *name, int fd, uint64_t size, struct err *err)
{
	uint8_t *chunk = malloc(COPY);
	int rc = chunk ? begin_member(out, name, size, err) : err_set(err, -ENOMEM, "out of memory");
	uint64_t at = 0;
	size_t n;

	while (!rc && at < size) {
		n = size - at < COPY ? (size_t)(size - at) : COPY;
		rc = pread_all(fd, chunk, n, at);
		if (rc)
			err_sys(err, rc, "cannot read the layer");
		else if (archive_write_data(out->tar, chunk, n) != (la_ssize_t)n)
			rc = out_failed(out, err);
		at += n;
	}
	free(chunk);
	return rc;
}

/* A document under its digest, or under the name it is given. */
static int add_document(const struct out *out, const struct oci_document *document, const char *name,
			struct err *err)
{
	char path[NAME_SIZE + 16];

	snprintf(path, sizeof(path), "blobs/sha256/%s", document->digest);
	return add_bytes(out, name ? name : path, document->text, strlen(document->text), err);
}

/* What a repository may be called: lower case, and separators between letters or digits alone. */
static void repository(const char *name, char ret[NAME_SIZE])
{
	size_t n = 0;

	for (; *name && n + 1 < NAME_SIZE; name++) {
		if (isalnum((unsigned char)*name))
			ret[n++] = (char)tolower((unsigned char)*name);
		else if (n && isalnum((unsigned char)ret[n - 1]) && isalnum((unsigned char)name[1]))
			ret[n++] = *name;
	}
	ret[n] = '\0';
}

static int write_oci(const struct out *out, int spool_fd, const struct oci_image *image, struct err *err)
{
	struct oci_document config = { 0 }, manifest = { 0 }, index = { 0 };
	char layer[NAME_SIZE + 16];
	int rc = oci_write_config(image, &config, err);

	if (!rc)
		rc = oci_write_manifest(image, &config, &manifest, err);
	if (!rc)
		rc = oci_write_index(&manifest, &index, err);
	snprintf(layer, sizeof(layer), "blobs/sha256/%s", image->digest);
	if (!rc)
		rc = add_bytes(out, "oci-layout", oci_layout, strlen(oci_layout), err);
	if (!rc)
		rc = add_document(out, &index, "index.json", err);
	if (!rc)
		rc = add_document(out, &manifest, NULL, err);
	if (!rc)
		rc = add_document(out, &config, NULL, err);
	if (!rc)
		rc = add_spool(out, layer, spool_fd, image->size, err);
	oci_document_release(&config);
	oci_document_release(&manifest);
	oci_document_release(&index);
	return rc;
}

static int write_docker(const struct out *out, int spool_fd, const struct oci_image *image, struct err *err)
{
	struct oci_document config = { 0 }, manifest = { 0 };
	char layer[NAME_SIZE + 16], name[NAME_SIZE + 16];
	int rc = oci_write_config(image, &config, err);

	if (!rc)
		rc = oci_write_docker(image, &config, &manifest, err);
	snprintf(layer, sizeof(layer), "%s.tar", image->digest);
	snprintf(name, sizeof(name), "%s.json", config.digest);
	if (!rc)
		rc = add_document(out, &manifest, "manifest.json", err);
	if (!rc)
		rc = add_document(out, &config, name, err);
	if (!rc)
		rc = add_spool(out, layer, spool_fd, image->size, err);
	oci_document_release(&config);
	oci_document_release(&manifest);
	return rc;
}

static int write_archive(const struct image_export *export, int spool_fd, const struct oci_image *image,
			 struct err *err)
{
	struct out out = { .fd = export->fd, .tar = archive_write_new() };
	int rc;

	if (!out.tar)
		return err_set(err, -ENOMEM, "out of memory");
	if (archive_write_set_format_pax_restricted(out.tar) != ARCHIVE_OK ||
	    archive_write_open(out.tar, &out, NULL, write_out, NULL) != ARCHIVE_OK)
		rc = out_failed(&out, err);
	else if (export->kind == EXPORT_OCI)
		rc = write_oci(&out, spool_fd, image, err);
	else
		rc = write_docker(&out, spool_fd, image, err);
	if (!rc && archive_write_close(out.tar) != ARCHIVE_OK)
		rc = out_failed(&out, err);
	archive_write_free(out.tar);
	return rc;
}

int image_export(struct image_export *export, struct err *err)
{
	struct export_job job = { .export = export, .spool_fd = confined_spool(err) };
	struct confined confined = {
		.work = pack_disk,
		.arg = &job,
		.progress = export->progress,
		.progress_arg = export->arg,
		.our_fd = -1,
		.their_fd = -1,
	};
	struct pack_result result;
	struct oci_image image;
	struct buf said = { 0 };
	char name[NAME_SIZE];
	int rc;

	if (job.spool_fd < 0)
		return job.spool_fd;
	rc = confined_run(&confined, &said, err);
	if (!rc)
		rc = take_answer(&said, job.spool_fd, &result, err);
	if (!rc) {
		repository(export->name, name);
		image = (struct oci_image){
			.name = name,
			.config = &said,
			.digest = result.digest,
			.diff_id = result.diff_id,
			.size = result.size,
			.created = time(NULL),
		};
		rc = write_archive(export, job.spool_fd, &image, err);
	}
	buf_release(&said);
	close(job.spool_fd);
	return rc;
}
