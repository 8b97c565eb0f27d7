/* SPDX-License-Identifier: MIT */
/*
 * image.c - images: raw disks with names
 *
 * images/NAME is a record that names a raw layer. A new disk is a file below tmp/ without a name. To be
 * published it gets one there, where a lock on it tells a daemon that starts meanwhile that it is no leftover; then, under the lock that collection
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

#include "snap/image_config.h"
#include "snap/manifest.h"
#include "snap/qcow2/header.h"
#include "snap/store_priv.h"
#include "snap/sums.h"
#include "util/io.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/size.h"
#include "util/zero.h"

/* Version 1 had no config. */
enum {
	IMAGE_VERSION = 2,
	IMAGE_VERSION_PLAIN = 1,
	IMAGE_RECORD_MAX = IMAGE_CONFIG_MAX + 4096,
	COPY_BLOCK = 64 * 1024
};

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

/* A file of at most max bytes below a directory, which is there if the `what` of this name is. */
static int read_text(int dir, const char *file, size_t max, const char *what, const char *name,
		     struct buf *ret, struct err *err)
{
	const int rc = read_file_at(dir, file, max, ret);

	if (rc == -ENOENT)
		err_set(err, rc, "there is no %s %s", what, name);
	else if (rc)
		err_sys(err, rc, "cannot read the record of %s", name);
	return rc;
}

/* What images/name says: *ret without name, disk and config, the file of its layer, and, if asked for, its
 * config. */
static int read_record(int images, const char *name, struct image *ret, char file[LAYER_FILE_MAX],
		       struct buf *config, struct err *err)
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
	rc = read_text(images, name, IMAGE_RECORD_MAX, "image", name, &text, err);
	if (!rc)
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
		else if (!image_config_key(key))
			rc = -EINVAL;
		else if (config)
			buf_printf(config, "%s %s\n", key, value);
		if (rc) {
			rc = err_set(err, -EINVAL, "image %s has an unknown key: %.32s", name, key);
			goto out;
		}
	}
	if (config && config->failed) {
		rc = err_set(err, -ENOMEM, "out of memory");
		goto out;
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
	int rc = read_record(walk->images, name, &image, file, NULL, walk->err);

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
	struct buf config = { 0 };
	struct image image;
	int rc;

	if (name_check(name, err))
		return -EINVAL;
	rc = read_record(store->images_fd, name, &image, file, &config, err);
	if (!rc)
		rc = layer_open(store, file, &image.disk, err);
	if (rc) {
		buf_release(&config);
		return rc;
	}
	if (image.size != layer_virtual_size(image.disk)) {
		layer_unref(image.disk);
		buf_release(&config);
		return err_set(err, -EIO, "image %s: layer %s does not have the size it should have", name,
			       file);
	}
	snprintf(image.name, sizeof(image.name), "%s", name);
	image.stored = layer_stored(image.disk);
	image.config = config;
	*ret = image;
	return 0;
}

void image_release(struct image *image)
{
	layer_unref(image->disk);
	image->disk = NULL;
	buf_release(&image->config);
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

/* ---- a new one */

struct image_draft {
	struct dirs dirs;
	char name[STORE_NAME_MAX + 1], file[LAYER_FILE_MAX]; /* its own, and its layer's */
	char path[32];
	int fd; /* holds the lock that keeps it from being taken for a leftover */
};

/* A file without a name where the filesystem can do that, else one whose name is `file`. Programs that fill it
 * open it through /proc/self/fd, so they inherit it. */
static int open_nameless(int dir, const char *file)
{
	int fd = openat(dir, ".", O_TMPFILE | O_RDWR, 0600);

	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL))
		fd = openat(dir, file, O_RDWR | O_CREAT | O_EXCL, 0600);
	return fd < 0 ? -errno : fd;
}

static int check_new(const struct dirs *dirs, const char *name, struct err *err)
{
	if (!faccessat(dirs->images, name, F_OK, AT_SYMLINK_NOFOLLOW))
		return err_set(err, -EEXIST, "there is already an image %s", name);
	return 0;
}

