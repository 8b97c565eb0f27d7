/* SPDX-License-Identifier: MIT */
/* fuzz_chain.c - a hostile layer on a good one, as it is and with a good header */
#include <endian.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "snap/qcow2/create.h"
#include "snap/qcow2/header.h"
#include "snap/qcow2/merge.h"
#include "util/io.h"

#define TOP "00000000000000000000000000000000.qcow2"
#define BOTTOM "11111111111111111111111111111111.raw"

enum { INPUT_MAX = 1 << 20, DISK = 4 << 20, ENTRY = 10, MERGE_MAX = 16 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char root[] = "/dev/shm/sbx-fuzz-chain-XXXXXX";

static void remove_dir(void)
{
	remove_tree_at(AT_FDCWD, root);
}

static int layers_dir(void)
{
	static int fd = -1;
	int bottom;

	if (fd >= 0)
		return fd;
	if (!mkdtemp(root) || atexit(remove_dir))
		abort();
	fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bottom = openat(fd, BOTTOM, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (bottom < 0 || ftruncate(bottom, DISK))
		abort();
	close(bottom);
	return fd;
}

/* The input, then, is entries: which table, which entry, and its eight bytes. */
static void put_entries(int fd, const uint8_t *data, size_t n)
{
	const struct qcow2_layout layout = {
		.size = DISK,
		.backing = BOTTOM,
		.reftable_offset = QCOW2_CLUSTER,
		.l1_offset = QCOW2_CLUSTER,
	};
	const uint64_t l1 = htobe64(2 * QCOW2_CLUSTER);

	if (qcow2_write_header(fd, &layout, NULL) || pwrite_all(fd, &l1, sizeof(l1), QCOW2_CLUSTER) ||
	    ftruncate(fd, 5 * QCOW2_CLUSTER + 100))
		abort();
	for (; n >= ENTRY; data += ENTRY, n -= ENTRY) {
		uint64_t table = data[0] % 3 + 1, entry = data[1] % 64;

		if (pwrite_all(fd, data + 2, 8, table * QCOW2_CLUSTER + entry * 8))
			abort();
	}
}

static int step(void *arg, unsigned permille)
{
	(void)arg;
	return permille > 1000;
}

static void merge(struct chain *chain)
{
	int fd = memfd_new("merged", 0);

	if (fd < 0)
		abort();
	qcow2_merge(chain, fd, step, NULL, NULL);
	close(fd);
}

static void read_chain(const uint8_t *data, size_t n, bool as_entries)
{
	static uint8_t block[3 * QCOW2_CLUSTER];
	int layers = layers_dir(), fd = openat(layers, TOP, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct chain *chain;

	if (fd < 0)
		abort();
	if (as_entries)
		put_entries(fd, data, n);
	else if (pwrite_all(fd, data, n, 0))
		abort();
	close(fd);
	if (chain_open(layers, TOP, false, &chain, NULL))
		return;
	/* Disks may be 4 TiB: the beginning, the end, and some places between. */
	for (unsigned i = 0; i <= 64; i++) {
		uint64_t size = chain_size(chain), at = size / 64 * i;
		size_t len = size - at < sizeof(block) ? (size_t)(size - at) : sizeof(block);

		chain_read(chain, block, len, at, NULL);
	}
	if (chain_size(chain) <= MERGE_MAX)
		merge(chain);
	chain_free(chain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > INPUT_MAX)
		return 0;
	read_chain(data, size, false);
	read_chain(data, size, true);
	return 0;
}
