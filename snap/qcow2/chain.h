/* SPDX-License-Identifier: MIT */
/*
 * chain.h - read a disk through all its layers
 *
 * A chain is opened by the file name of its top layer and read only; its layers may be in use by machines as
 * long as they are frozen. For one thread at a time, any thread. Layers are untrusted: what does not fit is
 * -EINVAL with the layer's name, and no read leaves the files of the chain.
 */
#ifndef SBX_SNAP_QCOW2_CHAIN_H
#define SBX_SNAP_QCOW2_CHAIN_H

#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

struct chain;

int chain_open(int layers_fd, const char *file, struct chain **ret, struct err *err);
void chain_free(struct chain *chain); /* NULL is allowed */

uint64_t chain_size(const struct chain *chain); /* bytes of the disk */
unsigned chain_length(const struct chain *chain);
/* The file name of a layer; 0 is the topmost. */
const char *chain_file(const struct chain *chain, unsigned i);

/* Where a cluster's content comes from. */
enum chain_source {
	CHAIN_DATA,   /* a layer above the bottom */
	CHAIN_ZERO,   /* a layer above the bottom says that it is zero */
	CHAIN_BOTTOM, /* none above the bottom has it */
};
/* A negative errno or an enum chain_source. */
int chain_map(struct chain *chain, uint64_t cluster, struct err *err);

/* n bytes of the disk at offset; all must lie in it. */
int chain_read(struct chain *chain, void *data, size_t n, uint64_t offset, struct err *err);

#endif
