/* SPDX-License-Identifier: MIT */
/*
 * chain.h - a disk as the files it is made of: a layer, the one it builds on, and so on down to the bottom
 *
 * A chain is opened by the names of its files, or of descriptors that somebody else opened by name: a process
 * that may open nothing is given its disk this way. Either way the same checks are made, of every file: layers
 * are untrusted, and what does not fit is -EINVAL with the layer's name. No read leaves the files of a chain.
 *
 * Its layers may be in use by machines as long as they are frozen; they are opened read-only, but for the
 * topmost if it is to be written (disk.h). Any thread.
 */
#ifndef SBX_SNAP_QCOW2_CHAIN_H
#define SBX_SNAP_QCOW2_CHAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

/*
 * The one limit of depth, which also ends a ring of files: a chain has at most so many. One message carries 253
 * descriptors (SCM_MAX_FD of the kernel), and the one with a chain in it two more. Chains are merged from a
 * depth of 16 on (snap/compact.h), so only one whose merging fails again and again gets there; it then takes no
 * further layer.
 */
enum { QCOW2_CHAIN_MAX = 250 };

struct chain;

/* Open dir_fd/file and all it builds on, all in the same directory; `writable` is of the topmost file. */
int chain_open(int dir_fd, const char *file, bool writable, struct chain **ret, struct err *err);
/* The same with what is below the topmost file opened in lower_fd: that directory again, as it is mounted elsewhere. */
int chain_open_from(int dir_fd, int lower_fd, const char *file, bool writable, struct chain **ret,
		    struct err *err);
/* The same by the path of the topmost file. */
int chain_open_path(const char *path, bool writable, struct chain **ret, struct err *err);
/*
 * The same with n descriptors: fds[0] is `file`, each following one is what the one before it says it builds
 * on. On success they are the chain's; otherwise they stay the caller's.
 */
int chain_adopt(const char *file, const int *fds, unsigned n, bool writable, struct chain **ret,
		struct err *err);
void chain_free(struct chain *chain); /* NULL is allowed */

uint64_t chain_size(const struct chain *chain); /* bytes of the disk */
unsigned chain_length(const struct chain *chain);
bool chain_writable(const struct chain *chain);
/* The file name and the descriptor of a layer, and whether it is raw; 0 is the topmost. */
const char *chain_file(const struct chain *chain, unsigned i);
int chain_fd(const struct chain *chain, unsigned i);
bool chain_raw(const struct chain *chain, unsigned i);

/* n bytes of the disk at offset; all must lie in it (-EINVAL). -EIO: a layer's tables are damaged. */
int chain_read(struct chain *chain, void *data, size_t n, uint64_t offset, struct err *err);

/* One file, as chain_open opens it: no link is followed, nothing is waited for. A descriptor; -EINVAL when it
 * is missing. */
int qcow2_open_file(int dir_fd, const char *file, bool writable, struct err *err);

#endif
