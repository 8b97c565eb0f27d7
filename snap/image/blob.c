/* SPDX-License-Identifier: MIT */
/* blob.c - the files of a container image */
#include "snap/image/blob.h"

#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/image/unpack.h"
#include "util/io.h"
#include "util/message.h"

enum { MEMBERS_MAX = 100000, LINKS_MAX = 8 };

struct blob {
	uint64_t size, at;
	atomic_uint_fast64_t *done;
	int fd;                  /* of a directory's file; -1 */
	struct archive *archive; /* of a member, at its data */
	struct tar_file file;
};

/* ---- a tar */

static la_ssize_t tar_read(struct archive *archive, void *arg, const void **ret)
{
	struct tar_file *file = arg;
	ssize_t n = pread_some(file->fd, file->data, sizeof(file->data), file->at);

	if (n < 0) {
		archive_set_error(archive, (int)-n, "cannot be read");
		return ARCHIVE_FATAL;
	}
	file->at += (uint64_t)n;
	*ret = file->data;
	return n;
}

static la_int64_t tar_skip(struct archive *archive, void *arg, la_int64_t n)
{
	struct tar_file *file = arg;

	(void)archive;
	if (n <= 0 || file->at >= file->size)
		return 0;
	if ((uint64_t)n > file->size - file->at)
		n = (la_int64_t)(file->size - file->at);
	file->at += (uint64_t)n;
	return n;
}

int tar_open(struct archive *archive, struct tar_file *file, struct err *err)
{
	file->at = 0;
	if (archive_read_open2(archive, file, NULL, tar_read, tar_skip, NULL) != ARCHIVE_OK)
		return unpack_failed(archive, "the archive", err);
	return 0;
}

/* Names of members with and without "./" at the beginning are the same. */
static const char *plain(const char *name)
{
	while (*name == '/' || (*name == '.' && name[1] == '/'))
		name += *name == '/' ? 1 : 2;
	return name;
}

/* Where a link in a tar leads, as `docker save` made them: "../HEX/layer.tar" beside its own directory. */
static int follow(char name[OCI_NAME_MAX + 1], const char *target, bool hard, struct err *err)
{
	char path[2 * OCI_NAME_MAX + 2];
	char *slash = strrchr(name, '/');
	const char *p = target;

	if (hard) {
		if (snprintf(path, sizeof(path), "%s", plain(target)) > OCI_NAME_MAX)
			return err_set(err, -EINVAL, "a link in the archive leads too far");
		memcpy(name, path, strlen(path) + 1);
		return 0;
	}
	if (slash)
		*slash = '\0';
	else
		*name = '\0';
	while (!strncmp(p, "../", 3)) {
		slash = strrchr(name, '/');
		if (!*name)
			return err_set(err, -EINVAL, "a link in the archive leads out of it");
		*(slash ? slash : name) = '\0';
		p += 3;
	}
	if (*p == '/' || strstr(p, "../") ||
	    snprintf(path, sizeof(path), "%s%s%s", name, *name ? "/" : "", p) > OCI_NAME_MAX)
		return err_set(err, -EINVAL, "a link in the archive leads out of it");
	memcpy(name, path, strlen(path) + 1);
	return 0;
}

static struct archive *new_tar(void)
{
	struct archive *archive = archive_read_new();

	if (archive)
		archive_read_support_format_tar(archive);
	return archive;
}

/* 1: found, and blob->archive is there. 2: a link, and name says to what. */
static int find_member(struct blob *blob, char name[OCI_NAME_MAX + 1], struct err *err)
{
	struct archive_entry *entry;
	const char *found;
	unsigned n = 0;
	int rc = 0;

	archive_read_free(blob->archive);
	blob->archive = new_tar();
	if (!blob->archive)
		return err_set(err, -ENOMEM, "out of memory");
	rc = tar_open(blob->archive, &blob->file, err);
	while (!rc) {
		rc = archive_read_next_header(blob->archive, &entry);
		if (rc == ARCHIVE_EOF)
			return err_set(err, -ENOENT, "there is no %.80s in the archive", name);
		if (rc < ARCHIVE_WARN)
			return unpack_failed(blob->archive, "the archive", err);
		rc = 0;
		if (n++ > MEMBERS_MAX)
			return err_set(err, -E2BIG, "the archive has more than %d members", MEMBERS_MAX);
		found = archive_entry_pathname(entry);
		if (!found || strcmp(plain(found), name) != 0)
			continue;
		if (archive_entry_symlink(entry) || archive_entry_hardlink(entry)) {
			rc = archive_entry_hardlink(entry)
				     ? follow(name, archive_entry_hardlink(entry), true, err)
				     : follow(name, archive_entry_symlink(entry), false, err);
			return rc ? rc : 2;
		}
		if (archive_entry_filetype(entry) != AE_IFREG)
			return err_set(err, -EINVAL, "%.80s in the archive is not a file", name);
		blob->size = (uint64_t)archive_entry_size(entry);
		return 1;
	}
	return rc;
}

static int open_member(struct blob *blob, const char *wanted, struct err *err)
{
	char name[OCI_NAME_MAX + 1];
	unsigned links;
	int rc = 2;

	snprintf(name, sizeof(name), "%s", plain(wanted));
	for (links = 0; rc == 2; links++) {
		if (links > LINKS_MAX)
			return err_set(err, -ELOOP, "%.80s in the archive is a link that leads nowhere",
				       wanted);
		rc = find_member(blob, name, err);
	}
	return rc < 0 ? rc : 0;
}

/* ---- a directory */

struct broker_request {
	char name[OCI_NAME_MAX + 1];
};

