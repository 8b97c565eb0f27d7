/* SPDX-License-Identifier: MIT */
/* files.c - fs/ of a snapshot: its files, read-only, without a machine */
#include "fs/snapshot/files.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/guest/guest_names.h"
#include "vm/agent/browser.h"

enum { IDLE_MS = 10000, HELPERS_MAX = 16 };

struct snapfs {
	struct list link; /* browsing->helpers */
	struct snapshot *snap;
	struct browse *browse;
	struct layer *disk; /* a reference: its layers stay */
	struct timer idle;
	bool opening;
};

struct browsing {
	struct list helpers; /* struct snapfs, the last used first */
	unsigned opening;    /* of them, those that may still have to open their layers */
};

int browsing_open(struct fs *fs, struct err *err)
{
	fs->browsing = calloc(1, sizeof(*fs->browsing));
	if (!fs->browsing)
		return err_sys(err, -ENOMEM, "cannot browse snapshots");
	list_init(&fs->browsing->helpers);
	return 0;
}

void browsing_close(struct fs *fs)
{
	free(fs->browsing);
	fs->browsing = NULL;
}

bool browsing_opens(const struct fs *fs)
{
	return fs->browsing->opening;
}

static void opened(struct snapfs *snapfs)
{
	if (snapfs->opening)
		snapfs->snap->obj.fs->browsing->opening--;
	snapfs->opening = false;
}

void snapfs_end(struct snapfs *snapfs)
{
	if (!snapfs)
		return;
	opened(snapfs);
	snapfs->snap->browsed = NULL;
	snapfs->snap->epoch++;
	timer_stop(&snapfs->idle);
	list_del(&snapfs->link);
	browse_free(snapfs->browse);
	layer_unref(snapfs->disk);
	free(snapfs);
}

static void fail(struct snapfs *snapfs, const struct err *err)
{
	object_report(&snapfs->snap->obj, err);
	snapfs_end(snapfs);
}

static void on_opened(void *arg, const struct err *err)
{
	struct snapfs *snapfs = arg;

	opened(snapfs);
	if (err->code)
		fail(snapfs, err);
}

static void on_exited(void *arg)
{
	struct err err;

	err_set(&err, -EIO, "the helper that reads the snapshot's files died");
	fail(arg, &err);
}

static bool in_use(const struct snapfs *snapfs)
{
	const struct object *obj = &snapfs->snap->obj;
	const struct guest_file *file;

	if (!agent_idle(browse_agent(snapfs->browse)))
		return true;
	list_for_each (file, &obj->fs->guest_files, all)
		if (file->node->guest->obj == obj && file->epoch == snapfs->snap->epoch)
			return true;
	return false;
}

static void on_idle(void *arg)
{
	struct snapfs *snapfs = arg;

	if (in_use(snapfs))
		timer_start(snapfs->snap->obj.fs->loop, &snapfs->idle, IDLE_MS * 1000000ull, on_idle, snapfs);
	else
		snapfs_end(snapfs);
}

/* The one that was not used for longest makes room. */
static void make_room(struct fs *fs)
{
	struct snapfs *snapfs, *oldest = NULL;
	unsigned n = 0;

	list_for_each (snapfs, &fs->browsing->helpers, link) {
		n++;
		if (!in_use(snapfs))
			oldest = snapfs;
	}
	if (n >= HELPERS_MAX)
		snapfs_end(oldest);
}

static int start(struct snapshot *snap, struct err *err)
{
	struct fs *fs = snap->obj.fs;
	struct snapfs *snapfs;
	int rc = 0;

	if (snapshot_is_empty(snap))
		return err_set(err, -EBUSY, "fs: snapshot %s is empty", snap->obj.name);
	make_room(fs);
	snapfs = calloc(1, sizeof(*snapfs));
	if (!snapfs)
		return err_sys(err, -ENOMEM, "fs");
	if (snap->template)
		snapfs->disk = layer_ref(snap->template->disk);
	else
		rc = snapshot_disk(fs->store, snap->obj.name, &snapfs->disk, err);
	if (!rc)
		rc = browse_new(fs->loop, layer_path(snapfs->disk), on_opened, on_exited, snapfs,
				&snapfs->browse, err);
	if (rc) {
		layer_unref(snapfs->disk);
		free(snapfs);
		return rc;
	}
	snapfs->snap = snap;
	snapfs->opening = true;
	fs->browsing->opening++;
	list_add(&fs->browsing->helpers, &snapfs->link);
	snap->browsed = snapfs;
	return 0;
}

/* The helper may be asked at once: it answers in order, after it has opened the disk. */
static int usable(struct object *obj)
{
	struct snapshot *snap = snapshot_of(obj);
	struct snapfs *snapfs;
	struct err err = { 0 };

	if (obj->gone)
		return -ENODEV;
	if (!snap->browsed && start(snap, &err)) {
		object_report(obj, &err);
		return err.code;
	}
	snapfs = snap->browsed;
	list_del(&snapfs->link);
	list_insert(&obj->fs->browsing->helpers, obj->fs->browsing->helpers.next, &snapfs->link);
	timer_start(obj->fs->loop, &snapfs->idle, IDLE_MS * 1000000ull, on_idle, snapfs);
	return 0;
}

static struct agent *agent(const struct object *obj)
{
	const struct snapfs *snapfs = snapshot_of(obj)->browsed;

	return snapfs ? browse_agent(snapfs->browse) : NULL;
}

static uint64_t epoch(const struct object *obj)
{
	return snapshot_of(obj)->epoch;
}

static void path(const struct object *obj, char *ret, size_t size)
{
	snapshot_path(snapshot_of(obj), ret, size);
}

struct node *snapfs_mount(struct object *obj, const struct entry *entry)
{
	static const struct guest_ops ops = {
		.usable = usable, .agent = agent, .epoch = epoch, .path = path, .lost = -EIO, .readonly = true
	};
	struct snapshot *snap = snapshot_of(obj);

	snap->files.obj = obj;
	snap->files.ops = &ops;
	return guestfs_root(&snap->files, entry);
}
