/* SPDX-License-Identifier: MIT */
/*
 * qcow2_io.c - read, write, zero: one request, from beginning to end, in the calling thread
 *
 * The lock is held to look into the map and to change it, never while guest data moves. A write to a cluster
 * this file does not have yet counts a new one, fills it (with what was there before, around what is written)
 * and only then links it; meanwhile the guest cluster is on the list `allocating`, and other writes to it
 * wait.
 */
#include "snap/qcow2/priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/list.h"

/* Guest clusters whose host clusters are being filled. */
struct filling {
	struct list link;
	uint64_t first, end;
};

int qdisk_open(const char *path, bool writable, struct qdisk *disk, struct err *err)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	pthread_rwlockattr_t attr;
	int rc;

	if (!dir)
		return err_set(err, -ENOMEM, "no memory for disk file %s", name);
	disk->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(dir);
	if (disk->dirfd < 0)
		return err_sys(err, -errno, "cannot open the directory of disk file %s", path);
	rc = qfile_open_chain(disk->dirfd, name, writable, &disk->top, err);
	if (rc) {
		close(disk->dirfd);
		return rc;
	}
	disk->size = disk->top->size;
	/* By default readers that keep coming would lock out a writer for good. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&disk->busy, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&disk->lock, NULL);
	pthread_cond_init(&disk->linked, NULL);
	list_init(&disk->allocating);
	return 0;
}

void qdisk_close(struct qdisk *disk)
{
	qfile_close_chain(disk->top);
	close(disk->dirfd);
	pthread_rwlock_destroy(&disk->busy);
	pthread_mutex_destroy(&disk->lock);
	pthread_cond_destroy(&disk->linked);
}

/* ---- reading */

static int read_range(struct qdisk *disk, uint64_t offset, uint64_t len, struct cursor *to)
{
	struct extent extent;
	int rc = 0;

	while (!rc && len) {
		pthread_mutex_lock(&disk->lock);
		rc = qfile_map_chain(disk->top, offset, len, &extent);
		pthread_mutex_unlock(&disk->lock);
		if (rc)
			break;
		if (extent.kind == EXTENT_DATA)
			rc = preadv_padded(extent.file->fd, to, extent.len, extent.host);
		else
			cursor_zero(to, extent.len);
		offset += extent.len;
		len -= extent.len;
	}
	return rc;
}

int qdisk_read(struct qdisk *disk, uint64_t offset, uint64_t len, struct cursor to)
{
	int rc;

	pthread_rwlock_rdlock(&disk->busy);
	rc = read_range(disk, offset, len, &to);
	pthread_rwlock_unlock(&disk->busy);
	return rc;
}

/* ---- writing */

/*
 * Copy what the guest would read at `offset` to the host offset `to`. Behind the disk's end are zeroes. Where
 * the file reads as zero already, they stay a hole: most of a new cluster in a fresh file system is nothing.
 */
static int copy_old(struct qdisk *disk, uint64_t offset, uint64_t len, uint64_t to, bool zero_there)
{
	struct iovec iov = { .iov_len = len };
	struct cursor cursor = { &iov, 0 };
	uint64_t inside = 0;
	const char *buf;
	int rc;

	if (!len)
		return 0;
	if (offset < disk->size)
		inside = len < disk->size - offset ? len : disk->size - offset;
	buf = iov.iov_base = calloc(1, len);
	if (!buf)
		return -ENOMEM;
	rc = read_range(disk, offset, inside, &cursor);
	if (!rc && !(zero_there && !buf[0] && !memcmp(buf, buf + 1, len - 1)))
		rc = pwrite_all(disk->top->fd, buf, len, to);
	free(iov.iov_base);
	return rc;
}

static bool is_filling(const struct qdisk *disk, uint64_t first, uint64_t end)
{
	const struct filling *f;

	list_for_each (f, &disk->allocating, link)
		if (first < f->end && f->first < end)
			return true;
	return false;
}

/*
 * Write to new clusters: as many bytes of the extent as clusters in a row are found, *ret_len of them. Called
 * with the lock held, and drops it meanwhile.
 */
static int write_new(struct qdisk *disk, uint64_t offset, uint64_t len, struct cursor *from,
		     uint64_t *ret_len)
{
	struct qfile *top = disk->top;
	const uint64_t mask = cluster_size(top) - 1, first = offset >> top->cluster_bits;
	const uint64_t start = first << top->cluster_bits, head = offset - start;
	const uint64_t want = ((head + len + mask) >> top->cluster_bits);
	struct filling filling = { .first = first };
	uint64_t cluster, n, host, tail;
	bool fresh;
	int rc;

	rc = qfile_need_table(top, first);
	if (!rc)
		rc = refs_alloc(top, qfile_same_table(top, first, want), false, &cluster, &n, &fresh);
	if (rc)
		return rc;
	filling.end = first + n;
	list_add(&disk->allocating, &filling.link);
	pthread_mutex_unlock(&disk->lock);

	host = cluster << top->cluster_bits;
	if (len > (n << top->cluster_bits) - head)
		len = (n << top->cluster_bits) - head;
	tail = (n << top->cluster_bits) - head - len;
	rc = copy_old(disk, start, head, host, fresh);
	if (!rc)
		rc = pwritev_all(top->fd, from, len, host + head);
	if (!rc)
		rc = copy_old(disk, offset + len, tail, host + head + len, fresh);

	pthread_mutex_lock(&disk->lock);
	if (!rc)
		rc = qfile_link(top, first, n, host);
	else
		(void)refs_free(top, cluster, n, false);
	list_del(&filling.link);
	pthread_cond_broadcast(&disk->linked);
	*ret_len = len;
	return rc;
}

