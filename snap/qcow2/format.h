/* SPDX-License-Identifier: MIT */
/*
 * format.h - what a qcow2 file holds (QEMU, docs/interop/qcow2.txt); all numbers are big-endian
 */
#ifndef SBX_SNAP_QCOW2_FORMAT_H
#define SBX_SNAP_QCOW2_FORMAT_H

#include <stdint.h>

struct qcow2_header {
	uint32_t magic, version;
	uint64_t backing_offset;
	uint32_t backing_size;
	uint32_t cluster_bits;
	uint64_t size;
	uint32_t crypt_method;
	uint32_t l1_size; /* entries */
	uint64_t l1_offset;
	uint64_t reftable_offset;
	uint32_t reftable_clusters;
	uint32_t nb_snapshots;
	uint64_t snapshots_offset;
	uint64_t incompatible, compatible, autoclear;
	uint32_t refcount_order; /* width of a refcount: 1 << order bits */
	uint32_t header_length;
};
_Static_assert(sizeof(struct qcow2_header) == 104, "as on disk");

#define QCOW2_MAGIC 0x514649fbu /* "QFI\xfb" */

enum {
	QCOW2_INCOMPAT_DIRTY = 1 << 0, /* refcounts may be stale; readers need none */
	QCOW2_INCOMPAT_CORRUPT = 1 << 1,
	QCOW2_INCOMPAT_DATA_FILE = 1 << 2,
	QCOW2_INCOMPAT_COMPRESSION = 1 << 3,
	QCOW2_INCOMPAT_EXTL2 = 1 << 4,
};

/* Header extensions follow the header, their data padded to 8 bytes; type 0 ends them. */
struct qcow2_extension {
	uint32_t type, len;
};
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau

enum { QCOW2_REFCOUNT_ORDER = 4 }; /* 16 bits */

/* L1 and L2 entries */
#define QCOW2_OFFSET 0x00fffffffffffe00ull
#define QCOW2_COPIED (1ull << 63)     /* the refcount of what it points at is 1 */
#define QCOW2_COMPRESSED (1ull << 62) /* L2 only */
#define QCOW2_ZERO_FLAG (1ull << 0)   /* L2 only: reads as zero, whatever it points at */

#endif
