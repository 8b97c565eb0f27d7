/* SPDX-License-Identifier: MIT */
/*
 * owner.c - what changes of a stored snapshot: whose it is, objects/ID/owner, and of a suspended sandbox all there is
 * to say of it, objects/ID/sandbox
 *
 * Files of their own, since the manifest never changes, and since they are no part of an archive: what is imported
 * belongs to who imports it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/manifest.h"
#include "snap/store_priv.h"
#include "util/io.h"
#include "util/log.h"
#include "util/size.h"

enum { VERSION = 1, OWNER_MAX = 512 };

static const char kind[] = "sbxfs-owner";

/* ---- the text */

static void encode(const struct owner *owner, struct buf *out)
{
	char mode[16];

	snprintf(mode, sizeof(mode), "%04o", (unsigned)(owner->mode & 07777));
	manifest_begin(out, kind, VERSION);
	manifest_add_number(out, "uid", owner->uid);
	manifest_add_number(out, "gid", owner->gid);
	manifest_add(out, "mode", mode);
	manifest_end(out);
}

/* Neither -1, which means nobody to chown(2). */
static bool parse_id(const char *value, uint32_t *ret)
{
	uint64_t n;

	if (number_parse(value, &n) || n >= UINT32_MAX)
		return false;
	*ret = (uint32_t)n;
	return true;
}

static bool parse_mode(const char *value, mode_t *ret)
{
	char *end;

	if (strlen(value) != 4 || strspn(value, "01234567") != 4)
		return false;
	*ret = (mode_t)strtoul(value, &end, 8);
	return true;
}

static int parse(char *text, size_t len, const char *name, struct owner *ret, struct err *err)
{
	enum { UID = 1, GID = 2, MODE = 4 };
	struct owner owner = { 0 };
	struct manifest lines;
	unsigned seen = 0;
	char *key, *value;
	int rc = manifest_open(&lines, text, len, kind, VERSION, name, err);

	while (!rc && manifest_next(&lines, &key, &value)) {
		unsigned what = 0;

		if (!strcmp(key, "uid") && parse_id(value, &owner.uid))
			what = UID;
		else if (!strcmp(key, "gid") && parse_id(value, &owner.gid))
			what = GID;
		else if (!strcmp(key, "mode") && parse_mode(value, &owner.mode))
			what = MODE;
		if (!what || seen & what)
			rc = err_set(err, -EIO, "%s has an invalid line: \"%.20s\"", name, key);
		seen |= what;
	}
	if (!rc && seen != (UID | GID | MODE))
		rc = err_set(err, -EIO, "%s lacks a key", name);
	if (rc)
		return -EIO; /* err has the reason */
	*ret = owner;
	return 0;
}

/* ---- files */

int owner_write(int dir_fd, const char *name, const struct owner *owner, struct err *err)
{
	struct buf text = { 0 };
	int rc;

	encode(owner, &text);
	rc = text.failed ? -ENOMEM : write_file_at(dir_fd, name, buf_bytes(&text), text.len);
	buf_release(&text);
	return rc ? err_sys(err, rc, "cannot write the owner of a snapshot") : 0;
}

static const char record_file[] = "sandbox";

int record_write(int dir_fd, const struct buf *record, struct err *err)
{
	const int rc = write_file_at(dir_fd, record_file, buf_bytes(record), record->len);

	return rc ? err_sys(err, rc, "cannot write the record of a sandbox") : 0;
}

/* The path of an entry's file below objects/; -ENOENT where there is no object. */
static int file_path(struct store *store, const char *name, const char *file, char *ret, size_t size,
		     const char **ret_id, struct err *err)
{
	const struct published *entry = catalogue_find(store, name);

	if (!entry || !entry->id[0])
		return err_set(err, -ENOENT, "there is no snapshot \"%.70s\"", name);
	snprintf(ret, size, "%s/%s", entry->id, file);
	*ret_id = entry->id;
	return 0;
}

int snapshot_owner(struct store *store, const char *name, struct owner *ret, struct err *err)
{
	char path[ID_SIZE + 16];
	struct buf text = { 0 };
	const char *id;
	int rc = file_path(store, name, "owner", path, sizeof(path), &id, err);

	if (rc)
		return rc;
	rc = read_file_at(store->objects_fd, path, OWNER_MAX, &text);
	if (rc)
		rc = err_sys(err, rc == -ENOENT ? rc : -EIO, "cannot read %s", path);
	else
		rc = parse((char *)buf_bytes(&text), text.len, path, ret, err);
	buf_release(&text);
	return rc;
}

/* All of them, so that whoever changes permissions in a loop has one chore waiting and not thousands. */
static void run_sync(void *arg)
{
	struct store *store = arg;

	store->owners_syncing = false;
	if (syncfs(store->objects_fd) < 0)
		log_warn("cannot sync the owners of snapshots: %s", strerror(errno));
}

/* Not synced: that may take long, and this is the loop's thread. */
static int write_later(int dir_fd, const char *name, const struct buf *text)
{
	int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	int rc;

	if (fd < 0)
		return -errno;
	rc = write_all(fd, buf_bytes(text), text->len);
	close(fd);
	return rc;
}

/* In the place of an object's file, in one step. */
static int replace_file(struct store *store, const char *name, const char *file, const struct buf *text,
			struct err *err)
{
	char path[ID_SIZE + 16], temporary[ID_SIZE + 16];
	const char *id;
	int rc = file_path(store, name, file, path, sizeof(path), &id, err);

	if (rc)
		return rc;
	snprintf(temporary, sizeof(temporary), "%s.%s", id, file);
	rc = text->failed ? -ENOMEM : write_later(store->tmp_fd, temporary, text);
	if (!rc && renameat(store->tmp_fd, temporary, store->objects_fd, path) < 0)
		rc = -errno;
	if (rc) {
		(void)unlinkat(store->tmp_fd, temporary, 0);
		return err_sys(err, rc, "cannot write the %s of snapshot %s", file, name);
	}
	if (!atomic_exchange(&store->owners_syncing, true))
		background_run(store->background, run_sync, store);
	return 0;
}

int snapshot_set_owner(struct store *store, const char *name, const struct owner *owner, struct err *err)
{
	struct buf text = { 0 };
	int rc;

	encode(owner, &text);
	rc = replace_file(store, name, "owner", &text, err);
	buf_release(&text);
	return rc;
}

/* ---- records */

int snapshot_record(struct store *store, const char *name, struct buf *ret, struct err *err)
{
	char path[ID_SIZE + 16];
	const char *id;
	int rc = file_path(store, name, record_file, path, sizeof(path), &id, err);

	if (rc)
		return rc;
	rc = read_file_at(store->objects_fd, path, RECORD_MAX, ret);
	return rc ? err_sys(err, rc == -ENOENT ? rc : -EIO, "cannot read %s", path) : 0;
}

int snapshot_set_record(struct store *store, const char *name, const struct buf *record, struct err *err)
{
	return replace_file(store, name, record_file, record, err);
}
