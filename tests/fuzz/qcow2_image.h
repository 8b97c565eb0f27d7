/* SPDX-License-Identifier: MIT */
/* qcow2_image.h - a small valid qcow2 file for fuzzers to start from, made in memory */
#ifndef SBX_FUZZ_QCOW2_IMAGE_H
#define SBX_FUZZ_QCOW2_IMAGE_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#include "snap/qcow2/format.h"

enum { IMAGE_CLUSTER_BITS = 9, IMAGE_CLUSTER = 1 << IMAGE_CLUSTER_BITS, IMAGE_CLUSTERS = 8 };
enum { IMAGE_BYTES = IMAGE_CLUSTER * IMAGE_CLUSTERS, IMAGE_DISK = 96 * 1024 };

/*
 * Clusters: header, refcount table, refcount block, L1 table, L2 table, two of data, and one that is free.
 * With `backing`, the name of a raw file, "b".
 */
static inline void image_make(uint8_t *ret, int backing)
{
	struct qcow2_header h = {
		.magic = htobe32(QCOW2_MAGIC),
		.version = htobe32(3),
		.cluster_bits = htobe32(IMAGE_CLUSTER_BITS),
		.size = htobe64(IMAGE_DISK),
		.l1_size = htobe32(IMAGE_DISK / (IMAGE_CLUSTER * IMAGE_CLUSTER / 8)),
		.l1_offset = htobe64(3 * IMAGE_CLUSTER),
		.reftable_offset = htobe64(1 * IMAGE_CLUSTER),
		.reftable_clusters = htobe32(1),
		.refcount_order = htobe32(4),
		.header_length = htobe32(sizeof(h)),
	};
	static const char raw[8] = "raw";
	const uint32_t ext[2] = { htobe32(QCOW2_EXT_BACKING_FORMAT), htobe32(3) };
	const uint64_t block = htobe64(2 * IMAGE_CLUSTER), l2 = htobe64(4 * IMAGE_CLUSTER | QCOW2_COPIED);
	const uint64_t entries[] = { htobe64(5 * IMAGE_CLUSTER | QCOW2_COPIED), htobe64(QCOW2_ZERO_FLAG), 0,
				     htobe64(6 * IMAGE_CLUSTER | QCOW2_COPIED) };
	unsigned i;

	memset(ret, 0, IMAGE_BYTES);
	if (backing) {
		h.backing_offset = htobe64(sizeof(h) + 24);
		h.backing_size = htobe32(1);
		memcpy(ret + sizeof(h), ext, sizeof(ext));
		memcpy(ret + sizeof(h) + 8, raw, sizeof(raw));
		ret[sizeof(h) + 24] = 'b';
	}
	memcpy(ret, &h, sizeof(h));
	memcpy(ret + 1 * IMAGE_CLUSTER, &block, sizeof(block));
	for (i = 0; i < IMAGE_CLUSTERS - 1; i++)
		ret[2 * IMAGE_CLUSTER + 2 * i + 1] = 1;
	memcpy(ret + 3 * IMAGE_CLUSTER, &l2, sizeof(l2));
	memcpy(ret + 4 * IMAGE_CLUSTER, entries, sizeof(entries));
	memset(ret + 5 * IMAGE_CLUSTER, 0xaa, 2 * IMAGE_CLUSTER);
}

#endif
