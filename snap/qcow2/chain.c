/* SPDX-License-Identifier: MIT */
/*
 * chain.c - open the files of a disk, trusting none of them, and read through them
 *
 * A guest may have written what is now a layer, and a raw one may well begin like a qcow2 header that names
 * some file of the host. So formats are never guessed: a layer says what it builds on, and the name says what
 * format that has. A raw layer is always the bottom. All files have the size of the disk.
 */
#include "snap/qcow2/chain.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/qcow2/chain_priv.h"

static void qfile_free(struct qfile *file)
{
	for (unsigned i = 0; i < SLICE_CACHE; i++)
		free(file->cache[i].entries);
	refs_release(&file->refs);
	free(file->l1);
	if (file->fd >= 0)
		close(file->fd);
	free(file);
}

void chain_free(struct chain *chain)
{
	struct qfile *file, *backing;

	if (!chain)
		return;
	for (file = chain->top; file; file = backing) {
		backing = file->backing;
		qfile_free(file);
	}
	pthread_mutex_destroy(&chain->lock);
	free(chain);
}

static struct chain *chain_new(bool writable)
{
	struct chain *chain = calloc(1, sizeof(*chain));

	if (!chain)
		return NULL;
	chain->writable = writable;
	pthread_mutex_init(&chain->lock, NULL);
	return chain;
}

