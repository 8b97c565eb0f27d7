/* SPDX-License-Identifier: MIT */
/* archive.c - the files `archive` and `archive.since/BASE` of a snapshot */
#include "fs/snapshot/archive.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/snapshot/work.h"
#include "snap/archive_transfer.h"
#include "util/buf.h"

enum { PIPE_SIZE = 1 << 20 };

/* One under way. Freed when the file is closed and the worker has ended. */
struct transfer {
	struct fs *fs;
	struct worker *worker; /* NULL: it has ended, and err says how */
	struct err err;
	bool open;            /* the file is */
	int fd;               /* our end of the pipe; -1: closed */
	struct watch *watch;  /* of fd */
	struct list waiting;  /* struct request: reads or writes */
	struct buf got;       /* read from the pipe, and not yet a whole answer */
	struct list flushing; /* struct request: closes that wait for the end */
	uint64_t writer;      /* owner of the last write */
	bool complete;        /* no more writes are to come */
};

/* What an export leaves out: a snapshot seen from another. Its `error` is the snapshot's. */
struct delta {
	struct object obj;     /* named as the base */
	struct list link;      /* snap->deltas */
	struct snapshot *snap; /* a reference */
};

static struct snapshot *snapshot_at(const struct object *obj, const char **ret_since)
{
	*ret_since = NULL;
	if (obj->kind == OBJECT_SNAPSHOT)
		return snapshot_of(obj);
	*ret_since = obj->name;
	return container_of(obj, struct delta, obj)->snap;
}

/* ---- both directions */

static void close_pipe(struct transfer *transfer)
{
	watch_free(transfer->watch);
	transfer->watch = NULL;
	if (transfer->fd >= 0)
		close(transfer->fd);
	transfer->fd = -1;
}

static void transfer_free(struct transfer *transfer)
{
	if (transfer->open || transfer->worker)
		return;
	close_pipe(transfer);
	buf_release(&transfer->got);
	free(transfer);
}

/* Watch for `events` as long as somebody waits. */
static void watch_while_waiting(struct transfer *transfer, uint32_t events)
{
	if (transfer->watch)
		watch_set(transfer->watch, list_empty(&transfer->waiting) ? 0 : events);
}

static void answer_all(struct list *requests, int code)
{
	struct request *request;

	while ((request = list_first(requests, struct request, link)))
		request_err(request, code);
}

/* A pipe whose ends are ours, non-blocking, and the worker's. */
static int make_pipe(struct transfer *transfer, struct worker *worker, bool reading, watch_fn fn,
		     struct err *err)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_sys(err, -errno, "archive");
	transfer->fd = fds[reading ? 0 : 1];
	worker->fd = fds[reading ? 1 : 0];
	/* A user may have used up what pipes he may have: a small one does as well. */
	(void)fcntl(transfer->fd, F_SETPIPE_SZ, PIPE_SIZE);
	if (fcntl(transfer->fd, F_SETFL, O_NONBLOCK) < 0)
		return err_sys(err, -errno, "archive");
	transfer->watch = watch_new(transfer->fs->loop, transfer->fd, 0, fn, transfer);
	return transfer->watch ? 0 : err_sys(err, -ENOMEM, "archive");
}

/* What the worker is to do has begun: its `done` ends the transfer, whatever happens. */
static void transfer_start(struct transfer *transfer, struct file *file, struct worker *worker)
{
	transfer->worker = worker;
	transfer->open = true;
	file->priv = transfer;
	worker_start(worker);
}

/* It cannot begin. */
static void transfer_abandon(struct transfer *transfer, struct worker *worker)
{
	if (worker->fd >= 0)
		close(worker->fd);
	free(worker);
	transfer_free(transfer);
}

static struct transfer *transfer_new(struct fs *fs)
{
	struct transfer *transfer = calloc(1, sizeof(*transfer));

	if (!transfer)
		return NULL;
	transfer->fs = fs;
	transfer->fd = -1;
	list_init(&transfer->waiting);
	list_init(&transfer->flushing);
	return transfer;
}

/* ---- export */

static int run_export(struct worker *worker)
{
	return archive_export_run(worker->export, worker->fd);
}

static void end_export(struct worker *worker, int result, struct err *err)
{
	archive_export_end(worker->export, result, err);
	close(worker->fd);
}

