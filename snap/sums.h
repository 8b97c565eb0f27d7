/* SPDX-License-Identifier: MIT */
/*
 * sums.h - checksums of a layer, kept in a file of the same name in sums/
 *
 * A layer is in the formats of others, which have no room for checksums of its content. They are made when
 * a layer is saved for the first time, by when it is immutable. For worker threads.
 */
#ifndef SBX_SNAP_SUMS_H
#define SBX_SNAP_SUMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "snap/store.h"
#include "util/err.h"

enum { SUMS_BLOCK = 64 << 10 };

/* Sync dir_fd/file, and write and sync its checksums to sums_fd/file, by way of tmp_fd. Sums that are there
 * already are replaced. The caller syncs sums_fd. */
int sums_write(int dir_fd, const char *file, int sums_fd, int tmp_fd, struct err *err);

/*
 * Compare. Checksums that wait to replace the present ones (compact.h) will do as well. -EIO names the first
 * block found that differs; -EINVAL: no such file or no sums.
 */
int sums_check(int dir_fd, const char *file, int sums_fd, struct progress *progress, struct err *err);

/*
 * The checksums in force, *ret_n of them for the caller to free, and the layer's size. -EIO, -EINVAL: as above;
 * the layer's content is not looked at.
 */
int sums_read(int dir_fd, const char *file, int sums_fd, uint64_t *ret_size, uint64_t **ret, size_t *ret_n,
	      struct err *err);

/* The name of checksums that wait. */
enum { SUMS_NEXT_MAX = 64 };
void sums_next_name(const char *file, char ret[SUMS_NEXT_MAX]);
/* Whether they fit the layer. */
bool sums_next_fit(int dir_fd, const char *file, int sums_fd);

#endif