int qcow2_open_file(int dir_fd, const char *file, bool writable, struct err *err)
{
	/* Non-blocking, so that a FIFO in its place cannot stop us; it means nothing for a regular file. */
	const int fd =
		openat(dir_fd, file, (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	return errno == ENOENT ? err_set(err, -EINVAL, "layer %s is missing", file)
			       : err_sys(err, -errno, "cannot open layer %s", file);
}

/* What is known of an opened file, which becomes the qfile's; *ret_below is the name of the next, or "". */
static int qfile_new(const char *name, int fd, bool writable, struct qfile **ret,
		     char ret_below[QCOW2_NAME_MAX + 1], struct err *err)
{
	const bool raw = qcow2_name_raw(name);
	struct qcow2_info info;
	struct qfile *file;
	int rc;

	if (raw && writable)
		return err_set(err, -EINVAL, "layer %s is raw, and may only be read", name);
	rc = qcow2_inspect(fd, raw, &info, err);
	if (rc) {
		err_prefix(err, "layer %s", name);
		return rc;
	}
	file = calloc(1, sizeof(*file));
	if (!file)
		return err_set(err, -ENOMEM, "out of memory");
	file->fd = fd;
	snprintf(file->name, sizeof(file->name), "%s", name);
	file->raw = raw;
	file->unsynced = writable;
	file->size = info.size;
	file->end = writable ? QCOW2_FILE_MAX : info.file_size;
	file->l1_offset = info.l1_offset;
	file->refs.table_offset = info.reftable_offset;
	file->refs.fresh = (info.file_size + QCOW2_CLUSTER - 1) >> QCOW2_CLUSTER_BITS;
	memcpy(ret_below, info.backing, sizeof(info.backing));
	*ret = file;
	return 0;
}

/* Put a file below those that are there; the same arguments. On failure fd stays the caller's. */
static int append(struct chain *chain, const char *name, int fd, char ret_below[QCOW2_NAME_MAX + 1],
		  struct err *err)
{
	struct qfile **end = &chain->top, *file;
	int rc;

	while (*end)
		end = &(*end)->backing;
	rc = qfile_new(name, fd, chain->writable && !chain->n, &file, ret_below, err);
	if (rc)
		return rc;
	if (chain->top && file->size != chain->top->size) {
		rc = err_set(err, -EINVAL, "layer %s does not have the size of the disk above it",
			     file->name);
		file->fd = -1;
		qfile_free(file);
		return rc;
	}
	*end = file;
	chain->n++;
	return 0;
}

/* A name that is to be opened next. */
static int check_next(const struct chain *chain, const char *name, struct err *err)
{
	if (!qcow2_name_valid(name))
		return err_set(err, -EINVAL, "\"%.80s\" is not the name of a layer", name);
	if (chain->n == QCOW2_CHAIN_MAX)
		return err_set(err, -EINVAL, "layer %s has more than %d layers below it", chain->top->name,
			       QCOW2_CHAIN_MAX - 1);
	return 0;
}

int chain_open_from(int dir_fd, int lower_fd, const char *file, bool writable, struct chain **ret,
		    struct err *err)
{
	struct chain *chain = chain_new(writable);
	char below[QCOW2_NAME_MAX + 1];
	const char *name = file;
	int fd, rc = 0;

	if (!chain)
		return err_set(err, -ENOMEM, "out of memory");
	while (!rc && *name) {
		rc = check_next(chain, name, err);
		if (rc)
			break;
		fd = qcow2_open_file(chain->n ? lower_fd : dir_fd, name, writable && !chain->n, err);
		rc = fd < 0 ? fd : append(chain, name, fd, below, err);
		if (rc && fd >= 0)
			close(fd);
		name = below;
	}
	if (rc)
		chain_free(chain);
	else
		*ret = chain;
	return rc;
}

int chain_open(int dir_fd, const char *file, bool writable, struct chain **ret, struct err *err)
{
	return chain_open_from(dir_fd, dir_fd, file, writable, ret, err);
}

int chain_open_path(const char *path, bool writable, struct chain **ret, struct err *err)
{
	const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
	char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	int fd, rc;

	if (!dir)
		return err_set(err, -ENOMEM, "out of memory");
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(dir);
	if (fd < 0)
		return err_sys(err, -errno, "cannot open the directory of disk %s", path);
	rc = chain_open(fd, file, writable, ret, err);
	close(fd);
	return rc;
}

/* Give all descriptors back. */
static void disown(struct chain *chain)
{
	for (struct qfile *file = chain->top; file; file = file->backing)
		file->fd = -1;
}

int chain_adopt(const char *file, const int *fds, unsigned n, bool writable, struct chain **ret,
		struct err *err)
{
	struct chain *chain = chain_new(writable);
	char below[QCOW2_NAME_MAX + 1];
	const char *name = file;
	int rc = 0;

	if (!chain)
		return err_set(err, -ENOMEM, "out of memory");
	while (!rc && *name) {
		rc = check_next(chain, name, err);
		if (!rc && chain->n == n)
			rc = err_set(err, -EINVAL, "layer %s was not handed over", name);
		if (!rc)
			rc = append(chain, name, fds[chain->n], below, err);
		name = below;
	}
	if (!rc && chain->n != n)
		rc = err_set(err, -EINVAL, "disk %s has %u layers, and %u were handed over", file, chain->n,
			     n);
	if (rc) {
		disown(chain);
		chain_free(chain);
	} else {
		*ret = chain;
	}
	return rc;
}

int chain_push(struct chain *chain, const char *name, int fd, struct err *err)
{
	char below[QCOW2_NAME_MAX + 1] = "";
	struct qfile *top = chain->top, *file = NULL;
	struct stat st;
	int rc = check_next(chain, name, err);

	if (!rc && fstat(top->fd, &st) < 0)
		rc = err_sys(err, -errno, "cannot ask for the size of layer %s", top->name);
	if (!rc)
		rc = qfile_new(name, fd, true, &file, below, err);
	if (rc)
		return rc;
	if (strcmp(below, top->name) != 0)
		rc = err_set(err, -EINVAL, "layer %s does not build on %s", name, top->name);
	else if (file->size != top->size)
		rc = err_set(err, -EINVAL, "layer %s is not as large as %s", name, top->name);
	if (!rc)
		rc = qfile_load_l1(file, err);
	if (!rc)
		rc = refs_load(file, err);
	if (rc) {
		file->fd = -1;
		qfile_free(file);
		return rc;
	}
	top->end = (uint64_t)st.st_size;
	refs_release(&top->refs);
	file->backing = top;
	chain->top = file;
	chain->n++;
	return 0;
}

uint64_t chain_size(const struct chain *chain)
{
	return chain->top->size;
}

unsigned chain_length(const struct chain *chain)
{
	return chain->n;
}

bool chain_writable(const struct chain *chain)
{
	return chain->writable;
}

static const struct qfile *nth(const struct chain *chain, unsigned i)
{
	const struct qfile *file = chain->top;

	while (i--)
		file = file->backing;
	return file;
}

const char *chain_file(const struct chain *chain, unsigned i)
{
	return nth(chain, i)->name;
}

int chain_fd(const struct chain *chain, unsigned i)
{
	return nth(chain, i)->fd;
}

bool chain_raw(const struct chain *chain, unsigned i)
{
	return nth(chain, i)->raw;
}

int chain_read_iov(struct chain *chain, uint64_t offset, uint64_t len, struct cursor *to, struct err *err)
{
	struct extent extent;
	int rc = 0;

	while (!rc && len) {
		pthread_mutex_lock(&chain->lock);
		rc = qfile_map_chain(chain->top, offset, len, &extent, err);
		pthread_mutex_unlock(&chain->lock);
		if (rc)
			break;
		if (extent.kind == EXTENT_ZERO)
			cursor_zero(to, extent.len);
		else if ((rc = preadv_padded(extent.file->fd, to, extent.len, extent.host)))
			err_sys(err, rc, "cannot read layer %s", extent.file->name);
		offset += extent.len;
		len -= extent.len;
	}
	return rc;
}

int chain_read(struct chain *chain, void *data, size_t n, uint64_t offset, struct err *err)
{
	const struct iovec iov = { data, n };
	struct cursor to = { &iov, 0 };

	if (offset > chain_size(chain) || n > chain_size(chain) - offset)
		return err_set(err, -EINVAL, "%zu bytes at %llu are not on the disk", n,
			       (unsigned long long)offset);
	return chain_read_iov(chain, offset, n, &to, err);
}