static int write_some(struct qdisk *disk, uint64_t offset, uint64_t len, struct cursor *from,
		      uint64_t *ret_len)
{
	struct qfile *top = disk->top;
	struct extent extent;
	uint64_t first, end;
	int rc;

	pthread_mutex_lock(&disk->lock);
	for (;;) {
		rc = qfile_map(top, offset, len, &extent);
		if (rc)
			goto out;
		if (qfile_in_place(top, &extent)) {
			pthread_mutex_unlock(&disk->lock);
			*ret_len = extent.len;
			return pwritev_all(top->fd, from, extent.len, extent.host);
		}
		first = offset >> top->cluster_bits;
		end = ((offset + extent.len - 1) >> top->cluster_bits) + 1;
		if (!is_filling(disk, first, end))
			break;
		pthread_cond_wait(&disk->linked, &disk->lock);
	}
	rc = write_new(disk, offset, extent.len, from, ret_len);
out:
	pthread_mutex_unlock(&disk->lock);
	return rc;
}

int qdisk_write(struct qdisk *disk, uint64_t offset, uint64_t len, struct cursor from)
{
	uint64_t n = 0;
	int rc = 0;

	pthread_rwlock_rdlock(&disk->busy);
	while (!rc && len) {
		rc = write_some(disk, offset, len, &from, &n);
		if (rc)
			break;
		offset += n;
		len -= n;
	}
	pthread_rwlock_unlock(&disk->busy);
	return rc;
}

/* ---- zeroing */

/* Make whole guest clusters read as zero. Where they do already, nothing is stored. */
static int zero_clusters(struct qdisk *disk, uint64_t cluster, uint64_t end)
{
	struct qfile *top = disk->top;
	struct extent extent;
	uint64_t n, offset;
	int rc = 0;

	while (!rc && cluster < end) {
		offset = cluster << top->cluster_bits;
		rc = qfile_map_chain(top, offset, (end - cluster) << top->cluster_bits, &extent);
		if (rc)
			break;
		/* The last cluster may reach over the disk's end, and extents end anywhere in a raw file. */
		n = extent.len >> top->cluster_bits;
		if (!n || extent.kind != EXTENT_ZERO) {
			n = qfile_same_table(top, cluster, n ? n : 1);
			rc = qfile_need_table(top, cluster);
			if (!rc)
				rc = qfile_link(top, cluster, n, 0);
		}
		cluster += n;
	}
	return rc;
}

static int zero_whole(struct qdisk *disk, uint64_t start, uint64_t end)
{
	const unsigned bits = disk->top->cluster_bits;
	int rc;

	pthread_rwlock_wrlock(&disk->busy);
	pthread_mutex_lock(&disk->lock);
	rc = zero_clusters(disk, start >> bits, (end + cluster_size(disk->top) - 1) >> bits);
	pthread_mutex_unlock(&disk->lock);
	pthread_rwlock_unlock(&disk->busy);
	return rc;
}

/* The whole clusters inside a range. At the disk's end the last one counts as whole. */
static bool whole_clusters(const struct qdisk *disk, uint64_t offset, uint64_t len, uint64_t *ret_start,
			   uint64_t *ret_end)
{
	const uint64_t mask = cluster_size(disk->top) - 1;

	*ret_start = (offset + mask) & ~mask;
	*ret_end = offset + len == disk->size ? disk->size : (offset + len) & ~mask;
	return *ret_start < *ret_end;
}

int qdisk_discard(struct qdisk *disk, uint64_t offset, uint64_t len)
{
	uint64_t start, end;

	return whole_clusters(disk, offset, len, &start, &end) ? zero_whole(disk, start, end) : 0;
}

static int write_zeroes(struct qdisk *disk, uint64_t offset, uint64_t len)
{
	static const char zeroes[4096];
	const struct iovec iov = { (void *)zeroes, sizeof(zeroes) };
	int rc = 0;

	while (!rc && len) {
		const uint64_t n = len < sizeof(zeroes) ? len : sizeof(zeroes);

		rc = qdisk_write(disk, offset, n, (struct cursor){ &iov, 0 });
		offset += n;
		len -= n;
	}
	return rc;
}

int qdisk_zero(struct qdisk *disk, uint64_t offset, uint64_t len)
{
	uint64_t start, end;
	int rc;

	if (!whole_clusters(disk, offset, len, &start, &end))
		return write_zeroes(disk, offset, len);
	rc = write_zeroes(disk, offset, start - offset);
	if (!rc)
		rc = zero_whole(disk, start, end);
	return rc ? rc : write_zeroes(disk, end, offset + len - end);
}

int qdisk_flush(struct qdisk *disk)
{
	struct qfile *file;

	/* A file written before a switch is now further down. */
	for (file = disk->top; file && file->unsynced; file = file->backing)
		if (fdatasync(file->fd) < 0)
			return -errno;
	return 0;
}

int qdisk_switch(struct qdisk *disk, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	char backing[NAME_MAX + 1];
	struct qfile *next;
	bool raw;
	int rc;

	rc = qfile_open(disk->dirfd, name, false, true, &next, err);
	if (rc)
		return rc;
	rc = qfile_backing_name(next, backing, &raw, err);
	if (!rc && (raw || strcmp(backing, disk->top->name) != 0))
		rc = err_set(err, -EINVAL, "disk file %s does not build on %s", name, disk->top->name);
	if (!rc && next->size != disk->size)
		rc = err_set(err, -EINVAL, "disk file %s is not as large as %s", name, disk->top->name);
	if (rc) {
		qfile_close(next);
		return rc;
	}
	disk->top->writable = false;
	refs_release(&disk->top->refs);
	next->backing = disk->top;
	disk->top = next;
	return 0;
}
