/* SPDX-License-Identifier: MIT */
/*
 * pool.h - machines prepared ahead of time
 *
 * A template that was forked is likely to be forked again. In idle moments the pool prepares machines for the
 * templates forked most recently: options.pool for each, until there are options.pool_total together, or
 * until they have options.pool_memory bytes of their own.
 */
#ifndef SBX_FS_POOL_H
#define SBX_FS_POOL_H

#include "fs/fs.h"

/* A machine for the template, with its disk (a reference) and nobody's yet; false: none is ready. */
bool pool_take(struct fs *fs, const struct template *template, struct vm **ret_vm, struct layer **ret_disk);
/* The template was forked: keep machines for it. */
void pool_want(struct fs *fs, struct template *template);
/* It will not be forked again. */
void pool_forget(struct fs *fs, const struct template *template);
/* Machines that are ready, rehearsed (rehearsal.h) and waiting. */
unsigned pool_count(const struct fs *fs);
/* Bytes that only they have. */
uint64_t pool_memory(const struct fs *fs);
void pool_drop(struct fs *fs);

#endif
