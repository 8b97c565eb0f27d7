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

/* The same directory where nothing can be written, or -1. */
static int read_only_dir(int dir)
{
	const int layers = launcher_layers();
	struct stat here, there;

	return layers >= 0 && !fstat(dir, &here) && !fstat(layers, &there) && here.st_dev == there.st_dev &&
			       here.st_ino == there.st_ino
		       ? layers
		       : -1;
}

static int open_files(struct disk *disk, int dir, unsigned flags, struct err *err)
{
	const int layers = read_only_dir(dir);
	struct qcow2_info info = { 0 };
	const char *name = disk->name;
	bool writable, raw;
	int fd, rc = 0;

	do {
		if (disk->n == DISK_FILES_MAX)
			return err_set(err, -EINVAL, "disk %s has more than %d files", disk->name,
				       DISK_FILES_MAX);
		if (!qcow2_name_valid(name))
			return err_set(err, -EINVAL, "'%s' is not the name of a layer", name);
		writable = !disk->n && !(flags & DISK_READ_ONLY);
		raw = qcow2_name_raw(name);
		fd = qcow2_open_file(writable || layers < 0 ? dir : layers, name, writable, err);
		if (fd < 0)
			return fd;
		disk->files[disk->n].fd = fd;
		disk->files[disk->n++].raw = raw;
		rc = qcow2_inspect(fd, raw, &info, err);
		if (rc)
			return err_prefix(err, "layer %s", name);
		name = info.backing;
	} while (!(flags & DISK_ALONE) && !raw && *name);
	return 0;
}

int disk_open(struct disk *disk, const char *path, unsigned flags, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX];
	int fd, rc;

	disk->n = 0;
	if (!slash || slash - path >= PATH_MAX || strlen(slash + 1) > QCOW2_NAME_MAX)
		return err_set(err, -EINVAL, "%s is not the path of a disk", path);
	snprintf(disk->name, sizeof(disk->name), "%s", slash + 1);
	snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path), path);
	fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, -errno, "cannot open %s", dir);
	rc = open_files(disk, fd, flags, err);
	close(fd);
	if (rc)
		disk_close(disk);
	return rc;
}

void disk_close(struct disk *disk)
{
	while (disk->n)
		close(disk->files[--disk->n].fd);
}
