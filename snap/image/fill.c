/* SPDX-License-Identifier: MIT */
/* fill.c - an open archive or layout goes into a new filesystem, in the jail */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/image/blob.h"
#include "snap/image/ext4.h"
#include "snap/image/import.h"
#include "snap/image/tarball.h"
#include "snap/image/unpack.h"
#include "snap/image_config.h"
#include "util/io.h"

/* ---- an image in a container */

struct fill {
	struct ext4 *fs;
	struct container container;
	uint64_t budget;
	atomic_uint_fast64_t *total;
	struct oci_manifest manifest;
	struct oci_config config;
};

/* Follow indexes to the manifest. */
static int find_manifest(struct fill *fill, const char *tag, struct err *err)
{
	struct oci_ref ref = { .name = "index.json", .size = UINT64_MAX, .is_index = true };
	struct buf text = { 0 };
	unsigned depth;
	int rc = 0;

	for (depth = 0; !rc && ref.is_index; depth++) {
		if (depth > OCI_DEPTH_MAX)
			return err_set(err, -ELOOP, "its indexes lead to indexes and no end");
		buf_clear(&text);
		rc = blob_document(&fill->container, &ref, &text, err);
		if (!rc)
			rc = oci_index(buf_bytes(&text), text.len, depth ? "" : tag, &ref, err);
	}
	buf_clear(&text);
	if (!rc)
		rc = blob_document(&fill->container, &ref, &text, err);
	if (!rc)
		rc = oci_manifest(buf_bytes(&text), text.len, &fill->manifest, err);
	buf_release(&text);
	return rc;
}

static int find_docker(struct fill *fill, const char *tag, struct err *err)
{
	const struct oci_ref ref = { .name = "manifest.json", .size = UINT64_MAX };
	struct buf text = { 0 };
	int rc = blob_document(&fill->container, &ref, &text, err);

	if (!rc)
		rc = oci_docker(buf_bytes(&text), text.len, tag, &fill->manifest, err);
	buf_release(&text);
	return rc;
}

static int read_config(struct fill *fill, struct err *err)
{
	struct buf text = { 0 };
	int rc = blob_document(&fill->container, &fill->manifest.config, &text, err);

	if (!rc)
		rc = oci_config(buf_bytes(&text), text.len, &fill->config, err);
	buf_release(&text);
	if (!rc && fill->config.ndiffs != fill->manifest.nlayers)
		rc = err_set(err, -EINVAL, "the image has %u layers, and its config lists %u",
			     fill->manifest.nlayers, fill->config.ndiffs);
	return rc;
}

static int apply_layers(struct fill *fill, struct err *err)
{
	const struct oci_manifest *manifest = &fill->manifest;
	uint64_t total = 0;
	unsigned i;
	int rc = 0;

	for (i = 0; i < manifest->nlayers; i++)
		total += manifest->layers[i].size == UINT64_MAX ? 0 : manifest->layers[i].size;
	*fill->total = total ? total : fill->container.tar_size;
	for (i = 0; !rc && i < manifest->nlayers; i++) {
		rc = tarball_apply(fill->fs, &fill->container, &manifest->layers[i], fill->config.diff_ids[i],
				   &fill->budget, err);
		if (rc && err && err->code)
			err_prefix(err, "layer %u", i + 1);
	}
	return rc;
}

static bool has(const struct container *container, const char *name, int *ret_rc, struct err *err)
{
	struct err why = { 0 };
	struct blob *blob;

	*ret_rc = blob_open(container, name, &blob, &why);
	if (!*ret_rc)
		blob_close(blob);
	else if (*ret_rc == -ENOENT)
		*ret_rc = 0;
	else
		return err_set(err, *ret_rc, "%s", why.text), false;
	return !why.code;
}

/* *ret_found: is there an image in the container? */
static int fill_from_container(struct fill *fill, const char *tag, bool *ret_found, struct err *err)
{
	int rc;

	*ret_found = true;
	if (has(&fill->container, "index.json", &rc, err))
		rc = find_manifest(fill, tag, err);
	else if (!rc && has(&fill->container, "manifest.json", &rc, err))
		rc = find_docker(fill, tag, err);
	else
		*ret_found = false;
	if (!rc && *ret_found)
		rc = read_config(fill, err);
	if (!rc && *ret_found)
		rc = apply_layers(fill, err);
	return rc;
}

/* What the agents of its machines look at. */
static int store_config(struct ext4 *fs, const struct buf *config, struct err *err)
{
	if (!config->len)
		return 0;
	return ext4_root_xattr(fs, IMAGE_CONFIG_XATTR, buf_bytes(config), config->len, err);
}

/* ---- a tar */

/* Is that how the archives begin that have images in them? */
static bool looks_like_container(const char *name)
{
	static const char *const names[] = { "oci-layout", "index.json", "manifest.json", "repositories" };
	size_t i, n;

	while (*name == '/' || (*name == '.' && name[1] == '/'))
		name += *name == '/' ? 1 : 2;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(name, names[i]))
			return true;
	n = strspn(name, "0123456789abcdef");
	return !strncmp(name, "blobs", 5) || n == OCI_DIGEST;
}

static bool is_root(const char *name)
{
	return !*name || !strcmp(name, ".") || !strcmp(name, "./") || !strcmp(name, "/");
}

