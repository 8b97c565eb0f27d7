/* SPDX-License-Identifier: MIT */
/*
 * qcow2_priv.h - what the parts of the qcow2 code share
 *
 * qcow2.c runs requests on threads; qcow2_io.c does one, in the thread that calls it; qcow2_map.c finds where
 * the guest's bytes are; qcow2_alloc.c gives out clusters; qcow2_open.c reads headers.
 *
 * All metadata is written through: a cluster is counted, then filled, then linked, each by a write of its
 * own, and unlinked before it is freed. So whatever moment the process dies at, the file is consistent, and
 * there is nothing to write back at a flush, a capture or a close. The price is two small writes, to the page
 * cache, for each new cluster.
 */
#ifndef SBX_SNAP_QCOW2_PRIV_H
#define SBX_SNAP_QCOW2_PRIV_H

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"
#include "util/io.h"
#include "util/iov.h"
#include "util/list.h"

/*
 * L2 tables are read in slices of at most 512 entries, kept in a direct-mapped cache: 32 MiB of disk each at
 * 64 KiB clusters, 8 GiB in all.
 */
enum { SLICE_BITS = 9, SLICE_CACHE = 256 };

struct slice {
	uint64_t index;    /* which: guest cluster >> slice_bits */
	uint64_t *entries; /* in host order; NULL: nothing here */
};

/* How often each cluster of a writable file is used, all of it in memory. */
struct refs {
	uint64_t *table; /* offsets of the refcount blocks; the first nblocks are set */
	uint64_t table_offset;
	uint32_t table_clusters;
	uint64_t nblocks;
	uint16_t *count; /* nblocks << block_bits of them */
	bool *meta;      /* likewise: this cluster holds metadata, no guest data may point at it */
	unsigned block_bits;
	uint64_t hint;  /* no cluster below this is free */
	uint64_t fresh; /* none from here on was ever written: they read as zero */
};

/* One file of the chain. */
struct qfile {
	int fd;
	char name[NAME_MAX + 1];
	bool raw, writable;
	uint64_t size;      /* bytes the guest sees */
	uint64_t file_size; /* of the file when it was opened; below 2^56 */
	unsigned cluster_bits;
	unsigned slice_bits;
	uint64_t l1_offset;
	uint32_t l1_size;
	uint64_t *l1; /* in host order */
	struct slice cache[SLICE_CACHE];
	bool warned;   /* about damage, in the log */
	bool unsynced; /* since it was written: a flush must */
	struct refs refs;
	struct qfile *backing;
};

/* A run of guest bytes that are all in one place. */
enum extent_kind { EXTENT_DATA, EXTENT_ZERO, EXTENT_UNALLOCATED };
struct extent {
	enum extent_kind kind;
	struct qfile *file;
	uint64_t host; /* offset in the file of the first byte, for EXTENT_DATA */
	uint64_t len;
};

/* A disk, as far as threads share it. */
struct qdisk {
	int dirfd;
	struct qfile *top;
	uint64_t size; /* bytes the guest sees, whole sectors */

	/* Reading and writing hold `busy` shared; freeing clusters holds it alone, so that none is freed, and
	 * perhaps used anew, below a request that still reads or writes it. */
	pthread_rwlock_t busy;
	pthread_mutex_t lock;   /* guards all of the files' metadata, and: */
	struct list allocating; /* struct filling: clusters counted but not yet linked */
	pthread_cond_t linked;  /* one of them was */
};

static inline uint64_t cluster_size(const struct qfile *file)
{
	return 1ull << file->cluster_bits;
}

/* qcow2_open.c. Each file is opened with openat(dirfd, name). */
int qfile_open(int dirfd, const char *name, bool raw, bool writable, struct qfile **ret, struct err *err);
int qfile_open_chain(int dirfd, const char *name, bool writable, struct qfile **ret, struct err *err);
void qfile_close(struct qfile *file); /* this one */
void qfile_close_chain(struct qfile *file);
/* The name of file's backing file and whether that is raw; *ret_name is empty when there is none. */
int qfile_backing_name(const struct qfile *file, char ret_name[NAME_MAX + 1], bool *ret_raw, struct err *err);

/* qcow2_alloc.c. Called with the lock held; the file is writable. */
int refs_load(struct qfile *file, struct err *err);
void refs_release(struct refs *refs);
/* Count up to n > 0 clusters in a row that were free; at least one is found. *ret_fresh: they read as
 * zero. */
int refs_alloc(struct qfile *file, uint64_t n, bool meta, uint64_t *ret_cluster, uint64_t *ret_n,
	       bool *ret_fresh);
/* Count n clusters down, as far as they hold metadata, or do not; those that become free are given back to
 * the file system. */
int refs_free(struct qfile *file, uint64_t cluster, uint64_t n, bool meta);
/* Is it in use once, by what points at it, and not as metadata? */
bool refs_exclusive(const struct qfile *file, uint64_t cluster, bool meta);

/* qcow2_map.c. Called with the lock held. */
/* Where the bytes at offset are in this file alone; offset + len is inside the file's size. */
int qfile_map(struct qfile *file, uint64_t offset, uint64_t len, struct extent *ret);
/* Where they are in the chain: DATA or ZERO. */
int qfile_map_chain(struct qfile *file, uint64_t offset, uint64_t len, struct extent *ret);
/* May the extent be overwritten in place? It is cut off where the answer changes. */
bool qfile_in_place(const struct qfile *file, struct extent *extent);
/* How many of n guest clusters from `cluster` on share an L2 table with it. */
uint64_t qfile_same_table(const struct qfile *file, uint64_t cluster, uint64_t n);
/* Make sure that the L2 table of a guest cluster exists and is this file's alone. */
int qfile_need_table(struct qfile *file, uint64_t cluster);
/* Point n guest clusters of one L2 table, which exists, at as many host clusters (or, with host == 0, make
 * them read as zero), and free what they pointed at. */
int qfile_link(struct qfile *file, uint64_t cluster, uint64_t n, uint64_t host);

/* qcow2_io.c. One request, in the calling thread. */
int qdisk_open(const char *path, bool writable, struct qdisk *ret, struct err *err);
void qdisk_close(struct qdisk *disk);
int qdisk_read(struct qdisk *disk, uint64_t offset, uint64_t len, struct cursor to);
int qdisk_write(struct qdisk *disk, uint64_t offset, uint64_t len, struct cursor from);
int qdisk_zero(struct qdisk *disk, uint64_t offset, uint64_t len);
int qdisk_discard(struct qdisk *disk, uint64_t offset, uint64_t len);
int qdisk_flush(struct qdisk *disk);
int qdisk_switch(struct qdisk *disk, const char *path, struct err *err);

#endif
