/* SPDX-License-Identifier: MIT */
/*
 * image.c - images: raw disks with names
 *
 * images/NAME is a record that names a raw layer. Publishing copies the disk under tmp/, where a lock on the
 * file tells a daemon that starts meanwhile that it is no leftover; then, under the lock that collection
 * takes too, the layer gets its place and the record its name. So there is no moment at which collection
 * finds the layer without the record that needs it, and after a crash there is at most a file that nothing
 * names.
 */
#include "snap/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/manifest.h"
#include "snap/qcow2/header.h"
#include "snap/store_priv.h"
#include "snap/sums.h"
#include "util/io.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/size.h"
#include "util/zero.h"

enum { IMAGE_VERSION = 1, IMAGE_RECORD_MAX = 4096, COPY_BLOCK = 64 * 1024 };

#define IMAGE_KIND "sbxfs-image"

/* What `sbx image` opens of a store. */
struct dirs {
	int layers, sums, images, tmp;
};

char *store_default_dir(void)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	char *dir = NULL;
	int n;

	if (geteuid() == 0)
		return strdup("/var/lib/sbxfs");
	if (state && *state == '/')
		n = asprintf(&dir, "%s/sbxfs", state);
	else if (home && *home == '/')
		n = asprintf(&dir, "%s/.local/state/sbxfs", home);
	else
		return NULL;
	return n < 0 ? NULL : dir;
}

/* ---- records */

/* What images/name says: *ret without name and disk, and the file of its layer. */
static int read_record(int images, const char *name, struct image *ret, char file[LAYER_FILE_MAX],
		       struct err *err)
{
	char label[sizeof("image ") + STORE_NAME_MAX];
	struct buf text = { 0 };
	struct manifest record;
	bool has_size = false;
	char *key, *value;
	int rc;

	*ret = (struct image){ 0 };
	file[0] = '\0';
	snprintf(label, sizeof(label), "image %s", name);
	rc = read_file_at(images, name, IMAGE_RECORD_MAX, &text);
	if (rc == -ENOENT)
		err_set(err, rc, "there is no %s", label);
	else if (rc)
		err_sys(err, rc, "cannot read %s", label);
	else
		rc = manifest_open(&record, (char *)buf_bytes(&text), text.len, IMAGE_KIND, IMAGE_VERSION,
				   label, err);
	if (rc)
		goto out;
	while (manifest_next(&record, &key, &value)) {
		if (!strcmp(key, "layer"))
			snprintf(file, LAYER_FILE_MAX, "%s", value);
		else if (!strcmp(key, "size"))
			has_size = !number_parse(value, &ret->size);
		else if (!strcmp(key, "created"))
			rc = number_parse(value, &ret->created);
		else if (!strcmp(key, "source"))
			snprintf(ret->source, sizeof(ret->source), "%s", value);
		else
			rc = -EINVAL;
		if (rc) {
			rc = err_set(err, -EINVAL, "image %s has an unknown key: %.32s", name, key);
			goto out;
		}
	}
	if (!id_valid(file, ".raw") || !has_size)
		rc = err_set(err, -EINVAL, "%s does not say which layer it is, and how large", label);
out:
	buf_release(&text);
	return rc;
}

/* Call each for every name in images/; stops at the first that is not 0, which it returns. */
static int each_name(int images, int (*each)(void *arg, const char *name), void *arg)
{
	DIR *dir = opendir_at(images, ".");
	struct dirent *entry;
	int rc = 0;

	if (!dir)
		return -errno;
	while (!rc && (errno = 0, entry = readdir(dir)))
		if (name_valid(entry->d_name))
			rc = each(arg, entry->d_name);
	if (!rc && errno)
		rc = -errno;
	closedir(dir);
	return rc;
}

struct each_layer {
	int images;
	int (*each)(void *arg, const char *file);
	void *arg;
	struct err *err;
};

