/* SPDX-License-Identifier: MIT */
/*
 * request.h - a FUSE request that may have to wait for its answer
 *
 * The kernel makes a caller whose request was read uninterruptible until the answer comes, so every request
 * that waits must be able to answer an interrupt itself with EINTR. It does so if the caller is being killed,
 * or has a handler for the signal and waits for something that may never come. A caller that goes on is given
 * the outcome: for signals that programs only count by, like a shell's SIGCHLD, and for all of them where the
 * wait `ends`, since then EINTR would say that nothing was done. A request is answered exactly once, by one
 * of the replies below or by the interrupt; either frees it. Who keeps a pointer to a waiting request sets
 * `cancel`, which is called when the interrupt was the answer, or uses `link`, which is unlinked then.
 */
#ifndef SBX_FS_TREE_REQUEST_H
#define SBX_FS_TREE_REQUEST_H

#include <stdbool.h>
#include <stddef.h>

#include "fs/tree/caller.h"
#include "fs/tree/fuse.h"
#include "fs/tree/object.h"
#include "util/err.h"
#include "util/list.h"
#include "util/loop.h"

struct request {
	struct fs *fs;
	fuse_req_t req;
	struct caller caller;
	struct list all;  /* fs->requests */
	struct list link; /* for who keeps it */
	void (*cancel)(void *arg);
	void *arg;
	size_t size;     /* asked for by a read, given by a write */
	uint64_t offset; /* of a read that waits for files_refreshed */
	uint64_t owner;  /* of a write or flush: whose table of descriptors it came through */
	void *data;      /* of a write that waits: a copy (request_keep), freed with the request... */
	size_t held;     /* ...of so many bytes */
	uint64_t number; /* of the story that -v tells: which request, and since when it waits */
	uint64_t began_ns;
	bool ends;            /* set by who makes it: the answer comes soon, or a time limit */
	struct timer recheck; /* the caller was interrupted, which the kernel says once, and goes on so far */
	size_t partial; /* of a write: bytes that are gone already; an interrupt then answers with them */
};

/* As request_new, for one that `ends`. */
struct request *request_new_ending(fuse_req_t req, size_t size);
/* NULL: it was interrupted already, or memory is out, and is answered. */
struct request *request_new(fuse_req_t req, size_t size);

/* Copy the size bytes of a write that may have to wait. 0, or -ENOMEM or -EDQUOT with the reason: see kept.h. */
int request_keep(struct request *request, const char *data, struct err *err);

void request_err(struct request *request, int err); /* 0 or a negative errno */
void request_written(struct request *request);      /* all of size */
void request_attr(struct request *request, const struct stat *attr, double timeout);
void request_link(struct request *request, const char *target);
void request_xattr(struct request *request, size_t size); /* of a value that was not asked for itself */
void request_lseek(struct request *request, off_t off);
void request_statfs(struct request *request, const struct statvfs *st);
/* -errno when the caller is gone in the same moment: the kernel does not know the entry, or will not
 * release the file. */
int request_data(struct request *request, const void *data, size_t n);
int request_entry(struct request *request, const struct fuse_entry_param *entry);
int request_open(struct request *request, const struct fuse_file_info *fi);
/* The same of a file that has no position at all: one reads while another writes through one descriptor. */
int request_open_stream(struct request *request, const struct fuse_file_info *fi);
int request_create(struct request *request, const struct fuse_entry_param *entry,
		   const struct fuse_file_info *fi);

/* End all that wait, when the daemon ends. */
void requests_abort(struct fs *fs);

#endif
