/* SPDX-License-Identifier: MIT */
/*
 * disk.c - how fast a guest's disk is, without the guest
 *
 *   disk FILE [MIB]
 *
 * FILE is an empty qcow2 file of at least MIB (512) on whatever it builds on. Writes all of it from front to
 * back, eight requests of 256 KiB at a time, then once more in place, and reads it. Prints MB/s.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "snap/qcow2/chain.h"
#include "snap/qcow2/disk.h"
#include "util/loop.h"

enum { REQUEST = 256 << 10, DEPTH = 8 };

struct slot {
	bool busy;
	uint8_t data[REQUEST];
	struct iovec iov;
};

static struct slot slots[DEPTH];

static void on_done(void *arg, int result)
{
	struct slot *slot = arg;

	slot->busy = false;
	if (result) {
		fprintf(stderr, "%s\n", strerror(-result));
		exit(1);
	}
}

static void pass(struct loop *loop, struct qcow2 *disk, enum qcow2_op op, uint64_t size, const char *what)
{
	const uint64_t start = now_mono_ns();
	uint64_t at;

	for (at = 0; at < size; at += REQUEST) {
		struct slot *slot = &slots[at / REQUEST % DEPTH];

		while (slot->busy)
			loop_once(loop, -1);
		slot->busy = true;
		slot->iov = (struct iovec){ slot->data, REQUEST };
		if (qcow2_submit(disk, op, at, REQUEST, &slot->iov, 1, on_done, slot))
			exit(1);
	}
	qcow2_drain(disk);
	printf("%s %.0f MB/s\n", what, (double)size * 1000 / (double)(now_mono_ns() - start));
}

int main(int argc, char **argv)
{
	const uint64_t size = (argc > 2 ? strtoull(argv[2], NULL, 10) : 512) << 20;
	struct loop *loop = loop_new();
	struct qcow2 *disk = NULL;
	struct err err = { 0 };
	struct chain *chain = NULL;

	if (argc < 2 || !loop) {
		fprintf(stderr, "usage: disk FILE [MIB]\n");
		return 2;
	}
	for (unsigned i = 0; i < DEPTH; i++)
		memset(slots[i].data, 'a' + (int)i, REQUEST);
	if (chain_open_path(argv[1], true, &chain, &err) || qcow2_open(loop, chain, &disk, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	if (qcow2_size(disk) < size) {
		fprintf(stderr, "the disk is smaller than that\n");
		return 1;
	}
	pass(loop, disk, QCOW2_WRITE, size, "write new");
	pass(loop, disk, QCOW2_WRITE, size, "write in place");
	pass(loop, disk, QCOW2_READ, size, "read");
	qcow2_close(disk);
	loop_free(loop);
	return 0;
}