static int name_to_layer(void *arg, const char *name)
{
	const struct each_layer *walk = arg;
	char file[LAYER_FILE_MAX];
	struct image image;
	int rc = read_record(walk->images, name, &image, file, walk->err);

	return rc ? rc : walk->each(walk->arg, file);
}

int image_lock(int images_fd)
{
	int fd = openat(images_fd, ".lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	int rc;

	if (fd < 0)
		return -errno;
	while (flock(fd, LOCK_EX) < 0) {
		if (errno == EINTR)
			continue;
		rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

int image_layers(int images_fd, int (*each)(void *arg, const char *file), void *arg, struct err *err)
{
	struct err record = { 0 };
	struct each_layer walk = { .images = images_fd, .each = each, .arg = arg, .err = &record };
	int rc = each_name(images_fd, name_to_layer, &walk);

	if (record.code)
		return err_set(err, rc, "%s", record.text);
	return rc ? err_sys(err, rc, "cannot look at the layers of all images") : 0;
}

/* ---- the daemon's view */

int image_get(struct store *store, const char *name, struct image *ret, struct err *err)
{
	char file[LAYER_FILE_MAX];
	struct image image;
	int rc;

	if (name_check(name, err))
		return -EINVAL;
	rc = read_record(store->images_fd, name, &image, file, err);
	if (!rc)
		rc = layer_open(store, file, &image.disk, err);
	if (rc)
		return rc;
	if (image.size != layer_virtual_size(image.disk)) {
		layer_unref(image.disk);
		return err_set(err, -EIO, "image %s: layer %s does not have the size it should have", name,
			       file);
	}
	snprintf(image.name, sizeof(image.name), "%s", name);
	image.stored = layer_stored(image.disk);
	*ret = image;
	return 0;
}

void image_release(struct image *image)
{
	layer_unref(image->disk);
	image->disk = NULL;
}

struct list_walk {
	void (*each)(void *arg, const char *name);
	void *arg;
};

static int pass_name(void *arg, const char *name)
{
	const struct list_walk *walk = arg;

	walk->each(walk->arg, name);
	return 0;
}

int image_list(struct store *store, void (*each)(void *arg, const char *name), void *arg)
{
	struct list_walk walk = { each, arg };

	return each_name(store->images_fd, pass_name, &walk);
}

/* ---- the view of `sbx image` */

static void dirs_close(struct dirs *dirs)
{
	const int fds[] = { dirs->layers, dirs->sums, dirs->images, dirs->tmp };

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* The store's directory and those above it, so that a first image can come before the first daemon. */
static int make_path(const char *dir)
{
	char *path = strdup(dir);
	int rc = path ? 0 : -ENOMEM;

	for (char *at = path; !rc && at && *at; at = strchr(at + 1, '/')) {
		if (at == path)
			continue;
		*at = '\0';
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			rc = -errno;
		*at = '/';
	}
	if (!rc && mkdir(path, 0700) < 0 && errno != EEXIST)
		rc = -errno;
	free(path);
	return rc;
}

static int dirs_open(const char *dir, struct dirs *ret, struct err *err)
{
	struct dirs dirs = { -1, -1, -1, -1 };
	struct {
		const char *name;
		int *fd;
	} all[] = {
		{ "layers", &dirs.layers },
		{ "sums", &dirs.sums },
		{ "images", &dirs.images },
		{ "tmp", &dirs.tmp },
	};
	int root, rc = make_path(dir);

	if (rc)
		return err_sys(err, rc, "cannot create %s", dir);
	root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return err_sys(err, -errno, "cannot open %s", dir);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		*all[i].fd = open_dir_at(root, all[i].name);
		if (*all[i].fd < 0) {
			rc = err_sys(err, *all[i].fd, "cannot open %s/%s", dir, all[i].name);
			dirs_close(&dirs);
			break;
		}
	}
	close(root);
	*ret = dirs;
	return rc;
}

/* Copy size bytes into the empty file `to`, leaving holes for zeros. */
static int copy_sparse(int from, int to, uint64_t size, struct err *err)
{
	uint8_t *block = malloc(COPY_BLOCK);
	uint64_t at = 0;
	int rc = 0;

	if (!block)
		return err_set(err, -ENOMEM, "out of memory");
	while (!rc && at < size) {
		off_t data = lseek(from, (off_t)at, SEEK_DATA);
		size_t n;

		if (data < 0 && errno == ENXIO)
			break;
		if (data >= 0)
			at = (uint64_t)data / COPY_BLOCK * COPY_BLOCK;
		n = size - at < COPY_BLOCK ? size - at : COPY_BLOCK;
		rc = pread_all(from, block, n, at);
		if (rc)
			err_sys(err, rc, "cannot read the disk");
		if (!rc && !all_zero(block, n) && (rc = pwrite_all(to, block, n, at)))
			err_sys(err, rc, "cannot write the image");
		at += n;
	}
	if (!rc && ftruncate(to, (off_t)size) < 0)
		rc = err_sys(err, -errno, "cannot write the image");
	if (!rc && fsync(to) < 0)
		rc = err_sys(err, -errno, "cannot write the image");
	free(block);
	return rc;
}

/* Copy raw_file to tmp/`file`; *ret_fd holds the lock that keeps it from being taken for a leftover. */
static int bring_disk(const struct dirs *dirs, const char *raw_file, const char *file, int *ret_fd,
		      uint64_t *ret_size, struct err *err)
{
	int from = open(raw_file, O_RDONLY | O_CLOEXEC), to = -1;
	struct stat st;
	int rc = 0;

	if (from < 0)
		return err_sys(err, -errno, "cannot open %s", raw_file);
	if (fstat(from, &st) < 0)
		rc = err_sys(err, -errno, "cannot read %s", raw_file);
	else if (!S_ISREG(st.st_mode))
		rc = err_set(err, -EINVAL, "%s is not a file", raw_file);
	else if (!st.st_size || st.st_size % 512 || (uint64_t)st.st_size > QCOW2_DISK_MAX)
		rc = err_set(err, -EINVAL, "%s has %lld bytes, which cannot be the size of a disk", raw_file,
			     (long long)st.st_size);
	if (rc)
		goto out;
	to = openat(dirs->tmp, file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (to < 0 || flock(to, LOCK_EX) < 0) {
		rc = err_sys(err, -errno, "cannot create the image");
		goto out;
	}
	rc = copy_sparse(from, to, (uint64_t)st.st_size, err);
	if (rc)
		goto out;
	*ret_size = (uint64_t)st.st_size;
	*ret_fd = to;
	to = -1;
out:
	close(from);
	if (to >= 0)
		close(to);
	return rc;
}

static int move(int from_dir, const char *from, int to_dir, const char *to)
{
	if (renameat2(from_dir, from, to_dir, to, RENAME_NOREPLACE) < 0)
		return -errno;
	return fsync(to_dir) < 0 ? -errno : 0;
}

int image_publish(const char *dir, const char *name, const char *raw_file, const char *source,
		  struct err *err)
{
	char id[ID_SIZE], file[LAYER_FILE_MAX], draft[ID_SIZE];
	struct buf text = { 0 };
	int lock = -1, fd = -1;
	uint64_t size = 0;
	struct dirs dirs;
	int rc;

	if (name_check(name, err))
		return -EINVAL;
	rc = dirs_open(dir, &dirs, err);
	if (rc)
		return rc;
	rc = id_make(id);
	if (!rc)
		rc = id_make(draft);
	if (rc) {
		err_sys(err, rc, "cannot get random numbers");
		goto close;
	}
	snprintf(file, sizeof(file), "%s.raw", id);
	if (!faccessat(dirs.images, name, F_OK, AT_SYMLINK_NOFOLLOW)) {
		rc = err_set(err, -EEXIST, "there is already an image %s", name);
		goto close;
	}
	rc = bring_disk(&dirs, raw_file, file, &fd, &size, err);
	if (rc)
		goto out;
	manifest_begin(&text, IMAGE_KIND, IMAGE_VERSION);
	manifest_add(&text, "layer", file);
	manifest_add_number(&text, "size", size);
	manifest_add_number(&text, "created", now_real_ns());
	manifest_add(&text, "source", source);
	manifest_end(&text);

	lock = image_lock(dirs.images);
	if (lock < 0) {
		rc = err_sys(err, lock, "cannot lock %s", dir);
		goto out;
	}
	rc = sums_write(dirs.tmp, file, dirs.sums, dirs.tmp, err);
	if (rc)
		goto out;
	rc = text.failed ? -ENOMEM : write_file_at(dirs.tmp, draft, buf_bytes(&text), text.len);
	if (!rc && fsync(dirs.sums) < 0)
		rc = -errno;
	if (!rc)
		rc = move(dirs.tmp, file, dirs.layers, file);
	if (!rc)
		rc = move(dirs.tmp, draft, dirs.images, name);
	if (rc == -EEXIST)
		err_set(err, rc, "there is already an image %s", name);
	else if (rc)
		err_sys(err, rc, "cannot write the image");
out:
	if (rc) {
		unlinkat(dirs.tmp, draft, 0);
		unlinkat(dirs.tmp, file, 0);
		unlinkat(dirs.layers, file, 0);
		unlinkat(dirs.sums, file, 0);
	}
	if (fd >= 0)
		close(fd);
	if (lock >= 0)
		close(lock);
	buf_release(&text);
close:
	dirs_close(&dirs);
	return rc;
}

int image_remove(const char *dir, const char *name, struct err *err)
{
	struct err busy = { 0 };
	struct store *store;
	struct dirs dirs;
	int lock, rc = 0;

	if (name_check(name, err))
		return -EINVAL;
	rc = dirs_open(dir, &dirs, err);
	if (rc)
		return rc;
	lock = image_lock(dirs.images);
	if (lock < 0)
		rc = err_sys(err, lock, "cannot lock %s", dir);
	else if (unlinkat(dirs.images, name, 0) < 0)
		rc = errno == ENOENT ? err_set(err, -ENOENT, "there is no image %s", name)
				     : err_sys(err, -errno, "cannot remove image %s", name);
	else if (fsync(dirs.images) < 0)
		rc = err_sys(err, -errno, "cannot remove image %s", name);
	if (lock >= 0)
		close(lock);
	dirs_close(&dirs);
	if (rc)
		return rc;
	/* A store that no daemon has is collected by being opened; otherwise the daemon does it in time. */
	if (!store_open(dir, &store, &busy))
		store_close(store);
	return 0;
}

struct image_walk {
	const struct dirs *dirs;
	void (*each)(void *arg, const struct image *image);
	void *arg;
};

static int pass_image(void *arg, const char *name)
{
	const struct image_walk *walk = arg;
	char file[LAYER_FILE_MAX];
	struct image image;
	struct err err = { 0 };
	struct stat st;
	int rc = read_record(walk->dirs->images, name, &image, file, &err);

	if (!rc && fstatat(walk->dirs->layers, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
		rc = err_sys(&err, -errno, "image %s lost its layer %s", name, file);
	if (err_shortage(rc))
		return rc;
	if (rc) {
		if (rc != -ENOENT)
			log_warn("%s", err.text);
		return 0;
	}
	snprintf(image.name, sizeof(image.name), "%s", name);
	image.stored = (uint64_t)st.st_blocks * 512;
	walk->each(walk->arg, &image);
	return 0;
}

int image_each(const char *dir, void (*each)(void *arg, const struct image *image), void *arg,
	       struct err *err)
{
	struct dirs dirs = { -1, -1, -1, -1 };
	struct image_walk walk = { &dirs, each, arg };
	int rc = dirs_open(dir, &dirs, err);

	if (rc)
		return rc;
	rc = each_name(dirs.images, pass_image, &walk);
	if (rc)
		err_sys(err, rc, "cannot list the images of %s", dir);
	dirs_close(&dirs);
	return rc;
}
