/* SPDX-License-Identifier: MIT */
/*
 * store.c - open a store, sweep it, collect garbage
 *
 * What a store holds is decided by names alone: snapshots/ and images/. Everything else - objects, layers,
 * checksums, temporary files - is needed if something with a name leads to it, or if this process uses it.
 * Whatever order things are written in, a crash therefore leaves at most files that nothing leads to, and
 * opening the store sweeps those away.
 *
 * The converse matters more: as long as one manifest cannot be read, what it leads to is unknown, and then
 * nothing is collected that it might need.
 */
#include "snap/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/image.h"
#include "snap/store_priv.h"
#include "util/io.h"
#include "util/log.h"

bool name_valid(const char *name)
{
	static const char chars[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t n = strlen(name);

	return n && n <= STORE_NAME_MAX && strspn(name, chars) == n && !strchr("._-", name[0]);
}

static bool is_hidden(const char *name, const char *prefix)
{
	const size_t n = strlen(prefix);

	return !strncmp(name, prefix, n) && strlen(name) == n + BOOT_KEY &&
	       strspn(name + n, "0123456789abcdef") == BOOT_KEY;
}

bool boot_name_valid(const char *name)
{
	return is_hidden(name, ".boot-");
}

bool life_name_valid(const char *name)
{
	return is_hidden(name, ".life-");
}

int name_check(const char *name, struct err *err)
{
	if (name_valid(name))
		return 0;
	return err_set(
		err, -EINVAL,
		"\"%.80s\" is not a name: 1 to %d letters, digits and . _ -, the first a letter or digit",
		name, STORE_NAME_MAX);
}

const char *store_dir(const struct store *store)
{
	return store->dir;
}

/* ---- chores for the background */

struct store_chore {
	struct store *store;
	int dir_fd;
	char name[64]; /* "": sync dir_fd */
};

static void do_chore(void *arg)
{
	struct store_chore *chore = arg;
	struct store *store = chore->store;
	int rc;

	if (!chore->name[0]) {
		if (fsync(chore->dir_fd)) {
			log_error(
				"cannot sync a directory of the store, so nothing is deleted from now on: %s",
				strerror(errno));
			store->sync_failed = true;
		}
	} else if (!store->sync_failed) {
		rc = remove_tree_at(chore->dir_fd, chore->name);
		if (rc)
			log_warn("cannot delete %s: %s", chore->name, strerror(-rc));
	}
	free(chore);
}

static void add_chore(struct store *store, int dir_fd, const char *name)
{
	struct store_chore *chore = malloc(sizeof(*chore));

	if (!chore) {
		/* A file that stays is swept when the store is opened next; a sync that is lost has
		 * failed. */
		if (!name[0])
			store->sync_failed = true;
		return;
	}
	chore->store = store;
	chore->dir_fd = dir_fd;
	snprintf(chore->name, sizeof(chore->name), "%s", name);
	background_run(store->background, do_chore, chore);
}

void store_sync_later(struct store *store, int dir_fd)
{
	add_chore(store, dir_fd, "");
}

void store_discard(struct store *store, int dir_fd, const char *name)
{
	add_chore(store, dir_fd, name);
}

/* ---- collecting */

/* Files of one directory for which needed() is false are deleted. */
struct sweep {
	struct store *store;
	int dir_fd;
	const char *what; /* for the log; NULL: keep quiet */
	bool (*needed)(struct sweep *sweep, const char *name);
	uint64_t freed;
	unsigned removed;
};

static uint64_t allocated(int dir_fd, const char *name)
{
	uint64_t total = 0;
	struct dirent *entry;
	struct stat st;
	DIR *dir;

	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW))
		return 0;
	if (!S_ISDIR(st.st_mode))
		return (uint64_t)st.st_blocks * 512;
	dir = opendir_at(dir_fd, name);
	if (!dir)
		return 0;
	while ((entry = readdir(dir)))
		if (!fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode))
			total += (uint64_t)st.st_blocks * 512;
	closedir(dir);
	return total;
}

static int sweep_run(struct sweep *sweep, struct err *err)
{
	DIR *dir = opendir_at(sweep->dir_fd, ".");
	struct dirent *entry;
	int rc;

	if (!dir)
		return err_sys(err, -errno, "cannot list a directory of the store");
	while ((entry = readdir(dir))) {
		const char *name = entry->d_name;
		uint64_t size;

		if (!strcmp(name, ".") || !strcmp(name, "..") || sweep->needed(sweep, name))
			continue;
		size = allocated(sweep->dir_fd, name);
		rc = remove_tree_at(sweep->dir_fd, name);
		if (rc) {
			log_warn("cannot remove %s %s: %s", sweep->what, name, strerror(-rc));
			continue;
		}
		log_info("removed %s %s", sweep->what, name);
		sweep->freed += size;
		sweep->removed++;
	}
	closedir(dir);
	return 0;
}

static bool layer_needed(struct sweep *sweep, const char *name)
{
	return layer_find(sweep->store, name) != NULL;
}

static bool sums_needed(struct sweep *sweep, const char *name)
{
	return !faccessat(sweep->store->layers_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) || errno != ENOENT;
}

static bool object_needed(struct sweep *sweep, const char *name)
{
	return catalogue_needs(sweep->store, name);
}

