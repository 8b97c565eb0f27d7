/* SPDX-License-Identifier: MIT */
/*
 * import.c - from what people have to a filesystem: who reads it, and how confined
 *
 * The child asks for the files of a layout over a socket, by names that are checked here (blob.h).
 */
#include "snap/image/import.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/image/blob.h"
#include "snap/image/confined.h"
#include "snap/image/ext4.h"
#include "snap/image/unpack.h"
#include "snap/image_config.h"
#include "util/io.h"

/* ---- what is read in a child */

struct import_job {
	struct image_import *import;
	struct import_input *input;
	int layout;
};

static int fill_disk(void *arg, struct confined_count *count, struct buf *said, struct err *err)
{
	const struct import_job *job = arg;
	struct ext4 *fs;
	int rc, closed;

	job->input->done = &count->done;
	job->input->total = &count->total;
	rc = ext4_open(job->import->disk, &fs, err);
	if (rc)
		return rc;
	rc = confined_enter(err);
	if (!rc)
		rc = import_fill(fs, job->input, said, err);
	closed = ext4_close(fs, !rc, rc ? NULL : err);
	return rc ? rc : closed;
}

static bool answer(void *arg, int fd)
{
	const struct import_job *job = arg;

	return broker_answer(fd, job->layout);
}

static int import_confined(struct image_import *import, struct import_input *input, int layout,
			   struct err *err)
{
	struct import_job job = { import, input, layout };
	struct confined confined = {
		.work = fill_disk,
		.arg = &job,
		.progress = import->progress,
		.progress_arg = import->arg,
		.answer = answer,
	};
	int sockets[2] = { -1, -1 }, rc = 0;

	input->spool_fd = confined_spool(err);
	if (input->spool_fd < 0)
		return input->spool_fd;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
		rc = err_sys(err, -errno, "cannot make a socket");
	confined.our_fd = sockets[0];
	confined.their_fd = input->broker_fd = sockets[1];
	if (!rc)
		rc = confined_run(&confined, &import->config, err);
	if (!rc)
		rc = image_config_check(&import->config, err);
	close_fd(&sockets[0]);
	close(input->spool_fd);
	return rc;
}

/* ---- the source */

/* What is before the last colon is the source where there is nothing of the whole name; *ret_tag is what is
 * behind it. A pipe is opened once only, so it is not opened here. */
static int find_source(const char *source, char path[PATH_MAX], const char **ret_tag, struct stat *ret,
		       struct err *err)
{
	const char *colon = strrchr(source, ':');

	*ret_tag = "";
	snprintf(path, PATH_MAX, "%s", strcmp(source, "-") != 0 ? source : "/proc/self/fd/0");
	if (!stat(path, ret))
		return 0;
	if (errno != ENOENT || !colon || colon - source >= PATH_MAX)
		return err_sys(err, -errno, "%.200s", source);
	snprintf(path, PATH_MAX, "%.*s", (int)(colon - source), source);
	*ret_tag = colon + 1;
	return stat(path, ret) < 0 ? err_sys(err, -errno, "%.200s", source) : 0;
}

static int open_source(const char *source, const char **ret_tag, struct stat *ret, struct err *err)
{
	char path[PATH_MAX];
	int fd, rc = find_source(source, path, ret_tag, ret, err);

	if (rc)
		return rc;
	fd = strcmp(source, "-") != 0 ? open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY)
				      : fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? err_sys(err, -errno, "%.200s", source) : fd;
}

static bool is_layout(int dir_fd)
{
	return !faccessat(dir_fd, "index.json", F_OK, 0) && !faccessat(dir_fd, "oci-layout", F_OK, 0);
}

static int import_dir(struct image_import *import, struct err *err)
{
	struct ext4 *fs;
	int closed, rc = ext4_open(import->disk, &fs, err);

	if (rc)
		return rc;
	rc = unpack_dir(fs, import->source, err);
	closed = ext4_close(fs, !rc, rc ? NULL : err);
	return rc ? rc : closed;
}

int image_import(struct image_import *import, struct err *err)
{
	struct import_input input = { .budget = import->size * 4 + (64u << 20) };
	struct stat st;
	int rc, fd = open_source(import->source, &input.tag, &st, err);

	if (fd < 0)
		return fd;
	rc = ext4_make(import->disk, import->size, err);
	if (rc)
		goto out;
	input.fd = S_ISDIR(st.st_mode) ? -1 : fd;
	if (S_ISDIR(st.st_mode) && !is_layout(fd))
		rc = *input.tag ? err_set(err, -EINVAL, "%.200s is no OCI layout, and has no tags",
					  import->source)
				: import_dir(import, err);
	else
		rc = import_confined(import, &input, fd, err);
out:
	close(fd);
	return rc;
}

/* ---- its size */

static uint64_t found; /* bytes, for nftw(3), which passes nothing on */

static int add_size(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)path;
	(void)at;
	if (type == FTW_F)
		found += (uint64_t)st->st_blocks * 512;
	return 0;
}

int image_import_size(const char *source, uint64_t *ret, struct err *err)
{
	const uint64_t gib = 1ull << 30;
	char path[PATH_MAX], index[PATH_MAX + 16];
	const char *tag;
	struct stat st;
	int rc = find_source(source, path, &tag, &st, err);

	if (rc)
		return rc;
	found = 0;
	/* Packed files get larger, by no more than this as a rule; what does not fit is said to need --size. */
	if (S_ISREG(st.st_mode)) {
		found = (uint64_t)st.st_size * 5;
	} else if (S_ISDIR(st.st_mode)) {
		nftw(path, add_size, 32, FTW_PHYS | FTW_MOUNT);
		snprintf(index, sizeof(index), "%s/oci-layout", path);
		found *= access(index, F_OK) ? 2 : 5;
	} else {
		found = 7 * gib;
	}
	*ret = (found + gib + gib - 1) / gib * gib;
	if (*ret < 2 * gib)
		*ret = 2 * gib;
	return 0;
}