int image_begin(const char *dir, const char *name, uint64_t size, struct image_draft **ret, struct err *err)
{
	struct image_draft *draft;
	char id[ID_SIZE];
	int rc;

	if (name_check(name, err))
		return -EINVAL;
	if (!size || size % 512 || size > QCOW2_DISK_MAX)
		return err_set(err, -EINVAL, "an image cannot have %llu bytes, which is the size of no disk",
			       (unsigned long long)size);
	draft = calloc(1, sizeof(*draft));
	if (!draft)
		return err_set(err, -ENOMEM, "out of memory");
	draft->fd = -1;
	rc = dirs_open(dir, &draft->dirs, err);
	if (rc) {
		free(draft);
		return rc;
	}
	rc = check_new(&draft->dirs, name, err);
	if (!rc) {
		rc = id_make(id);
		if (rc)
			err_sys(err, rc, "cannot get random numbers");
	}
	if (rc)
		goto fail;
	snprintf(draft->name, sizeof(draft->name), "%s", name);
	snprintf(draft->file, sizeof(draft->file), "%s.raw", id);
	draft->fd = open_nameless(draft->dirs.tmp, draft->file);
	if (draft->fd < 0)
		rc = err_sys(err, draft->fd, "cannot create the image");
	else if (flock(draft->fd, LOCK_EX) < 0 || ftruncate(draft->fd, (off_t)size) < 0)
		rc = err_sys(err, -errno, "cannot create the image");
	if (rc)
		goto fail;
	snprintf(draft->path, sizeof(draft->path), "/proc/self/fd/%d", draft->fd);
	*ret = draft;
	return 0;
fail:
	image_abandon(draft);
	return rc;
}

const char *image_draft_path(const struct image_draft *draft)
{
	return draft->path;
}

int image_draft_fd(const struct image_draft *draft)
{
	return draft->fd;
}

void image_abandon(struct image_draft *draft)
{
	if (draft->fd >= 0) {
		unlinkat(draft->dirs.tmp, draft->file, 0);
		close(draft->fd);
	}
	dirs_close(&draft->dirs);
	free(draft);
}

static int move(int from_dir, const char *from, int to_dir, const char *to)
{
	if (renameat2(from_dir, from, to_dir, to, RENAME_NOREPLACE) < 0)
		return -errno;
	return fsync(to_dir) < 0 ? -errno : 0;
}

/* Its name below tmp/, where it has none yet. */
static int name_draft(const struct image_draft *draft)
{
	if (linkat(AT_FDCWD, draft->path, draft->dirs.tmp, draft->file, AT_SYMLINK_FOLLOW) < 0 &&
	    errno != EEXIST)
		return -errno;
	return 0;
}

static int write_record(const struct image_draft *draft, const char *file, const char *source,
			const struct buf *config)
{
	const bool plain = !config || !config->len;
	struct buf text = { 0 };
	struct stat st;
	int rc;

	if (fstat(draft->fd, &st) < 0)
		return -errno;
	manifest_begin(&text, IMAGE_KIND, plain ? IMAGE_VERSION_PLAIN : IMAGE_VERSION);
	manifest_add(&text, "layer", draft->file);
	manifest_add_number(&text, "size", (uint64_t)st.st_size);
	manifest_add_number(&text, "created", now_real_ns());
	manifest_add(&text, "source", source);
	if (!plain)
		buf_add(&text, buf_bytes(config), config->len);
	manifest_end(&text);
	rc = text.failed ? -ENOMEM : write_file_at(draft->dirs.tmp, file, buf_bytes(&text), text.len);
	buf_release(&text);
	return rc;
}

/* With the lock on images/. */
static int publish(const struct image_draft *draft, const char *record, const char *source,
		   const struct buf *config, struct err *err)
{
	const struct dirs *dirs = &draft->dirs;
	int rc = sums_write(dirs->tmp, draft->file, dirs->sums, dirs->tmp, err);

	if (rc)
		return rc;
	rc = write_record(draft, record, source, config);
	if (!rc && fsync(dirs->sums) < 0)
		rc = -errno;
	if (!rc)
		rc = move(dirs->tmp, draft->file, dirs->layers, draft->file);
	if (!rc)
		rc = move(dirs->tmp, record, dirs->images, draft->name);
	if (rc == -EEXIST)
		return err_set(err, rc, "there is already an image %s", draft->name);
	return rc ? err_sys(err, rc, "cannot write the image") : 0;
}