/* Another process writes an image there as long as it holds the file's lock. */
static bool temporary_needed(struct sweep *sweep, const char *name)
{
	int fd = openat(sweep->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	bool locked;

	if (fd < 0)
		return err_shortage(-errno);
	locked = flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK;
	close(fd);
	return locked;
}

/* References to the layers of all images, for as long as layers/ is judged. */
struct held_layers {
	struct store *store;
	struct layer **layers;
	size_t n;
};

static int hold_layer(void *arg, const char *file)
{
	struct held_layers *held = arg;
	struct layer **more = realloc(held->layers, (held->n + 1) * sizeof(struct layer *));
	int rc;

	if (!more)
		return -ENOMEM;
	held->layers = more;
	rc = layer_open(held->store, file, &more[held->n], NULL);
	if (!rc)
		held->n++;
	return err_shortage(rc) ? rc : 0; /* a missing layer needs nothing */
}

static int collect_layers(struct store *store, uint64_t *ret_freed, struct err *err)
{
	struct sweep layers = { store, store->layers_fd, "unused layer", layer_needed, 0, 0 };
	struct sweep sums = { store, store->sums_fd, "checksums of no layer", sums_needed, 0, 0 };
	struct held_layers held = { .store = store };
	int lock, rc;

	lock = image_lock(store->images_fd);
	if (lock < 0)
		return err_sys(err, lock, "cannot lock the store's images");
	rc = image_layers(store->images_fd, hold_layer, &held, err);
	if (rc)
		goto out;
	rc = sweep_run(&layers, err);
	if (!rc)
		rc = sweep_run(&sums, err);
	*ret_freed += layers.freed + sums.freed;
out:
	while (held.n)
		layer_unref(held.layers[--held.n]);
	free(held.layers);
	close(lock);
	return rc;
}

int store_gc(struct store *store, uint64_t *ret_freed, struct err *err)
{
	struct sweep objects = { store, store->objects_fd, "unused object", object_needed, 0, 0 };
	uint64_t freed = 0;
	int rc;

	background_flush(store->background);
	if (!catalogue_complete(store))
		return err_set(err, -EIO, "nothing can be collected while a snapshot cannot be read");
	if (store->importing)
		return err_set(err, -EBUSY, "nothing can be collected while an archive is imported");
	rc = sweep_run(&objects, err);
	freed = objects.freed;
	if (!rc)
		rc = collect_layers(store, &freed, err);
	if (!rc)
		*ret_freed = freed;
	return rc;
}

/* ---- opening */

static int open_directories(struct store *store, struct err *err)
{
	const struct {
		const char *name;
		int *fd;
	} dirs[] = {
		{ "layers", &store->layers_fd },   { "sums", &store->sums_fd },
		{ "objects", &store->objects_fd }, { "snapshots", &store->snapshots_fd },
		{ "images", &store->images_fd },   { "tmp", &store->tmp_fd },
	};

	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		int fd = open_dir_at(store->dir_fd, dirs[i].name);

		if (fd < 0)
			return err_sys(err, fd, "cannot open %s/%s", store->dir, dirs[i].name);
		*dirs[i].fd = fd;
	}
	if (fsync(store->dir_fd))
		return err_sys(err, -errno, "cannot sync %s", store->dir);
	return 0;
}

static int make_parents(const char *dir)
{
	char path[4096];
	int n = snprintf(path, sizeof(path), "%s", dir);

	if (n >= (int)sizeof(path))
		return -ENAMETOOLONG;
	for (char *p = path + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(path, 0755) && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return mkdir(path, 0700) && errno != EEXIST ? -errno : 0;
}

int store_make(const char *dir, struct err *err)
{
	const int rc = make_parents(dir);

	return rc ? err_sys(err, rc, "cannot create %s", dir) : 0;
}

static void sweep_leftovers(struct store *store)
{
	struct sweep temporary = { store, store->tmp_fd, "unfinished", temporary_needed, 0, 0 };
	struct err err = { 0 };
	uint64_t freed;

	if (sweep_run(&temporary, &err) || store_gc(store, &freed, &err))
		log_warn("%s", err.text);
}

int store_open(const char *dir, struct store **ret, struct err *err)
{
	struct store *store = calloc(1, sizeof(*store));
	int rc;

	if (!store)
		return err_set(err, -ENOMEM, "out of memory");
	store->dir_fd = store->layers_fd = store->sums_fd = store->objects_fd = -1;
	store->snapshots_fd = store->images_fd = store->tmp_fd = -1;
	store->lock = STORE_LOCK_NONE;
	list_init(&store->layers);
	list_init(&store->entries);
	list_init(&store->pins);
	store->keep_files = true;
	rc = store_make(dir, err);
	if (rc)
		goto fail;
	store->dir = realpath(dir, NULL);
	if (!store->dir) {
		rc = err_sys(err, -errno, "cannot find %s", dir);
		goto fail;
	}
	store->dir_fd = open(store->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store->dir_fd < 0) {
		rc = err_sys(err, -errno, "cannot open %s", dir);
		goto fail;
	}
	rc = store_lock_take(&store->lock, store->dir_fd, store->dir, err);
	if (!rc)
		rc = open_directories(store, err);
	if (rc)
		goto fail;
	store->background = background_new();
	if (!store->background) {
		rc = err_set(err, -ENOMEM, "cannot start the store's thread");
		goto fail;
	}
	rc = catalogue_load(store, err);
	if (rc)
		goto fail;
	store->keep_files = false;
	compact_recover(store);
	sweep_leftovers(store);
	catalogue_trim(store);
	*ret = store;
	return 0;
fail:
	store_close(store);
	return rc;
}

void store_retire(struct store *store)
{
	store_lock_yield(&store->lock);
}

void store_close(struct store *store)
{
	if (!store)
		return;
	store->keep_files = true;
	catalogue_release(store);
	background_free(store->background);
	close_fd(&store->layers_fd);
	close_fd(&store->sums_fd);
	close_fd(&store->objects_fd);
	close_fd(&store->snapshots_fd);
	close_fd(&store->images_fd);
	close_fd(&store->tmp_fd);
	close_fd(&store->dir_fd);
	store_lock_release(&store->lock);
	free(store->dir);
	free(store);
}
