/* SPDX-License-Identifier: MIT */
/* qcow2_image.h - a small valid qcow2 file for fuzzers to start from, made in memory */
#ifndef SBX_FUZZ_QCOW2_IMAGE_H
#define SBX_FUZZ_QCOW2_IMAGE_H

#include <endian.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/qcow2/format.h"
#include "snap/qcow2/header.h"
#include "util/io.h"

/* Clusters: header, refcount table, refcount block, L1 table, L2 table, two of data, and one that is free. */
enum { IMAGE_CLUSTERS = 8, IMAGE_DISK = 24 * QCOW2_CLUSTER - 3 * 512 };

/* What is not zero: only the beginning of each cluster. */
enum { IMAGE_HEAD = 512, IMAGE_BYTES = IMAGE_CLUSTERS * IMAGE_HEAD };
#define IMAGE_BASE "b.raw"

/* With `backing`, on the raw file IMAGE_BASE. */
static inline void image_make(uint8_t image[IMAGE_BYTES], int backing)
{
	struct qcow2_header h = {
		.magic = htobe32(QCOW2_MAGIC),
		.version = htobe32(3),
		.cluster_bits = htobe32(QCOW2_CLUSTER_BITS),
		.size = htobe64(IMAGE_DISK),
		.l1_size = htobe32(1),
		.l1_offset = htobe64(3 * QCOW2_CLUSTER),
		.reftable_offset = htobe64(1 * QCOW2_CLUSTER),
		.reftable_clusters = htobe32(1),
		.refcount_order = htobe32(QCOW2_REFCOUNT_ORDER),
		.header_length = htobe32(sizeof(h)),
	};
	static const char raw[8] = "raw";
	const uint32_t ext[2] = { htobe32(QCOW2_EXT_BACKING_FORMAT), htobe32(3) };
	const uint64_t block = htobe64(2 * QCOW2_CLUSTER), l2 = htobe64(4 * QCOW2_CLUSTER | QCOW2_COPIED);
	const uint64_t entries[] = { htobe64(5 * QCOW2_CLUSTER | QCOW2_COPIED), htobe64(QCOW2_ZERO_FLAG), 0,
				     htobe64(6 * QCOW2_CLUSTER | QCOW2_COPIED) };
	unsigned i;

	memset(image, 0, IMAGE_BYTES);
	if (backing) {
		h.backing_offset = htobe64(sizeof(h) + 24);
		h.backing_size = htobe32(sizeof(IMAGE_BASE) - 1);
		memcpy(image + sizeof(h), ext, sizeof(ext));
		memcpy(image + sizeof(h) + 8, raw, sizeof(raw));
		memcpy(image + sizeof(h) + 24, IMAGE_BASE, sizeof(IMAGE_BASE) - 1);
	}
	memcpy(image, &h, sizeof(h));
	memcpy(image + 1 * IMAGE_HEAD, &block, sizeof(block));
	for (i = 0; i < IMAGE_CLUSTERS - 1; i++)
		image[2 * IMAGE_HEAD + 2 * i + 1] = 1;
	memcpy(image + 3 * IMAGE_HEAD, &l2, sizeof(l2));
	memcpy(image + 4 * IMAGE_HEAD, entries, sizeof(entries));
	memset(image + 5 * IMAGE_HEAD, 0xaa, 2 * IMAGE_HEAD);
}

/* Write it to the empty file fd. */
static inline void image_write(int fd, const uint8_t image[IMAGE_BYTES])
{
	for (unsigned i = 0; i < IMAGE_CLUSTERS; i++)
		if (pwrite_all(fd, image + (size_t)i * IMAGE_HEAD, IMAGE_HEAD, (uint64_t)i * QCOW2_CLUSTER))
			abort();
	if (ftruncate(fd, (off_t)IMAGE_CLUSTERS * QCOW2_CLUSTER))
		abort();
}

#endif
