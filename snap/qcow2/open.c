/* SPDX-License-Identifier: MIT */
/*
 * qcow2_open.c - open the files of a chain, trusting none of them
 *
 * A guest may have written what is now a backing file, and a raw one may well begin like a qcow2 header that
 * names some file of the host. So formats are never guessed: the overlay must say what it builds on, backing
 * files are bare names, looked up in one directory without following links, and only regular files are
 * opened.
 */
#include "snap/qcow2/priv.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/qcow2/format.h"

enum {
	CLUSTER_BITS_MIN = 9,
	CLUSTER_BITS_MAX = 21,
	L1_BYTES_MAX = 32 << 20, /* QEMU's limit too */
	DEPTH_MAX = 256,
};

static void header_to_host(struct qcow2_header *h)
{
	h->magic = be32toh(h->magic);
	h->version = be32toh(h->version);
	h->backing_offset = be64toh(h->backing_offset);
	h->backing_size = be32toh(h->backing_size);
	h->cluster_bits = be32toh(h->cluster_bits);
	h->size = be64toh(h->size);
	h->crypt_method = be32toh(h->crypt_method);
	h->l1_size = be32toh(h->l1_size);
	h->l1_offset = be64toh(h->l1_offset);
	h->reftable_offset = be64toh(h->reftable_offset);
	h->reftable_clusters = be32toh(h->reftable_clusters);
	h->nb_snapshots = be32toh(h->nb_snapshots);
	h->snapshots_offset = be64toh(h->snapshots_offset);
	h->incompatible = be64toh(h->incompatible);
	h->compatible = be64toh(h->compatible);
	h->autoclear = be64toh(h->autoclear);
	h->refcount_order = be32toh(h->refcount_order);
	h->header_length = be32toh(h->header_length);
}

static int check_features(const struct qfile *file, const struct qcow2_header *h, struct err *err)
{
	const char *feature = NULL;

	if (h->crypt_method)
		feature = "encryption";
	else if (h->nb_snapshots)
		feature = "internal snapshots";
	else if (h->incompatible & QCOW2_INCOMPAT_DATA_FILE)
		feature = "an external data file";
	else if (h->incompatible & QCOW2_INCOMPAT_COMPRESSION)
		feature = "zstd compression";
	else if (h->incompatible & QCOW2_INCOMPAT_EXTL2)
		feature = "extended L2 entries";
	else if (h->incompatible & ~(uint64_t)(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT))
		feature = "an incompatible feature of later versions";
	else if (file->writable && h->refcount_order != 4)
		feature = "refcounts that are not 16 bits wide";
	if (feature)
		return err_set(err, -ENOTSUP, "disk file %s uses %s, which is not supported", file->name,
			       feature);
	if (h->incompatible & QCOW2_INCOMPAT_CORRUPT)
		return err_set(err, -EINVAL, "disk file %s is marked corrupt", file->name);
	if (file->writable && h->incompatible & QCOW2_INCOMPAT_DIRTY)
		return err_set(err, -EINVAL, "disk file %s was not closed: its refcounts need a repair",
			       file->name);
	return 0;
}

static int check_geometry(struct qfile *file, const struct qcow2_header *h, struct err *err)
{
	uint64_t l1_needed, table_bytes;

	if (h->cluster_bits < CLUSTER_BITS_MIN || h->cluster_bits > CLUSTER_BITS_MAX)
		return err_set(err, -EINVAL, "disk file %s has clusters of 2^%u bytes", file->name,
			       h->cluster_bits);
	file->cluster_bits = h->cluster_bits;
	file->slice_bits = h->cluster_bits - 3 < SLICE_BITS ? h->cluster_bits - 3 : SLICE_BITS;
	file->size = h->size & ~511ull;
	/* An L2 table of 2^(bits - 3) entries maps 2^(2 bits - 3) bytes. */
	l1_needed = h->size ? ((h->size - 1) >> (2 * h->cluster_bits - 3)) + 1 : 0;
	if (l1_needed > L1_BYTES_MAX / 8)
		return err_set(err, -EINVAL, "disk file %s: a disk of %llu bytes is too large", file->name,
			       (unsigned long long)h->size);
	if (h->l1_size < l1_needed || h->l1_offset % cluster_size(file) || h->l1_offset > file->file_size ||
	    l1_needed * 8 > file->file_size - h->l1_offset || (l1_needed && !h->l1_offset))
		return err_set(err, -EINVAL, "disk file %s: the L1 table is not inside the file", file->name);
	file->l1_size = (uint32_t)l1_needed;
	file->l1_offset = h->l1_offset;
	if (!file->writable)
		return 0;
	table_bytes = (uint64_t)h->reftable_clusters << h->cluster_bits;
	if (!h->reftable_clusters || !h->reftable_offset || h->reftable_offset % cluster_size(file) ||
	    h->reftable_offset > file->file_size || table_bytes > file->file_size - h->reftable_offset)
		return err_set(err, -EINVAL, "disk file %s: the refcount table is not inside the file",
			       file->name);
	file->refs.table_offset = h->reftable_offset;
	file->refs.table_clusters = h->reftable_clusters;
	return 0;
}