static const struct work_kind export_kind = { .waits = true, .run = run_export, .end = end_export };

/* Take from the pipe what an answer of n bytes lacks; -EAGAIN: it has no more yet, 0: no more comes, or n are there. */
static int take(struct transfer *transfer, size_t n)
{
	struct buf *got = &transfer->got;
	ssize_t rc = 1;
	void *p;

	while (got->len < n && rc > 0) {
		p = buf_reserve(got, n - got->len);
		if (!p)
			return -ENOMEM;
		rc = read(transfer->fd, p, n - got->len);
		if (rc < 0 && errno == EAGAIN) /* the worker holds the other end */
			return -EAGAIN;
		if (rc > 0)
			buf_grow(got, (size_t)rc);
	}
	return 0;
}

static void give(struct transfer *transfer, struct request *request)
{
	struct buf *got = &transfer->got;
	const size_t n = got->len < request->size ? got->len : request->size;

	request_data(request, n ? buf_bytes(got) : NULL, n);
	buf_consume(got, n);
}

/*
 * Answer reads with as much as they ask for, but at the end: who reads a regular file takes less for its end (tar), or
 * counts blocks (dd). What is there stays here until then, so an interrupt loses nothing.
 */
static void serve(struct transfer *transfer)
{
	struct request *request;
	int rc;

	while ((request = list_first(&transfer->waiting, struct request, link))) {
		rc = take(transfer, request->size);
		if (rc == -EAGAIN)
			break;
		if (!rc && !transfer->got.len)
			rc = transfer->err.code;
		if (rc)
			request_err(request, rc);
		else
			give(transfer, request);
	}
	watch_while_waiting(transfer, EPOLLIN);
}

static void on_readable(void *arg, uint32_t events)
{
	(void)events;
	serve(arg);
}

static void on_exported(void *arg, const struct err *err)
{
	struct transfer *transfer = arg;

	transfer->worker = NULL;
	transfer->err = *err;
	if (transfer->open)
		serve(transfer);
	else
		transfer_free(transfer);
}

/* A transfer and its worker, if there is room for one more. */
static int prepare(struct snapshot *snap, const struct work_kind *kind, done_fn done, struct transfer **ret,
		   struct worker **ret_worker, struct err *err)
{
	int rc = worker_room(snap, err);

	if (rc)
		return rc;
	*ret = transfer_new(snap->obj.fs);
	*ret_worker = *ret ? worker_new(snap, kind, done, *ret) : NULL;
	if (*ret_worker)
		return 0;
	free(*ret);
	return err_sys(err, -ENOMEM, "archive");
}

static int start_export(struct file *file, struct err *err)
{
	const char *since;
	struct snapshot *snap = snapshot_at(file->obj, &since);
	struct transfer *transfer;
	struct worker *worker;
	int rc = prepare(snap, &export_kind, on_exported, &transfer, &worker, err);

	if (rc)
		return rc;
	rc = make_pipe(transfer, worker, true, on_readable, err);
	if (!rc)
		rc = archive_export_begin(snap->obj.fs->store, snap->obj.name, since, &worker->progress,
					  &worker->export, err);
	if (rc)
		transfer_abandon(transfer, worker);
	else
		transfer_start(transfer, file, worker);
	return rc;
}

static void archive_read(struct file *file, uint64_t offset, bool nonblock, struct request *request)
{
	struct transfer *transfer = file->priv;
	struct err err = { 0 };

	(void)offset;
	if (!transfer && start_export(file, &err)) {
		object_report(file->obj, &err);
		request_err(request, err.code);
		return;
	}
	transfer = file->priv;
	list_add(&transfer->waiting, &request->link);
	serve(transfer);
	if (!nonblock || list_empty(&transfer->waiting))
		return;
	if (transfer->got.len)
		give(transfer, request);
	else
		request_err(request, -EAGAIN);
}

/* ---- import */

static int run_import(struct worker *worker)
{
	return archive_import_run(worker->import, worker->fd);
}

