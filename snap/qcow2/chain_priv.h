/* SPDX-License-Identifier: MIT */
/*
 * chain_priv.h - what the parts of the qcow2 code share
 *
 * header.c says what a file is, chain.c opens the files of a disk, map.c finds where the guest's bytes are in
 * them, alloc.c gives out clusters of the topmost, rw.c does one request in the thread that calls it, disk.c
 * runs them on others. create.c and merge.c make files.
 *
 * All metadata is written through: a cluster is counted, then filled, then linked, each by a write of its
 * own, and unlinked before it is freed. So whatever moment the process dies at, the file is consistent, and
 * there is nothing to write back at a flush, a capture or a close. The price is two small writes, to the page
 * cache, for each new cluster.
 */
#ifndef SBX_SNAP_QCOW2_CHAIN_PRIV_H
#define SBX_SNAP_QCOW2_CHAIN_PRIV_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "snap/qcow2/header.h"
#include "util/err.h"
#include "util/iov.h"
#include "util/list.h"

/* L2 tables are read in slices, kept in a direct-mapped cache: 32 MiB of disk each, 8 GiB in all. */
enum { SLICE_BITS = 9, SLICE_ENTRIES = 1 << SLICE_BITS, SLICE_CACHE = 256 };

struct slice {
	uint64_t index;    /* which: guest cluster >> SLICE_BITS */
	uint64_t *entries; /* in host order; NULL: nothing here */
};

/* How often each cluster of a writable file is used, all of it in memory. A block is one cluster of counts. */
enum { BLOCK_BITS = QCOW2_CLUSTER_BITS - 1, BLOCK_ENTRIES = 1 << BLOCK_BITS };

struct use {
	uint16_t count;
	bool meta; /* this cluster holds metadata, no guest data may point at it */
};

struct refs {
	uint64_t *table; /* offsets of the refcount blocks; the first nblocks are set */
	uint64_t table_offset;
	uint64_t nblocks;
	uint64_t room;    /* blocks that table and uses have memory for */
	struct use *uses; /* of nblocks << BLOCK_BITS clusters; pages of their own */
	uint64_t hint;    /* no cluster below this is free */
	uint64_t fresh;   /* none from here on was ever written: they read as zero; at first the file's end */
};

/* One file of a chain. */
struct qfile {
	int fd;
	char name[QCOW2_NAME_MAX + 1];
	bool raw;
	bool unsynced; /* it may have been written: a flush must */
	uint64_t size; /* bytes of the disk, as of all files of the chain */
	uint64_t end;  /* no table and no cluster begins behind: the file's size, if it is written no more */
	uint64_t l1_offset;
	uint64_t *l1; /* in host order; NULL: not read yet */
	struct slice cache[SLICE_CACHE];
	struct refs refs; /* of a writable one, once refs_load was called */
	struct qfile *backing;
};

struct chain {
	struct qfile *top;
	unsigned n;
	bool writable;
	pthread_mutex_t lock; /* guards what is kept in memory of all files' metadata */
};

/* A run of guest bytes that are all in one place. */
enum extent_kind { EXTENT_DATA, EXTENT_ZERO, EXTENT_UNALLOCATED };
struct extent {
	enum extent_kind kind;
	struct qfile *file; /* which says so; NULL: zero, for none of the chain has it */
	uint64_t host;      /* offset in the file of the first byte, for EXTENT_DATA */
	uint64_t len;
};

/* A disk that is read and written by several threads. */
struct qdisk {
	struct chain *chain;
	/* Reading and writing hold `busy` shared; freeing clusters holds it alone, so that none is freed, and
	 * perhaps used anew, below a request that still reads or writes it. */
	pthread_rwlock_t busy;
	struct list
		allocating; /* struct filling: clusters counted but not yet linked; with the chain's lock */
	pthread_cond_t linked; /* one of them was */
	atomic_bool warned;    /* of an error, in the log */
};

/* ---- chain.c */

/*
 * Go on in fd, which is `file`, an empty overlay: the topmost file so far is written no more, and below it. On
 * failure all is as before, and fd still the caller's.
 */
int chain_push(struct chain *chain, const char *file, int fd, struct err *err);
int chain_read_iov(struct chain *chain, uint64_t offset, uint64_t len, struct cursor *to, struct err *err);

/* ---- alloc.c; called with the lock held */

/* For a file that is to be written. */
int refs_load(struct qfile *file, struct err *err);
void refs_release(struct refs *refs);
/* Count up to n > 0 clusters in a row that were free; at least one is found. *ret_fresh: they read as zero. */
int refs_alloc(struct qfile *file, uint64_t n, bool meta, uint64_t *ret_cluster, uint64_t *ret_n,
	       bool *ret_fresh);
/* Count n clusters down, as far as they hold metadata, or do not; those that become free are given back to
 * the file system. */
int refs_free(struct qfile *file, uint64_t cluster, uint64_t n, bool meta);
/* Is it in use once, by what points at it, and not as metadata? */
bool refs_exclusive(const struct qfile *file, uint64_t cluster, bool meta);

/* ---- map.c; called with the lock held */

/* Read the L1 table, if it was not. */
int qfile_load_l1(struct qfile *file, struct err *err);
/* Where the bytes at offset are in this file alone; offset + len is inside the disk. */
int qfile_map(struct qfile *file, uint64_t offset, uint64_t len, struct extent *ret, struct err *err);
/* Where they are in this file or those below: DATA or ZERO. */
int qfile_map_chain(struct qfile *file, uint64_t offset, uint64_t len, struct extent *ret, struct err *err);
/* May the extent be overwritten in place? It is cut off where the answer changes. */
bool qfile_in_place(const struct qfile *file, struct extent *extent);
/* How many of n guest clusters from `cluster` on share an L2 table with it. */
uint64_t qfile_same_table(uint64_t cluster, uint64_t n);
/* Make sure that the L2 table of a guest cluster exists and is this file's alone. */
int qfile_need_table(struct qfile *file, uint64_t cluster, struct err *err);
/* Point n guest clusters of one L2 table, which exists, at as many host clusters (or, with host == 0, make
 * them read as zero), and free what they pointed at. */
int qfile_link(struct qfile *file, uint64_t cluster, uint64_t n, uint64_t host, struct err *err);

/* ---- rw.c: one request, in the calling thread */

/* The chain is the disk's from now on, unless this fails. */
int qdisk_open(struct qdisk *disk, struct chain *chain, struct err *err);
void qdisk_close(struct qdisk *disk);
int qdisk_read(struct qdisk *disk, uint64_t offset, uint64_t len, struct cursor to);
int qdisk_write(struct qdisk *disk, uint64_t offset, uint64_t len, struct cursor from);
int qdisk_zero(struct qdisk *disk, uint64_t offset, uint64_t len);
int qdisk_discard(struct qdisk *disk, uint64_t offset, uint64_t len);
int qdisk_flush(struct qdisk *disk);

#endif