static int load_l1(struct qfile *file, struct err *err)
{
	uint32_t i;
	int rc;

	file->l1 = malloc(file->l1_size ? file->l1_size * sizeof(*file->l1) : 1);
	if (!file->l1)
		return err_set(err, -ENOMEM, "no memory for the L1 table of %s", file->name);
	rc = pread_all(file->fd, file->l1, file->l1_size * sizeof(*file->l1), file->l1_offset);
	if (rc < 0)
		return err_sys(err, rc, "cannot read the L1 table of disk file %s", file->name);
	for (i = 0; i < file->l1_size; i++)
		file->l1[i] = be64toh(file->l1[i]);
	return 0;
}

static int open_qcow2(struct qfile *file, struct err *err)
{
	struct qcow2_header h;
	const uint64_t none = 0;
	int rc;

	rc = pread_all(file->fd, &h, sizeof(h), 0);
	if (rc == -EIO)
		return err_set(err, -EINVAL, "disk file %s is too short for a qcow2 header", file->name);
	if (rc < 0)
		return err_sys(err, rc, "cannot read disk file %s", file->name);
	header_to_host(&h);
	if (h.magic != QCOW2_MAGIC)
		return err_set(err, -EINVAL, "disk file %s is not a qcow2 file", file->name);
	if (h.version != 3)
		return err_set(err, -ENOTSUP, "disk file %s is qcow2 version %u; only 3 is supported",
			       file->name, h.version);
	rc = check_features(file, &h, err);
	if (!rc)
		rc = check_geometry(file, &h, err);
	if (!rc)
		rc = load_l1(file, err);
	if (rc || !file->writable)
		return rc;
	rc = refs_load(file, err);
	if (rc)
		return rc;
	/* These features (bitmaps, say) end when somebody who does not know them writes. */
	if (h.autoclear)
		rc = pwrite_all(file->fd, &none, sizeof(none), offsetof(struct qcow2_header, autoclear));
	return rc < 0 ? err_sys(err, rc, "cannot write disk file %s", file->name) : 0;
}