static void end_import(struct worker *worker, int result, struct err *err)
{
	struct snapshot *snap = worker->snap;

	if (!result && snap->obj.gone)
		result = -ECANCELED;
	if (!archive_import_end(worker->import, result, err))
		snapshot_published(snap, worker->name, NULL);
	else if (result == -ECANCELED)
		err_set(err, -ECANCELED, "the import of %s was cancelled", worker->name);
	close(worker->fd);
}

static const struct work_kind import_kind = {
	.doing = "importing", .waits = true, .writes = true, .run = run_import, .end = end_import
};

/* Hand on what was written, as far as the worker takes it. */
static void pump(struct transfer *transfer)
{
	struct request *request;
	ssize_t n;

	while ((request = list_first(&transfer->waiting, struct request, link))) {
		n = write(transfer->fd, (const char *)request->data + request->partial,
			  request->size - request->partial);
		if (n < 0)
			break; /* full: the worker, which has the other end, closes it when it ends */
		request->partial += (size_t)n;
		if (request->partial == request->size)
			request_written(request);
	}
	watch_while_waiting(transfer, EPOLLOUT);
	if (transfer->complete && list_empty(&transfer->waiting))
		close_pipe(transfer);
}

static void on_writable(void *arg, uint32_t events)
{
	(void)events;
	pump(arg);
}

static void on_imported(void *arg, const struct err *err)
{
	struct transfer *transfer = arg;
	struct object *obj = &transfer->worker->snap->obj;

	transfer->worker = NULL;
	transfer->err = *err;
	if (!obj->gone)
		object_report(obj, err);
	close_pipe(transfer);
	answer_all(&transfer->waiting, err->code ? err->code : -EINVAL);
	answer_all(&transfer->flushing, err->code);
	transfer_free(transfer);
}

static int start_import(struct file *file, struct err *err)
{
	struct snapshot *snap = snapshot_of(file->obj);
	struct transfer *transfer;
	struct worker *worker;
	int rc;

	if (!snapshot_is_empty(snap) || worker_busy(snap))
		return err_set(err, -EBUSY, "archive: another import into %s came first", snap->obj.name);
	rc = room_to_save(snap->obj.fs, err);
	if (!rc)
		rc = prepare(snap, &import_kind, on_imported, &transfer, &worker, err);
	if (rc)
		return rc;
	memcpy(worker->name, snap->obj.name, sizeof(worker->name));
	rc = make_pipe(transfer, worker, false, on_writable, err);
	if (!rc)
		rc = archive_import_begin(snap->obj.fs->store, snap->obj.name, &snap->obj.owner,
					  &worker->progress, &worker->import, err);
	if (rc)
		transfer_abandon(transfer, worker);
	else
		transfer_start(transfer, file, worker);
	return rc;
}

/* May more be written? */
static int writable(struct file *file, struct err *err)
{
	const struct transfer *transfer = file->priv;

	if (!transfer)
		return start_import(file, err);
	if (!transfer->worker && transfer->err.code) {
		*err = transfer->err;
		return err->code;
	}
	if (!transfer->worker || transfer->complete)
		return err_set(err, -EINVAL, "archive: it has been closed, so it takes no more data");
	return 0;
}

static void archive_write(struct file *file, const char *data, bool nonblock, struct request *request)
{
	struct transfer *transfer;
	struct err err = { 0 };

	(void)nonblock; /* a regular file's writer waits */
	if (writable(file, &err) || request_keep(request, data, &err)) {
		object_report(file->obj, &err);
		request_err(request, err.code);
		return;
	}
	transfer = file->priv;
	transfer->writer = request->owner;
	list_add(&transfer->waiting, &request->link);
	pump(transfer);
}

/* Whoever closes it does not want to wait. */
static void on_interrupt(void *arg)
{
	struct transfer *transfer = arg;

	if (transfer->worker)
		worker_cancel(transfer->worker);
}

static void archive_flush(struct file *file, struct request *request)
{
	struct transfer *transfer = file->priv;

	if (!transfer || request->owner != transfer->writer) {
		request_err(request, 0);
		return;
	}
	if (!transfer->worker) {
		request_err(request, transfer->err.code);
		return;
	}
	transfer->complete = true;
	request->cancel = on_interrupt;
	request->arg = transfer;
	list_add(&transfer->flushing, &request->link);
	pump(transfer);
}

/* ---- the file */

