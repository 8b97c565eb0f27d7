/* SPDX-License-Identifier: MIT */
/* io.h - whole reads and writes, and small files; all return 0 or a negative errno */
#ifndef SBX_UTIL_IO_H
#define SBX_UTIL_IO_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

#include "util/buf.h"

/*
 * All of n bytes. A file that ends before is -EIO, and so is one that takes no more; EINTR is retried. System
 * calls and nothing else, so also for a child of fork(2) in a process with threads.
 */
int pread_all(int fd, void *data, size_t n, uint64_t offset);
int pwrite_all(int fd, const void *data, size_t n, uint64_t offset);
/* Returns how many bytes were read: fewer than n only at the end of the file. */
ssize_t pread_some(int fd, void *data, size_t n, uint64_t offset);
/* The same at the file position, for pipes. read_some returns fewer bytes than n only at the end of the
 * file. */
ssize_t read_some(int fd, void *data, size_t n);
int write_all(int fd, const void *data, size_t n);

/* The whole of a regular file of at most max bytes (-EFBIG), appended to buf. */
int read_file_at(int dir, const char *name, size_t max, struct buf *buf);
/* Create a file (it must not exist) with these bytes and sync it. */
int write_file_at(int dir, const char *name, const void *data, size_t n);

/* An opened directory below dir, created when it is missing; a descriptor or a negative errno. */
int open_dir_at(int dir, const char *name);
/* opendir(3) of one below dir that is there, and no link; NULL with errno. */
DIR *opendir_at(int dir, const char *name);
/* Remove a file or a directory with what is in it; what is gone already is no error. */
int remove_tree_at(int dir, const char *name);

/* Standard input, output and error become this one, which is /dev/null. */
int standard_to(int null);

/* Is any of these events of poll(2) there, or the other end's end, within so many milliseconds? */
bool fd_ready(int fd, short events, unsigned ms);

/* A file of its own, unnamed, in memory; close-on-exec, sealable. A descriptor or a negative errno. */
int memfd_new(const char *name, uint64_t size);
/* Bytes that a file takes of memory or disk; 0 for one that cannot be asked, or -1. */
uint64_t fd_stored(int fd);
/* Nobody can write or resize it any more. */
int memfd_seal(int fd);
/*
 * The first place at or after offset, in steps of `unit` bytes, that may have data; end: there is none before. What it
 * passes over reads as zero. It takes no lock of the file, which another process may have for as long as it likes, as
 * lseek(2) would. Where Linux is older than 6.5 (cachestat) all may be data.
 */
uint64_t memfd_data(int fd, uint64_t offset, uint64_t end, uint64_t unit);
/*
 * One of a size that stays, mapped here to be read: *fd is for another process, which writes it. It could shorten it
 * otherwise, and reading it would kill us. *fd may be one that was made by this before; -1: it is made. It is the
 * caller's, also when this fails.
 */
int memfd_share(const char *name, size_t size, int *fd, void **ret);

/* If it is one, and not -1; and from then on it is -1. */
static inline void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

#endif