static bool is_hex(const char *text)
{
	return strlen(text) == OCI_DIGEST && strspn(text, "0123456789abcdef") == OCI_DIGEST;
}

/* Each directory on the way, so that no link in one is followed. */
static int open_layout_file(int dir_fd, const char *name)
{
	static const char blobs[] = "blobs/sha256/";
	int fd = -1, up, file, rc;

	if (!strcmp(name, "index.json") || !strcmp(name, "oci-layout"))
		up = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	else if (strncmp(name, blobs, strlen(blobs)) != 0 || !is_hex(name + strlen(blobs)))
		return -ENOENT;
	else {
		fd = openat(dir_fd, "blobs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		up = fd < 0 ? -1 : openat(fd, "sha256", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		name += strlen(blobs);
	}
	file = up < 0 ? -1 : openat(up, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	rc = file < 0 ? -errno : file;
	if (fd >= 0)
		close(fd);
	if (up >= 0)
		close(up);
	return rc;
}

bool broker_answer(int fd, int dir_fd)
{
	struct broker_request request;
	int file, code, rc = message_recv(fd, &request, sizeof(request), NULL, NULL, 0, 0);

	if (rc < 0)
		return false;
	request.name[sizeof(request.name) - 1] = '\0';
	file = open_layout_file(dir_fd, request.name);
	code = file < 0 ? file : 0;
	rc = message_send(fd, &code, sizeof(code), &file, file >= 0);
	if (file >= 0)
		close(file);
	return !rc;
}

static int open_file(const struct container *container, struct blob *blob, const char *name, struct err *err)
{
	struct broker_request request = { 0 };
	struct stat st;
	int code = 0, rc;

	snprintf(request.name, sizeof(request.name), "%s", name);
	rc = message_send(container->broker_fd, &request, sizeof(request), NULL, 0);
	if (!rc)
		rc = message_recv(container->broker_fd, &code, sizeof(code), NULL, &blob->fd, 1, 0);
	if (rc < 0)
		return err_sys(err, rc, "cannot ask for %.80s", name);
	if (code)
		return err_sys(err, code < 0 ? code : -EIO, "%.80s", name);
	if (!rc)
		return err_set(err, -EIO, "%.80s was not opened", name);
	if (fstat(blob->fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%.80s is not a file", name);
	blob->size = (uint64_t)st.st_size;
	return 0;
}

/* ---- either */

int blob_open(const struct container *container, const char *name, struct blob **ret, struct err *err)
{
	struct blob *blob = calloc(1, sizeof(*blob));
	int rc;

	if (!blob)
		return err_set(err, -ENOMEM, "out of memory");
	blob->fd = -1;
	blob->done = container->done;
	blob->file.fd = container->tar_fd;
	blob->file.size = container->tar_size;
	rc = container->tar_fd >= 0 ? open_member(blob, name, err) : open_file(container, blob, name, err);
	if (rc)
		blob_close(blob);
	else
		*ret = blob;
	return rc;
}

void blob_close(struct blob *blob)
{
	archive_read_free(blob->archive);
	if (blob->fd >= 0)
		close(blob->fd);
	free(blob);
}

uint64_t blob_size(const struct blob *blob)
{
	return blob->size;
}

ssize_t blob_read(struct blob *blob, void *data, size_t n, struct err *err)
{
	ssize_t got;

	if (blob->fd >= 0) {
		got = pread_some(blob->fd, data, n, blob->at);
		if (got < 0)
			return err_sys(err, (int)got, "cannot read the image");
	} else {
		got = archive_read_data(blob->archive, data, n);
		if (got < 0)
			return unpack_failed(blob->archive, "the archive", err);
	}
	blob->at += (uint64_t)got;
	if (blob->done)
		*blob->done += (uint64_t)got;
	return got;
}

int digest_check(struct sha256_ctx *sum, const char *digest, const char *what, struct err *err)
{
	uint8_t bytes[SHA256_DIGEST_SIZE];
	char text[OCI_DIGEST + 1];
	unsigned i;

	sha256_digest(sum, sizeof(bytes), bytes);
	for (i = 0; i < sizeof(bytes); i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	if (!*digest || !strcmp(text, digest))
		return 0;
	return err_set(err, -EIO, "%s is not what its digest says: it should be %.12s... and is %.12s...",
		       what, digest, text);
}

int blob_document(const struct container *container, const struct oci_ref *ref, struct buf *ret,
		  struct err *err)
{
	struct sha256_ctx sum;
	struct blob *blob;
	ssize_t n = 1;
	uint8_t *room;
	int rc = blob_open(container, ref->name, &blob, err);

	if (rc)
		return rc;
	if (blob->size > OCI_DOCUMENT_MAX)
		rc = err_set(err, -E2BIG, "%.80s has more than %d bytes", ref->name, OCI_DOCUMENT_MAX);
	else if (ref->size != UINT64_MAX && ref->size != blob->size)
		rc = err_set(err, -EIO, "%.80s does not have the size it should have", ref->name);
	while (!rc && n > 0) {
		room = buf_reserve(ret, 16384);
		if (!room) {
			rc = err_set(err, -ENOMEM, "out of memory");
			break;
		}
		n = blob_read(blob, room, 16384, err);
		if (n < 0)
			rc = (int)n;
		else
			buf_grow(ret, (size_t)n);
		if (ret->len > OCI_DOCUMENT_MAX)
			rc = err_set(err, -E2BIG, "%.80s has more than %d bytes", ref->name,
				     OCI_DOCUMENT_MAX);
	}
	blob_close(blob);
	if (rc)
		return rc;
	sha256_init(&sum);
	sha256_update(&sum, ret->len, buf_bytes(ret));
	return digest_check(&sum, ref->digest, ref->name, err);
}
