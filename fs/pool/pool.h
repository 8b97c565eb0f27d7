/* SPDX-License-Identifier: MIT */
/*
 * pool.h - machines prepared ahead of time
 *
 * A template that was forked is likely to be forked again. On CPUs that forks leave, the pool prepares machines for
 * the templates forked most recently: options.pool for each, or as many as its last rows of forks would have needed
 * (demand.h), until there are options.pool_total together, or until they have options.pool_memory bytes of their own.
 */
#ifndef SBX_FS_POOL_POOL_H
#define SBX_FS_POOL_POOL_H

#include "fs/fs.h"

struct pooled {
	struct vm *vm;
	struct layer *disk; /* a reference */
	bool loaded;        /* the engine is done preparing it */
};

/* An empty pool; -ENOMEM. */
int pool_open(struct fs *fs, struct err *err);
/* Is a machine being prepared, which opens layers by their names? */
bool pool_prepares(const struct fs *fs);
/* A machine for the template that is nobody's yet; false: there is none. */
bool pool_take(struct fs *fs, const struct template *template, struct pooled *ret);
/* The template was forked, from one that was taken loaded, or not: keep machines for it. */
void pool_want(struct fs *fs, struct template *template, bool found);
/* It will not be forked again. */
void pool_forget(struct fs *fs, const struct template *template);
/* Machines that are ready, rehearsed (rehearsal.h) and waiting. */
unsigned pool_count(const struct fs *fs);
/* Bytes that only they have. */
uint64_t pool_memory(const struct fs *fs);
/* End all that it has, and take nothing more. */
void pool_drop(struct fs *fs);
void pool_close(struct fs *fs);

#endif
