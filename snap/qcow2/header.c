/* SPDX-License-Identifier: MIT */
/*
 * header.c - what a qcow2 file says of itself
 *
 * Any byte may be a guest's or a stranger's. Refused is whatever could lead a reader to another file (a
 * backing name with a path or a protocol in it, "json:", "nbd:"; an external data file; a raw backing file
 * that is not called one and would be probed), and every feature that is not needed to read our own layers.
 */
#include "snap/qcow2/header.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "snap/qcow2/format.h"
#include "util/io.h"

/* The header, its extensions and the name are within so many bytes. */
enum { HEAD = 4096 };

static bool has_ending(const char *name, const char *ending)
{
	const size_t n = strlen(name), m = strlen(ending);

	return n > m && !strcmp(name + n - m, ending);
}

bool qcow2_name_valid(const char *name)
{
	const char *p;

	for (p = name; *p; p++)
		if (!(*p >= 'a' && *p <= 'z') && !(*p >= '0' && *p <= '9') &&
		    (p == name || (*p != '.' && *p != '-')))
			return false;
	return p - name <= QCOW2_NAME_MAX && (has_ending(name, ".raw") || has_ending(name, ".qcow2"));
}

bool qcow2_name_raw(const char *name)
{
	return has_ending(name, ".raw");
}

static void to_host(struct qcow2_header *h)
{
	h->magic = be32toh(h->magic);
	h->version = be32toh(h->version);
	h->backing_offset = be64toh(h->backing_offset);
	h->backing_size = be32toh(h->backing_size);
	h->cluster_bits = be32toh(h->cluster_bits);
	h->size = be64toh(h->size);
	h->l1_size = be32toh(h->l1_size);
	h->l1_offset = be64toh(h->l1_offset);
	h->reftable_offset = be64toh(h->reftable_offset);
	h->reftable_clusters = be32toh(h->reftable_clusters);
	h->incompatible = be64toh(h->incompatible);
	h->refcount_order = be32toh(h->refcount_order);
	h->header_length = be32toh(h->header_length);
}

/* What it is about the file that we do not have; NULL: nothing. */
static const char *strange(const struct qcow2_header *h)
{
	if (h->crypt_method)
		return "encryption";
	if (h->nb_snapshots)
		return "internal snapshots";
	if (h->incompatible & QCOW2_INCOMPAT_DIRTY)
		return "refcounts that need a repair";
	if (h->incompatible & QCOW2_INCOMPAT_CORRUPT)
		return "a mark that it is corrupt";
	if (h->incompatible & QCOW2_INCOMPAT_DATA_FILE)
		return "an external data file";
	if (h->incompatible & QCOW2_INCOMPAT_COMPRESSION)
		return "zstd compression";
	if (h->incompatible & QCOW2_INCOMPAT_EXTL2)
		return "extended L2 entries";
	/* Autoclear bits, of bitmaps say, end when somebody writes who does not know them: none of ours has any. */
	if (h->incompatible || h->autoclear)
		return "a feature of later versions";
	if (h->refcount_order != QCOW2_REFCOUNT_ORDER)
		return "refcounts that are not 16 bits wide";
	if (h->cluster_bits != QCOW2_CLUSTER_BITS)
		return "clusters that are not of 64 KiB";
	return NULL;
}

/* Is a table of n bytes inside the file, behind the header? */
static bool inside(uint64_t offset, uint64_t n, uint64_t file_size)
{
	return offset && offset % QCOW2_CLUSTER == 0 && offset < file_size && n <= file_size - offset;
}

static int check_tables(const struct qcow2_header *h, struct qcow2_info *info, struct err *err)
{
	const uint64_t l1_entries = QCOW2_L1_ENTRIES(h->size);

	if (!h->size || h->size % 512 || h->size > QCOW2_DISK_MAX)
		return err_set(err, -EINVAL, "a disk of %llu bytes is not supported",
			       (unsigned long long)h->size);
	if (h->l1_size < l1_entries || !inside(h->l1_offset, l1_entries * sizeof(uint64_t), info->file_size))
		return err_set(err, -EINVAL, "the L1 table is out of place");
	if (h->reftable_clusters != 1 || !inside(h->reftable_offset, QCOW2_CLUSTER, info->file_size))
		return err_set(err, -EINVAL, "the refcount table is out of place");
	info->size = h->size;
	info->l1_offset = h->l1_offset;
	info->reftable_offset = h->reftable_offset;
	return 0;
}

