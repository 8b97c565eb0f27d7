/* SPDX-License-Identifier: MIT */
/* io.c - whole reads and writes, and small files */
#include "util/io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/loop.h"

/* At an offset, or, if that is NULL, wherever the file is. */
static ssize_t read_up_to(int fd, void *data, size_t n, const uint64_t *offset)
{
	size_t at = 0;

	while (at < n) {
		uint8_t *p = (uint8_t *)data + at;
		ssize_t got = offset ? pread(fd, p, n - at, (off_t)(*offset + at)) : read(fd, p, n - at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got)
			break;
		at += (size_t)got;
	}
	return (ssize_t)at;
}

ssize_t pread_some(int fd, void *data, size_t n, uint64_t offset)
{
	return read_up_to(fd, data, n, &offset);
}

ssize_t read_some(int fd, void *data, size_t n)
{
	return read_up_to(fd, data, n, NULL);
}

int pread_all(int fd, void *data, size_t n, uint64_t offset)
{
	const ssize_t got = pread_some(fd, data, n, offset);

	if (got < 0)
		return (int)got;
	return (size_t)got < n ? -EIO : 0;
}

int pwrite_all(int fd, const void *data, size_t n, uint64_t offset)
{
	const uint8_t *p = data;

	while (n) {
		ssize_t put = pwrite(fd, p, n, (off_t)offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put ? -errno : -EIO;
		p += put;
		offset += (uint64_t)put;
		n -= (size_t)put;
	}
	return 0;
}

int write_all(int fd, const void *data, size_t n)
{
	const uint8_t *p = data;

	while (n) {
		ssize_t put = write(fd, p, n);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put ? -errno : -EIO;
		p += put;
		n -= (size_t)put;
	}
	return 0;
}

int read_file_at(int dir, const char *name, size_t max, struct buf *buf)
{
	struct stat st;
	void *p;
	int rc = 0;
	/* O_NONBLOCK: a FIFO in the place of the file must not hang us. */
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		rc = -errno;
	else if (!S_ISREG(st.st_mode))
		rc = -EINVAL;
	else if ((uint64_t)st.st_size > max)
		rc = -EFBIG;
	if (rc)
		goto out;
	p = buf_reserve(buf, (size_t)st.st_size);
	rc = p ? pread_all(fd, p, (size_t)st.st_size, 0) : -ENOMEM;
	if (!rc)
		buf_grow(buf, (size_t)st.st_size);
out:
	close(fd);
	return rc;
}

int write_file_at(int dir, const char *name, const void *data, size_t n)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int rc;

	if (fd < 0)
		return -errno;
	rc = write_all(fd, data, n);
	if (!rc && fsync(fd) < 0)
		rc = -errno;
	close(fd);
	return rc;
}

int open_dir_at(int dir, const char *name)
{
	int fd;

	if (mkdirat(dir, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

DIR *opendir_at(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	const int error = errno;

	if (!stream)
		close_fd(&fd);
	errno = error;
	return stream;
}

int remove_tree_at(int dir, const char *name)
{
	struct dirent *entry;
	DIR *stream;
	int rc = 0;

	if (!unlinkat(dir, name, 0) || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	stream = opendir_at(dir, name);
	if (!stream)
		return errno == ENOENT ? 0 : -errno;
	while (!rc && (entry = readdir(stream))) {
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			rc = remove_tree_at(dirfd(stream), entry->d_name);
	}
	closedir(stream);
	if (!rc && unlinkat(dir, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		rc = -errno;
	return rc;
}

int standard_to(int null)
{
	int fd;

	for (fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (dup2(null, fd) < 0)
			return -errno;
	return 0;
}

bool fd_ready(int fd, short events, unsigned ms)
{
	struct pollfd pfd = { .fd = fd, .events = events };
	const uint64_t end = now_mono_ns() + ms * UINT64_C(1000000);
	uint64_t now;
	int n;

	do {
		now = now_mono_ns();
		n = poll(&pfd, 1, now < end ? (int)((end - now) / 1000000) + 1 : 0);
	} while (n < 0 && errno == EINTR);
	return n > 0;
}

int memfd_new(const char *name, uint64_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int rc;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) < 0) {
		rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

uint64_t fd_stored(int fd)
{
	struct stat st;

	return fd < 0 || fstat(fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

int memfd_seal(int fd)
{
	return fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0 ? -errno
												    : 0;
}

/*
 * The kernel's table of a file's pages is read without its lock; a page that is swapped out counts as evicted. The
 * number of the call and its structs are newer than the headers of Debian 12 (linux/mman.h).
 */
static bool is_hole(int fd, uint64_t offset, uint64_t n)
{
	enum { CACHESTAT = 451 };
	const struct {
		uint64_t offset, n;
	} range = { offset, n };
	struct {
		uint64_t cache, dirty, writeback, evicted, recently_evicted;
	} pages = { 0 };

	return !syscall(CACHESTAT, fd, &range, &pages, 0) && !pages.cache && !pages.evicted;
}

uint64_t memfd_data(int fd, uint64_t offset, uint64_t end, uint64_t unit)
{
	uint64_t step = unit, n;

	while (offset < end) {
		n = end - offset < step ? end - offset : step;
		if (is_hole(fd, offset, n)) {
			offset += n;
			step *= 2;
		} else if (step == unit) {
			return offset;
		} else {
			step /= 2;
		}
	}
	return end;
}

int memfd_share(const char *name, size_t size, int *fd, void **ret)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	void *map;
	int has;

	if (*fd < 0)
		*fd = memfd_new(name, size);
	if (*fd < 0)
		return *fd;
	/* One that was used has its seals; adding some takes the file's lock, which who used it could hold. */
	has = fcntl(*fd, F_GET_SEALS);
	if (has < 0 || ((has & seals) != seals && fcntl(*fd, F_ADD_SEALS, seals) < 0))
		return -errno;
	map = mmap(NULL, size, PROT_READ, MAP_SHARED, *fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	*ret = map;
	return 0;
}