static int archive_open(struct file *file, int flags)
{
	const char *since;
	struct snapshot *snap = snapshot_at(file->obj, &since);
	struct err err = { 0 };

	if ((flags & O_ACCMODE) != O_RDONLY) {
		if (since)
			err_set(&err, -EINVAL, "an archive is imported through the file archive");
		else if (!snapshot_is_empty(snap))
			err_set(&err, -EEXIST, "an archive is imported into a new snapshot: mkdir one");
		else if (worker_busy(snap))
			err_set(&err, -EBUSY, "snapshot %s is being imported already", snap->obj.name);
	} else if (!snap->stored) {
		err_set(&err, -EBUSY, "archive: %s",
			!snap->named        ? "only a named snapshot has one; give it a name with mv"
			: worker_busy(snap) ? "the snapshot is still being saved or imported"
					    : "the snapshot is empty");
	}
	if (err.code)
		object_report(file->obj, &err);
	return err.code;
}

static void archive_release(struct file *file)
{
	struct transfer *transfer = file->priv;

	if (!transfer)
		return;
	transfer->open = false;
	if (transfer->worker && transfer->worker->kind == &export_kind)
		worker_cancel(transfer->worker);
	/* For an import this is the end, if it had none; an export's worker finds that nobody reads. */
	close_pipe(transfer);
	transfer_free(transfer);
}

/* About what an export gives; what there is to read is known when it was read. Not 0, for busybox cat reads
 * nothing from a file of size 0. */
static uint64_t archive_size(const struct object *obj, const struct entry *entry)
{
	const char *since;
	struct snapshot *snap = snapshot_at(obj, &since);

	(void)entry;
	if (!snap->stored || snapshot_read_meta(snap, NULL))
		return 0;
	return snap->meta.ram_stored + snap->meta.disk_stored;
}

const struct stream_ops archive_ops = {
	.open = archive_open,
	.release = archive_release,
	.read = archive_read,
	.write = archive_write,
	.flush = archive_flush,
	.size = archive_size,
};

/* ---- archive.since/ */

static const struct entry since_entry = { "BASE", S_IFREG | 0400, ENTRY_VOLATILE,
					  "what a store that has the snapshot BASE lacks of it",
					  .stream = &archive_ops };

static void delta_free(struct object *obj)
{
	struct delta *delta = container_of(obj, struct delta, obj);

	object_unref(&delta->snap->obj);
	free(delta);
}

static struct delta *delta_find(struct snapshot *snap, const struct snapshot *base)
{
	struct delta *delta;

	list_for_each (delta, &snap->deltas, link)
		if (!strcmp(delta->obj.name, base->obj.name))
			return delta;
	delta = calloc(1, sizeof(*delta));
	if (!delta)
		return NULL;
	object_init(&delta->obj, OBJECT_ARCHIVE, snap->obj.fs, base->obj.name, &snap->obj.owner, delta_free);
	delta->obj.ino = base->obj.ino; /* as since_list says */
	delta->obj.log = &snap->obj;
	delta->snap = snapshot_of(object_ref(&snap->obj));
	list_add(&snap->deltas, &delta->link);
	return delta;
}

void archive_forget(struct snapshot *snap)
{
	struct delta *delta;

	while ((delta = list_first(&snap->deltas, struct delta, link))) {
		list_del(&delta->link);
		object_remove(&delta->obj);
		object_unref(&delta->obj);
	}
}

static bool is_base(const struct snapshot *snap, const struct snapshot *base)
{
	return snap->stored && base != snap && base->stored;
}

static struct object *since_find(struct object *dir, const char *name, const struct entry **ret)
{
	struct snapshot *snap = snapshot_of(dir), *base = snapshot_find(&dir->fs->snapshot_names, name);
	struct delta *delta = base && is_base(snap, base) ? delta_find(snap, base) : NULL;

	*ret = &since_entry;
	return delta ? &delta->obj : NULL;
}

static void since_list(struct object *dir, struct listing *listing)
{
	struct snapshot *base;

	list_for_each (base, &dir->fs->snapshots, obj.siblings)
		if (is_base(snapshot_of(dir), base))
			listing_add(listing, base->obj.name, &base->obj, &since_entry);
}

const struct dir_ops archive_since_dir = {
	.child = &since_entry,
	.find = since_find,
	.list = since_list,
};
