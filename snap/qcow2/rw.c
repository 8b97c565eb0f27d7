/* SPDX-License-Identifier: MIT */
/*
 * rw.c - read, write, zero: one request, from beginning to end, in the calling thread
 *
 * The lock is held to look into the map and to change it, never while guest data moves. A write to a cluster
 * this file does not have yet counts a new one, fills it (with what was there before, around what is written)
 * and only then links it; meanwhile the guest cluster is on the list `allocating`, and other writes to it
 * wait.
 */
#include "snap/qcow2/chain_priv.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "util/io.h"
#include "util/list.h"
#include "util/log.h"
#include "util/zero.h"

enum { BITS = QCOW2_CLUSTER_BITS, IN_CLUSTER = QCOW2_CLUSTER - 1 };

/* Guest clusters whose host clusters are being filled. */
struct filling {
	struct list link;
	uint64_t first, end;
};

int qdisk_open(struct qdisk *disk, struct chain *chain, struct err *err)
{
	pthread_rwlockattr_t attr;
	struct qfile *file;
	int rc = 0;

	/* What cannot be read is better known now than when the guest asks. */
	for (file = chain->top; !rc && file; file = file->backing)
		rc = qfile_load_l1(file, err);
	if (!rc && chain->writable)
		rc = refs_load(chain->top, err);
	if (rc)
		return rc;
	disk->chain = chain;
	/* By default readers that keep coming would lock out a writer for good. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&disk->busy, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_cond_init(&disk->linked, NULL);
	list_init(&disk->allocating);
	return 0;
}

void qdisk_close(struct qdisk *disk)
{
	chain_free(disk->chain);
	pthread_rwlock_destroy(&disk->busy);
	pthread_cond_destroy(&disk->linked);
}

/* Damage is the guest's I/O error, and once per disk a line in the log. */
static int complain(struct qdisk *disk, int rc, const struct err *err)
{
	if (rc && !atomic_exchange(&disk->warned, true))
		log_warn("%s", err->text);
	return rc;
}

int qdisk_read(struct qdisk *disk, uint64_t offset, uint64_t len, struct cursor to)
{
	struct err err;
	int rc;

	pthread_rwlock_rdlock(&disk->busy);
	rc = chain_read_iov(disk->chain, offset, len, &to, &err);
	pthread_rwlock_unlock(&disk->busy);
	return complain(disk, rc, &err);
}

/* ---- writing */

/* How a write to the topmost file ended. */
static int wrote(const struct qdisk *disk, int rc, struct err *err)
{
	return rc ? err_sys(err, rc, "cannot write layer %s", disk->chain->top->name) : 0;
}

/*
 * Copy what the guest would read at `offset` to the host offset `to`. Behind the disk's end are zeroes. Where
 * the file reads as zero already, they stay a hole: most of a new cluster in a fresh file system is nothing.
 *
 * In pieces on the stack: as many clusters are under way as there are workers, and a heap that has grown by all
 * of them once would stay with an idle machine.
 */
static int copy_old(struct qdisk *disk, uint64_t offset, uint64_t len, uint64_t to, bool zero_there,
		    struct err *err)
{
	enum { PIECE = 4096 };
	const uint64_t size = chain_size(disk->chain);
	uint8_t buf[PIECE];
	uint64_t done, n;
	int rc = 0;

	for (done = 0; !rc && done < len; done += n) {
		const uint64_t at = offset + done, inside = at < size ? size - at : 0;
		struct iovec iov = { buf, PIECE };
		struct cursor cursor = { &iov, 0 };

		n = len - done < PIECE ? len - done : PIECE;
		memset(buf, 0, sizeof(buf));
		rc = chain_read_iov(disk->chain, at, n < inside ? n : inside, &cursor, err);
		if (!rc && !(zero_there && all_zero(buf, n)))
			rc = wrote(disk, pwrite_all(disk->chain->top->fd, buf, n, to + done), err);
	}
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
		     uint64_t *ret_len, struct err *err)
{
	struct qfile *top = disk->chain->top;
	const uint64_t first = offset >> BITS, start = first << BITS, head = offset - start;
	const uint64_t want = (head + len + IN_CLUSTER) >> BITS;
	struct filling filling = { .first = first };
	uint64_t cluster, n, host, tail;
	bool fresh;
	int rc;

	rc = qfile_need_table(top, first, err);
	if (rc)
		return rc;
	rc = refs_alloc(top, qfile_same_table(first, want), false, &cluster, &n, &fresh);
	if (rc)
		return wrote(disk, rc, err);
	filling.end = first + n;
	list_add(&disk->allocating, &filling.link);
	pthread_mutex_unlock(&disk->chain->lock);

	host = cluster << BITS;
	if (len > (n << BITS) - head)
		len = (n << BITS) - head;
	tail = (n << BITS) - head - len;
	rc = copy_old(disk, start, head, host, fresh, err);
	if (!rc)
		rc = wrote(disk, pwritev_all(top->fd, from, len, host + head), err);
	if (!rc)
		rc = copy_old(disk, offset + len, tail, host + head + len, fresh, err);

	pthread_mutex_lock(&disk->chain->lock);
	if (!rc)
		rc = qfile_link(top, first, n, host, err);
	else
		(void)refs_free(top, cluster, n, false);
	list_del(&filling.link);
	pthread_cond_broadcast(&disk->linked);
	*ret_len = len;
	return rc;
}

static int write_some(struct qdisk *disk, uint64_t offset, uint64_t len, struct cursor *from,
		      uint64_t *ret_len, struct err *err)
{
	struct qfile *top = disk->chain->top;
	struct extent extent;
	uint64_t first, end;
	int rc;

	pthread_mutex_lock(&disk->chain->lock);
	for (;;) {
		rc = qfile_map(top, offset, len, &extent, err);
		if (rc)
			goto out;
		if (qfile_in_place(top, &extent)) {
			pthread_mutex_unlock(&disk->chain->lock);
			*ret_len = extent.len;
			return wrote(disk, pwritev_all(top->fd, from, extent.len, extent.host), err);
		}
		first = offset >> BITS;
		end = ((offset + extent.len - 1) >> BITS) + 1;
		if (!is_filling(disk, first, end))
			break;
		pthread_cond_wait(&disk->linked, &disk->chain->lock);
	}
	rc = write_new(disk, offset, extent.len, from, ret_len, err);
out:
	pthread_mutex_unlock(&disk->chain->lock);
	return rc;
}

int qdisk_write(struct qdisk *disk, uint64_t offset, uint64_t len, struct cursor from)
{
	struct err err;
	uint64_t n = 0;
	int rc = 0;

	pthread_rwlock_rdlock(&disk->busy);
	while (!rc && len) {
		rc = write_some(disk, offset, len, &from, &n, &err);
		if (rc)
			break;
		offset += n;
		len -= n;
	}
	pthread_rwlock_unlock(&disk->busy);
	return complain(disk, rc, &err);
}

/* ---- zeroing */

/* Make whole guest clusters read as zero. Where they do already, nothing is stored. */
static int zero_clusters(struct qdisk *disk, uint64_t cluster, uint64_t end, struct err *err)
{
	struct qfile *top = disk->chain->top;
	struct extent extent;
	uint64_t n;
	int rc = 0;

	while (!rc && cluster < end) {
		/* The last cluster may reach over the disk's end: it is whole in the map. */
		rc = qfile_map_chain(top, cluster << BITS, (end - cluster) << BITS, &extent, err);
		if (rc)
			break;
		n = extent.len >> BITS;
		if (extent.kind != EXTENT_ZERO) {
			n = qfile_same_table(cluster, n);
			rc = qfile_need_table(top, cluster, err);
			if (!rc)
				rc = qfile_link(top, cluster, n, 0, err);
		}
		cluster += n;
	}
	return rc;
}

static int zero_whole(struct qdisk *disk, uint64_t start, uint64_t end)
{
	struct err err;
	int rc;

	pthread_rwlock_wrlock(&disk->busy);
	pthread_mutex_lock(&disk->chain->lock);
	rc = zero_clusters(disk, start >> BITS, (end + IN_CLUSTER) >> BITS, &err);
	pthread_mutex_unlock(&disk->chain->lock);
	pthread_rwlock_unlock(&disk->busy);
	return complain(disk, rc, &err);
}

/* The whole clusters inside a range. At the disk's end the last one counts as whole. */
static bool whole_clusters(const struct qdisk *disk, uint64_t offset, uint64_t len, uint64_t *ret_start,
			   uint64_t *ret_end)
{
	const uint64_t mask = IN_CLUSTER, size = chain_size(disk->chain);

	*ret_start = (offset + mask) & ~mask;
	*ret_end = offset + len == size ? size : (offset + len) & ~mask;
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
	for (file = disk->chain->top; file && file->unsynced; file = file->backing)
		if (fdatasync(file->fd) < 0)
			return -errno;
	return 0;
}
