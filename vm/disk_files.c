/* SPDX-License-Identifier: MIT */
/* disk_files.c - the files of a machine's disk, opened for a process that may open none itself */
#include "vm/disk_files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/jail/jail.h"

/* The same directory where nothing can be written; itself where no jails are made, or it is another. */
static int lower_dir(int dir)
{
	const int layers = launcher_layers();
	struct stat here, there;

	if (layers < 0)
		return layers == -ENOENT ? dir : layers;
	return !fstat(dir, &here) && !fstat(layers, &there) && here.st_dev == there.st_dev &&
			       here.st_ino == there.st_ino
		       ? layers
		       : dir;
}

static int open_chain(struct disk *disk, int dir, bool writable, struct err *err)
{
	const int lower = lower_dir(dir);
	int rc;

	if (lower < 0)
		return err_sys(err, lower, "cannot have the layers read-only");
	rc = chain_open_from(writable ? dir : lower, lower, disk->name, writable, &disk->chain, err);
	if (rc)
		return rc;
	for (unsigned i = 0; i < chain_length(disk->chain); i++)
		disk->files[disk->n++] =
			(struct disk_file){ chain_fd(disk->chain, i), chain_raw(disk->chain, i) };
	return 0;
}

static int open_alone(struct disk *disk, int dir, struct err *err)
{
	struct qcow2_info info;
	int fd = qcow2_open_file(dir, disk->name, true, err), rc;

	if (fd < 0)
		return fd;
	disk->files[disk->n++] = (struct disk_file){ fd, false };
	rc = qcow2_inspect(fd, false, &info, err);
	if (rc)
		err_prefix(err, "layer %s", disk->name);
	return rc;
}

int disk_open(struct disk *disk, const char *path, unsigned flags, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX];
	int fd, rc;

	disk->n = 0;
	disk->chain = NULL;
	if (!slash || slash - path >= PATH_MAX || strlen(slash + 1) > QCOW2_NAME_MAX)
		return err_set(err, -EINVAL, "%s is not the path of a disk", path);
	snprintf(disk->name, sizeof(disk->name), "%s", slash + 1);
	snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path), path);
	fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, -errno, "cannot open %s", dir);
	rc = flags & DISK_ALONE ? open_alone(disk, fd, err)
				: open_chain(disk, fd, !(flags & DISK_READ_ONLY), err);
	close(fd);
	if (rc)
		disk_close(disk);
	return rc;
}

void disk_close(struct disk *disk)
{
	if (!disk->chain && disk->n)
		close(disk->files[0].fd);
	chain_free(disk->chain);
	disk->chain = NULL;
	disk->n = 0;
}