/* Find the backing format among the extensions, which are n bytes; *ret_n is 0 when there is none. */
static int find_format(const uint8_t *p, size_t n, const uint8_t **ret, size_t *ret_n, struct err *err)
{
	struct qcow2_extension ext;
	size_t padded;

	*ret_n = 0;
	for (; n >= sizeof(ext); p += padded, n -= padded) {
		memcpy(&ext, p, sizeof(ext));
		ext.type = be32toh(ext.type);
		ext.len = be32toh(ext.len);
		p += sizeof(ext);
		n -= sizeof(ext);
		if (!ext.type)
			return 0;
		if (ext.len > n)
			return err_set(err, -EINVAL, "a header extension is cut off");
		if (ext.type == QCOW2_EXT_BACKING_FORMAT) {
			*ret = p;
			*ret_n = ext.len;
		}
		padded = (ext.len + 7u) & ~(size_t)7;
		if (padded > n)
			return 0;
	}
	return 0;
}

/* The backing file's name is in the head, n bytes, behind the extensions. */
static int read_backing(const struct qcow2_header *h, const uint8_t *head, size_t n, struct qcow2_info *info,
			struct err *err)
{
	const uint8_t *format = NULL;
	const char *expected;
	size_t format_len;
	int rc;

	if (h->header_length < sizeof(*h) || h->header_length > n)
		return err_set(err, -EINVAL, "a header of %u bytes is not supported", h->header_length);
	if (!h->backing_offset)
		return 0;
	if (h->backing_offset < h->header_length || h->backing_offset > n ||
	    h->backing_size > n - h->backing_offset || h->backing_size > QCOW2_NAME_MAX)
		return err_set(err, -EINVAL, "the backing file's name is out of place");
	memcpy(info->backing, head + h->backing_offset, h->backing_size);
	if (strlen(info->backing) != h->backing_size || !qcow2_name_valid(info->backing))
		return err_set(err, -EINVAL, "the backing file's name is not that of a layer");
	rc = find_format(head + h->header_length, h->backing_offset - h->header_length, &format, &format_len,
			 err);
	if (rc)
		return rc;
	expected = qcow2_name_raw(info->backing) ? "raw" : "qcow2";
	if (format_len != strlen(expected) || memcmp(format, expected, format_len) != 0)
		return err_set(err, -EINVAL, "it does not say that backing file %s is %s", info->backing,
			       expected);
	return 0;
}

static int read_header(int fd, struct qcow2_info *info, struct err *err)
{
	uint8_t head[HEAD];
	struct qcow2_header h;
	const ssize_t n = pread_some(fd, head, sizeof(head), 0);
	const char *what;
	int rc;

	if (n < 0)
		return err_sys(err, (int)n, "cannot read the header");
	if ((size_t)n < sizeof(h))
		return err_set(err, -EINVAL, "too short for a qcow2 file");
	memcpy(&h, head, sizeof(h));
	to_host(&h);
	if (h.magic != QCOW2_MAGIC)
		return err_set(err, -EINVAL, "not a qcow2 file");
	if (h.version != 3)
		return err_set(err, -EINVAL, "qcow2 of version %u, and only 3 is supported", h.version);
	what = strange(&h);
	if (what)
		return err_set(err, -EINVAL, "it has %s, which is not supported", what);
	rc = check_tables(&h, info, err);
	return rc ? rc : read_backing(&h, head, (size_t)n, info, err);
}

int qcow2_inspect(int fd, bool raw, struct qcow2_info *ret, struct err *err)
{
	struct stat st;
	int rc = 0;

	*ret = (struct qcow2_info){ 0 };
	if (fstat(fd, &st) < 0)
		return err_sys(err, -errno, "cannot read it");
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "not a regular file");
	if ((uint64_t)st.st_size > QCOW2_FILE_MAX)
		return err_set(err, -EINVAL, "a file of %lld bytes is too large", (long long)st.st_size);
	ret->file_size = ret->size = (uint64_t)st.st_size;
	if (!raw)
		rc = read_header(fd, ret, err);
	return rc;
}