/* What was decompressed and all that follows, into the spool. */
static int spool(struct tarball *tarball, int fd, struct err *err)
{
	const void *data;
	ssize_t n;
	int rc =
		tarball->kept->failed ? -ENOMEM : write_all(fd, buf_bytes(tarball->kept), tarball->kept->len);

	tarball->kept = NULL;
	while (!rc && (n = tarball_read(tarball, &data, err)) != 0) {
		if (n < 0)
			return (int)n;
		rc = write_all(fd, data, (size_t)n);
	}
	return rc ? err_sys(err, rc, "cannot keep the archive for a moment") : 0;
}

/* The first entry that is not the root, which may come before it. */
static int first_entry(const struct unpack *unpack, struct archive_entry *entry, bool *ret_end,
		       struct err *err)
{
	const char *name;
	int rc;

	for (;;) {
		rc = archive_read_next_header2(unpack->archive, entry);
		*ret_end = rc == ARCHIVE_EOF;
		if (*ret_end)
			return 0;
		if (rc < ARCHIVE_WARN)
			return unpack_failed(unpack->archive, "the archive", err);
		name = archive_entry_pathname(entry);
		if (!name)
			return err_set(err, -EINVAL, "a name in the archive cannot be read");
		if (!is_root(name))
			return 0;
		rc = unpack_entry(unpack, entry, err);
		if (rc)
			return rc;
	}
}

static int fill_from_tar(struct fill *fill, struct tarball *tarball, const struct import_input *input,
			 bool *ret_container, struct err *err)
{
	struct archive_entry *entry = archive_entry_new();
	const struct unpack unpack = { .fs = fill->fs, .archive = tarball->tar };
	bool end = false;
	struct stat st;
	int rc;

	if (!entry)
		return err_set(err, -ENOMEM, "out of memory");
	rc = first_entry(&unpack, entry, &end, err);
	if (!rc && !end && *ret_container && looks_like_container(archive_entry_pathname(entry))) {
		fill->container.tar_fd = input->fd;
		if (tarball_is_compressed(tarball) || lseek(input->fd, 0, SEEK_CUR) < 0) {
			rc = spool(tarball, input->spool_fd, err);
			fill->container.tar_fd = input->spool_fd;
		}
		if (!rc && fstat(fill->container.tar_fd, &st) < 0)
			rc = err_sys(err, -errno, "cannot read the archive");
		fill->container.tar_size = rc ? 0 : (uint64_t)st.st_size;
	} else {
		*ret_container = false;
		tarball->kept = NULL;
		if (!rc && !end)
			rc = unpack_entry(&unpack, entry, err);
		if (!rc && !end)
			rc = unpack_rest(&unpack, err);
		if (!rc)
			rc = tarball_end(tarball, "", "", err);
	}
	if (rc && tarball->err.code)
		rc = err_set(err, tarball->err.code, "%s", tarball->err.text);
	archive_entry_free(entry);
	return rc;
}

/* *ret_container: in, whether it may be one; out, whether it looks like one, and fill->container is it. */
static int try_tar(struct fill *fill, const struct import_input *input, int fd, bool *ret_container,
		   struct err *err)
{
	struct tarball *tarball = calloc(1, sizeof(*tarball));
	struct buf kept = { 0 };
	int rc;

	if (!tarball)
		return err_set(err, -ENOMEM, "out of memory");
	tarball->fd = fd;
	tarball->done = input->done;
	tarball->budget = &fill->budget;
	tarball->kept = &kept;
	rc = tarball_open(tarball, err);
	if (!rc)
		rc = fill_from_tar(fill, tarball, input, ret_container, err);
	tarball_close(tarball);
	free(tarball);
	buf_release(&kept);
	return rc;
}

static int fill_from_file(struct fill *fill, const struct import_input *input, struct err *err)
{
	bool container = true, found;
	struct stat st;
	int rc;

	if (!fstat(input->fd, &st) && S_ISREG(st.st_mode))
		*fill->total = (uint64_t)st.st_size;
	rc = try_tar(fill, input, input->fd, &container, err);
	if (rc || !container)
		return rc;
	*input->done = 0;
	rc = fill_from_container(fill, input->tag, &found, err);
	if (rc || found)
		return rc;
	/* Names that mean nothing. */
	container = false;
	if (lseek(fill->container.tar_fd, 0, SEEK_SET) < 0)
		return err_sys(err, -errno, "cannot read the archive");
	return try_tar(fill, input, fill->container.tar_fd, &container, err);
}

int import_fill(struct ext4 *fs, const struct import_input *input, struct buf *ret_config, struct err *err)
{
	struct fill *fill = calloc(1, sizeof(*fill));
	bool found;
	int rc;

	if (!fill)
		return err_set(err, -ENOMEM, "out of memory");
	fill->fs = fs;
	fill->budget = input->budget;
	fill->total = input->total;
	fill->container = (struct container){
		.tar_fd = -1,
		.broker_fd = input->broker_fd,
		.done = input->done,
	};
	rc = input->fd >= 0 ? fill_from_file(fill, input, err)
			    : fill_from_container(fill, input->tag, &found, err);
	if (!rc && input->fd < 0 && !found)
		rc = err_set(err, -EINVAL, "the layout has no index.json");
	if (!rc)
		rc = store_config(fs, &fill->config.text, err);
	*ret_config = fill->config.text;
	free(fill);
	return rc;
}