int qfile_open(int dirfd, const char *name, bool raw, bool writable, struct qfile **ret, struct err *err)
{
	struct qfile *file = calloc(1, sizeof(*file));
	struct stat st;
	const size_t name_len = strlen(name);
	int rc;

	if (!file)
		return err_set(err, -ENOMEM, "no memory for disk file %s", name);
	file->fd = -1;
	file->raw = raw;
	file->writable = file->unsynced = writable;
	if (name_len >= sizeof(file->name)) {
		rc = err_set(err, -ENAMETOOLONG, "the name of disk file %.32s... is too long", name);
		goto fail;
	}
	memcpy(file->name, name, name_len + 1);
	/* Non-blocking, so that a FIFO in its place cannot stop us; it means nothing for a regular file. */
	file->fd = openat(dirfd, name, (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (file->fd < 0 || fstat(file->fd, &st) < 0) {
		rc = err_sys(err, -errno, "cannot open disk file %s", name);
		goto fail;
	}
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > QCOW2_OFFSET) {
		rc = err_set(err, -EINVAL, "disk file %s is not a regular file", name);
		goto fail;
	}
	file->file_size = (uint64_t)st.st_size;
	if (raw)
		file->size = file->file_size & ~511ull;
	rc = raw ? 0 : open_qcow2(file, err);
	if (rc)
		goto fail;
	*ret = file;
	return 0;
fail:
	qfile_close(file);
	return rc;
}

void qfile_close(struct qfile *file)
{
	unsigned i;

	if (!file)
		return;
	for (i = 0; i < SLICE_CACHE; i++)
		free(file->cache[i].entries);
	refs_release(&file->refs);
	free(file->l1);
	if (file->fd >= 0)
		close(file->fd);
	free(file);
}

void qfile_close_chain(struct qfile *file)
{
	struct qfile *backing;

	for (; file; file = backing) {
		backing = file->backing;
		qfile_close(file);
	}
}

/* Look for the backing file's format among the header extensions: between the header and its name. */
static int backing_format(const struct qfile *file, const uint8_t *p, size_t len, bool *ret_raw,
			  struct err *err)
{
	uint32_t type, n;

	while (len >= 8) {
		memcpy(&type, p, sizeof(type));
		memcpy(&n, p + 4, sizeof(n));
		type = be32toh(type);
		n = be32toh(n);
		p += 8;
		len -= 8;
		if (!type || n > len)
			break;
		if (type == QCOW2_EXT_BACKING_FORMAT) {
			*ret_raw = n == 3 && !memcmp(p, "raw", 3);
			if (*ret_raw || (n == 5 && !memcmp(p, "qcow2", 5)))
				return 0;
			return err_set(err, -ENOTSUP, "disk file %s builds on a file neither raw nor qcow2",
				       file->name);
		}
		n = (n + 7) & ~7u;
		if (n > len)
			break;
		p += n;
		len -= n;
	}
	return err_set(err, -EINVAL, "disk file %s does not say what format its backing file has",
		       file->name);
}

int qfile_backing_name(const struct qfile *file, char ret_name[NAME_MAX + 1], bool *ret_raw, struct err *err)
{
	struct qcow2_header h;
	uint8_t *buf = NULL;
	int rc;

	ret_name[0] = '\0';
	*ret_raw = false;
	if (file->raw)
		return 0;
	rc = pread_all(file->fd, &h, sizeof(h), 0);
	if (rc < 0)
		return err_sys(err, rc, "cannot read disk file %s", file->name);
	header_to_host(&h);
	if (!h.backing_offset)
		return 0;
	/* The extensions and the name are in the first cluster, the name last. */
	if (h.header_length < sizeof(h) || h.backing_offset < h.header_length ||
	    h.backing_offset > cluster_size(file) || !h.backing_size || h.backing_size > NAME_MAX ||
	    h.backing_size > cluster_size(file) - h.backing_offset)
		return err_set(err, -EINVAL, "disk file %s: the name of its backing file is misplaced",
			       file->name);
	buf = malloc(h.backing_offset + h.backing_size);
	if (!buf)
		return err_set(err, -ENOMEM, "no memory for the header of %s", file->name);
	rc = pread_all(file->fd, buf, h.backing_offset + h.backing_size, 0);
	if (rc < 0) {
		rc = err_sys(err, rc, "cannot read disk file %s", file->name);
		goto out;
	}
	rc = backing_format(file, buf + h.header_length, h.backing_offset - h.header_length, ret_raw, err);
	if (rc)
		goto out;
	memcpy(ret_name, buf + h.backing_offset, h.backing_size);
	ret_name[h.backing_size] = '\0';
	if (strlen(ret_name) != h.backing_size || strpbrk(ret_name, "/:") || !strcmp(ret_name, ".") ||
	    !strcmp(ret_name, ".."))
		rc = err_set(err, -EINVAL, "disk file %s: its backing file is not a name in its directory",
			     file->name);
out:
	free(buf);
	return rc;
}

int qfile_open_chain(int dirfd, const char *name, bool writable, struct qfile **ret, struct err *err)
{
	char backing[NAME_MAX + 1];
	struct qfile *top = NULL, *file, **next = &top;
	unsigned depth = 0;
	bool raw = false;
	int rc;

	for (;;) {
		file = NULL;
		rc = qfile_open(dirfd, name, raw, writable && !depth, &file, err);
		if (!file)
			break;
		*next = file;
		next = &file->backing;
		rc = qfile_backing_name(file, backing, &raw, err);
		if (rc || !backing[0])
			break;
		/* A loop ends here as well. */
		if (++depth >= DEPTH_MAX) {
			rc = err_set(err, -ELOOP, "disk file %s builds on more than %d others", top->name,
				     DEPTH_MAX);
			break;
		}
		name = backing;
	}
	if (rc)
		qfile_close_chain(top);
	else
		*ret = top;
	return rc;
}