int image_finish(struct image_draft *draft, const char *source, const struct buf *config, struct err *err)
{
	const struct dirs *dirs = &draft->dirs;
	char record[ID_SIZE] = "";
	int lock = -1, rc = 0;

	if (config && config->len)
		rc = image_config_check(config, err);
	if (!rc && fsync(draft->fd) < 0)
		rc = err_sys(err, -errno, "cannot write the image");
	if (!rc) {
		rc = id_make(record);
		if (!rc)
			rc = name_draft(draft);
		if (rc)
			err_sys(err, rc, "cannot write the image");
	}
	if (!rc) {
		lock = image_lock(dirs->images);
		rc = lock < 0 ? err_sys(err, lock, "cannot lock the images") : 0;
	}
	if (!rc)
		rc = publish(draft, record, source, config, err);
	if (rc) {
		if (*record)
			unlinkat(dirs->tmp, record, 0);
		unlinkat(dirs->layers, draft->file, 0);
		unlinkat(dirs->sums, draft->file, 0);
	}
	if (lock >= 0)
		close(lock);
	image_abandon(draft);
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
	free(block);
	return rc;
}

int image_publish(const char *dir, const char *name, const char *raw_file, const char *source,
		  struct err *err)
{
	int from = open(raw_file, O_RDONLY | O_CLOEXEC), rc;
	struct image_draft *draft = NULL;
	struct stat st;

	if (from < 0)
		return err_sys(err, -errno, "cannot open %s", raw_file);
	if (fstat(from, &st) < 0)
		rc = err_sys(err, -errno, "cannot read %s", raw_file);
	else if (!S_ISREG(st.st_mode))
		rc = err_set(err, -EINVAL, "%s is not a file", raw_file);
	else
		rc = image_begin(dir, name, (uint64_t)st.st_size, &draft, err);
	if (rc || !draft)
		goto out;
	rc = copy_sparse(from, draft->fd, (uint64_t)st.st_size, err);
	if (rc)
		image_abandon(draft);
	else
		rc = image_finish(draft, source, NULL, err);
out:
	close(from);
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

/* ---- to be read */

/* The file in layers/ that is the disk of a named snapshot. */
static int snapshot_layer(int snapshots, const char *name, char ret[LAYER_FILE_MAX], struct err *err)
{
	struct snapshot_manifest manifest = { 0 };
	char path[STORE_NAME_MAX + sizeof("/manifest")];
	struct buf text = { 0 };
	int rc;

	snprintf(path, sizeof(path), "%s/manifest", name);
	rc = read_text(snapshots, path, MANIFEST_MAX, "image and no named snapshot", name, &text, err);
	if (!rc)
		rc = snapshot_manifest_parse((char *)buf_bytes(&text), text.len, name, &manifest, err);
	if (!rc) {
		memcpy(ret, manifest.disk, LAYER_FILE_MAX);
		snapshot_manifest_release(&manifest);
	}
	buf_release(&text);
	return rc;
}

static int find_layer(const char *dir, const struct dirs *dirs, const char *name, char ret[LAYER_FILE_MAX],
		      struct err *err)
{
	const bool image = !strncmp(name, "images/", 7), snapshot = !strncmp(name, "snapshots/", 10);
	struct err why = { 0 };
	struct image record;
	char path[4096];
	int fd, rc = -ENOENT;

	name += image ? 7 : snapshot ? 10 : 0;
	if (name_check(name, err))
		return -EINVAL;
	if (!snapshot)
		rc = read_record(dirs->images, name, &record, ret, NULL, &why);
	if (rc != -ENOENT || image)
		return rc ? err_set(err, rc, "%s", why.text) : 0;
	snprintf(path, sizeof(path), "%s/snapshots", dir);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, -ENOENT, "there is no image %s", name);
	rc = snapshot_layer(fd, name, ret, err);
	close(fd);
	return rc;
}

int image_open_disk(const char *dir, const char *name, struct chain **ret, struct err *err)
{
	char file[LAYER_FILE_MAX];
	struct dirs dirs;
	int lock, rc = dirs_open(dir, &dirs, err);

	if (rc)
		return rc;
	/* Collection waits until all files of the disk are open. */
	lock = image_lock(dirs.images);
	rc = lock < 0 ? err_sys(err, lock, "cannot lock %s", dir) : find_layer(dir, &dirs, name, file, err);
	if (!rc)
		rc = chain_open(dirs.layers, file, false, ret, err);
	if (lock >= 0)
		close(lock);
	dirs_close(&dirs);
	return rc;
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
	int rc = read_record(walk->dirs->images, name, &image, file, NULL, &err);

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
