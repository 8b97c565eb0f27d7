/* SPDX-License-Identifier: MIT */
/*
 * file.c - open files of the tree: texts, commands and streams
 *
 * A text is made anew when it is read from its beginning, and kept for reads further on, so that a reader
 * with a small buffer sees one state of it. Who polls a value that changes waits for what it has not read:
 * POLLIN holds until the descriptor has read the value as it is, POLLPRI|POLLERR, as in sysfs, when it changed
 * since the descriptor was opened or last read.
 */
#include "fs/tree/file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/fs.h"

static struct file *file_of(const struct fuse_file_info *fi)
{
	return (struct file *)(uintptr_t)fi->fh;
}

static unsigned state_of(const struct object *obj, const struct entry *entry, const char **name)
{
	*name = "";
	return entry->state ? entry->state(obj, name) : 0;
}

/* The text; -EINVAL: it has none. */
static int show(struct object *obj, const struct entry *entry, struct buf *text, struct err *err)
{
	const char *name;

	if (entry->verbs) {
		ctl_show(entry->verbs, state_of(obj, entry, &name), text);
		return 0;
	}
	return entry->show ? entry->show(obj, text, err) : -EINVAL;
}

/* A command takes the request over, and is ended by whoever carries it out. */
static void command(struct object *obj, const struct entry *entry, const char *text, struct request *request)
{
	const char *name;
	const unsigned state = state_of(obj, entry, &name);

	if (entry->verbs)
		ctl_write(entry->verbs, state, name, obj, text, request);
	else
		entry->command(obj, text, request);
}

uint64_t file_size(struct object *obj, const struct entry *entry, struct err *err)
{
	struct buf text = { 0 };
	uint64_t size = 0;

	if (entry->stream)
		return entry->stream->size ? entry->stream->size(obj, entry) : STREAM_SIZE;
	if (entry->flags & ENTRY_COSTLY)
		return COSTLY_SIZE;
	if (!show(obj, entry, &text, err))
		size = text.len;
	buf_release(&text);
	return size;
}

void files_wake(struct list *files)
{
	struct file *file;

	list_for_each (file, files, link) {
		if (!file->poll)
			continue;
		fuse_lowlevel_notify_poll(file->poll);
		fuse_pollhandle_destroy(file->poll);
		file->poll = NULL;
	}
}

int file_truncate(struct object *obj, const struct entry *entry)
{
	struct err err = { 0 };
	int rc;

	if (obj->gone)
		return -ENODEV;
	if (!(entry->flags & ENTRY_APPEND))
		return 0;
	rc = entry->store(obj, "", 0, &err);
	object_report(obj, &err);
	return rc;
}

/* To keep others'. */
static void forget_texts(struct kept *kept)
{
	struct file *file = container_of(kept, struct file, kept);

	file->forgotten = file->shown;
	buf_release(&file->text);
	buf_release(&file->written);
}

static void count_texts(struct file *file)
{
	kept_use(file->obj->fs, &file->kept, file->uid, file->text.size + file->written.size);
}

static void file_free(struct file *file)
{
	/* `: > env`: not before the end, so that a text that is refused leaves the one that was. The kernel
	 * queues the end before close(2) returns. */
	if (file->emptied)
		(void)file_truncate(file->obj, file->entry);
	if (file->entry->stream && file->entry->stream->release)
		file->entry->stream->release(file);
	list_del(&file->link);
	list_del(&file->all);
	if (file->poll)
		fuse_pollhandle_destroy(file->poll);
	kept_drop(file->obj->fs, &file->kept);
	buf_release(&file->text);
	buf_release(&file->written);
	object_unref(file->obj);
	free(file);
}

void files_close(struct fs *fs)
{
	struct file *file;

	while ((file = list_first(&fs->files, struct file, all)))
		file_free(file);
}

void file_opened(struct file *file, int rc)
{
	struct request *request = file->opening;
	const struct fuse_file_info fi = { .fh = (uintptr_t)file };

	file->opening = NULL;
	if (rc)
		request_err(request, rc);
	if (rc || request_open_stream(request, &fi))
		file_free(file);
}

static void on_interrupted_open(void *arg)
{
	struct file *file = arg;

	file->opening = NULL;
	file_free(file);
}

static void file_connect(fuse_req_t req, struct file *file)
{
	file->opening = request_new(req, 0);
	if (!file->opening) {
		file_free(file);
		return;
	}
	file->opening->cancel = on_interrupted_open;
	file->opening->arg = file;
	file->entry->stream->connect(file);
}

void file_open(fuse_req_t req, struct object *obj, const struct entry *entry, struct fuse_file_info *fi)
{
	const struct stream_ops *stream = entry->stream;
	struct file *file;
	int rc = 0;

	if (obj->gone) {
		fuse_reply_err(req, object_gone_errno(obj, ENODEV));
		return;
	}
	file = calloc(1, sizeof(*file));
	if (!file) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	file->obj = object_ref(obj);
	file->entry = entry;
	file->seen = obj->version;
	file->uid = fuse_req_ctx(req)->uid;
	file->gid = fuse_req_ctx(req)->gid;
	list_init(&file->link);
	file->kept.forget = forget_texts;
	list_add(&obj->fs->files, &file->all);
	if (entry->flags & ENTRY_POLL)
		list_add(&obj->files, &file->link);
	if (stream && stream->connect) {
		file_connect(req, file);
		return;
	}
	if (stream && stream->open)
		rc = stream->open(file, fi->flags);
	if (rc) {
		list_del(&file->link);
		list_del(&file->all);
		object_unref(obj);
		free(file);
		fuse_reply_err(req, -rc);
		return;
	}
	file->emptied = fi->flags & O_TRUNC && entry->flags & ENTRY_APPEND;
	fi->fh = (uintptr_t)file;
	fi->direct_io = 1;
	/* Mostly there is nothing to hear of at close, and an error where the daemon is gone. */
	fi->noflush = !stream || !stream->flush;
	fi->nonseekable = stream && !entry->tail && !(entry->flags & ENTRY_POSITIONED);
	if (fuse_reply_open(req, fi))
		file_free(file);
}

void file_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct file *file = file_of(fi);
	const struct stream_ops *stream = file->entry->stream;
	struct request *request;

	(void)ino;
	if (!stream || !stream->flush) {
		fuse_reply_err(req, 0);
		return;
	}
	request = request_new(req, 0);
	if (!request)
		return;
	request->owner = fi->lock_owner;
	stream->flush(file, request);
}

void file_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	file_free(file_of(fi));
	fuse_reply_err(req, 0);
}

void file_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)ino;
	(void)datasync;
	(void)fi;
	fuse_reply_err(req, 0);
}

static int file_show(struct file *file)
{
	struct err err = { 0 };
	int rc;

	buf_release(&file->text);
	file->forgotten = false;
	file->seen = file->obj->version;
	rc = show(file->obj, file->entry, &file->text, &err);
	if (!rc && file->text.failed)
		rc = -ENOMEM;
	file->shown = !rc;
	count_texts(file);
	if (!rc && file->forgotten)
		rc = -ENOMEM;
	if (rc && err.code)
		object_report(file->obj, &err);
	return rc;
}

static const void *text_at(const struct file *file, uint64_t off, size_t size, size_t *ret_n)
{
	const size_t left = off < file->text.len ? file->text.len - (size_t)off : 0;

	*ret_n = left < size ? left : size;
	return left ? buf_bytes(&file->text) + off : NULL;
}

void file_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct file *file = file_of(fi);
	const struct entry *entry = file->entry;
	struct request *request;
	struct list *refresh;
	bool anew;
	const void *text;
	size_t n;
	int rc = 0;

	(void)ino;
	if (file->obj->gone) {
		fuse_reply_err(req, ENODEV);
		return;
	}
	/*
	 * sendfile(2), which busybox cat tries first, reads through the page cache even where direct_io is
	 * set: pages at offsets, which a stream has none of. Such a read has no owner, a direct one has
	 * (fuse_send_read in Linux' fs/fuse/file.c). Refused, cat goes on with read(2); it does not even ask
	 * where its position is at st_size or above.
	 */
	if (entry->stream && !entry->tail && !fi->lock_owner) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	if (entry->stream && entry->stream->read) {
		request = request_new(req, size);
		if (request)
			entry->stream->read(file, (uint64_t)off, fi->flags & O_NONBLOCK, request);
		return;
	}
	anew = !off || !file->shown || file->forgotten;
	refresh = entry->refresh && anew ? entry->refresh(file->obj) : NULL;
	if (refresh) {
		request = request_new_ending(req, size);
		if (request) {
			request->arg = file; /* which the kernel does not release under a read */
			request->offset = (uint64_t)off;
			list_add(refresh, &request->link);
		}
		return;
	}
	if (anew)
		rc = file_show(file);
	if (rc) {
		fuse_reply_err(req, -rc);
		return;
	}
	text = text_at(file, (uint64_t)off, size, &n);
	fuse_reply_buf(req, text, n);
}

void files_refreshed(struct list *waiting)
{
	struct request *request;
	struct file *file;
	const void *text;
	size_t n;
	int rc;

	while ((request = list_first(waiting, struct request, link))) {
		list_del(&request->link);
		file = request->arg;
		rc = file->obj->gone ? -ENODEV : file_show(file);
		text = rc ? NULL : text_at(file, request->offset, request->size, &n);
		if (rc)
			request_err(request, rc);
		else
			(void)request_data(request, text, n);
	}
}

static size_t write_max(const struct entry *entry)
{
	return entry->flags & ENTRY_LONG ? LONG_WRITE_MAX : WRITE_MAX;
}

/* `>>` to a text of lines: what it reads now, with the new lines after it. */
static int append(const struct file *file, size_t size, struct buf *text, struct err *err)
{
	int rc = show(file->obj, file->entry, text, err);

	if (!rc && text->len + size > write_max(file->entry))
		rc = err_set(err, -E2BIG, "%s has at most %zu bytes", file->entry->name,
			     write_max(file->entry));
	return rc;
}

/*
 * A write goes on where this open's last one ended: a shell's builtins write a line at a time, and what `>` writes is
 * all of them.
 */
static int go_on(const struct file *file, size_t size, struct buf *text, struct err *err)
{
	if (file->written_to + size > write_max(file->entry))
		return err_set(err, -E2BIG, "%s has at most %zu bytes", file->entry->name,
			       write_max(file->entry));
	if (file->written.len < file->written_to)
		return err_set(
			err, -EDQUOT,
			"%s: what was written before is forgotten, since open files keep too much of yours: "
			"close some, and write it again",
			file->entry->name);
	buf_add(text, buf_bytes(&file->written), file->written.len);
	return 0;
}

static int file_store(struct file *file, const char *data, size_t size, bool add, struct err *err)
{
	struct buf text = { 0 };
	int rc = 0;
	size_t n;

	if (size > write_max(file->entry))
		return err_set(err, -E2BIG, "%s: a write has at most %zu bytes", file->entry->name,
			       write_max(file->entry));
	if (add && file->entry->flags & ENTRY_APPEND)
		rc = append(file, size, &text, err);
	else
		rc = go_on(file, size, &text, err);
	buf_add(&text, data, size);
	n = text.len;
	buf_add(&text, "", 1);
	if (!rc && text.failed)
		rc = err_sys(err, -ENOMEM, "%s", file->entry->name);
	if (!rc && n && buf_bytes(&text)[n - 1] == '\n' && !memchr(buf_bytes(&text), 0, n))
		buf_bytes(&text)[--n] = 0;
	if (!rc)
		rc = file->entry->store(file->obj, (const char *)buf_bytes(&text), n, err);
	buf_release(&text);
	return rc;
}

static void keep_written(struct file *file, const char *data, size_t size)
{
	buf_add(&file->written, data, size);
	file->written_to += size;
	count_texts(file);
}

void file_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
		struct fuse_file_info *fi)
{
	struct file *file = file_of(fi);
	const struct entry *entry = file->entry;
	struct request *request;
	struct err err = { 0 };
	int rc;

	(void)ino;
	if (file->obj->gone) {
		fuse_reply_err(req, ENODEV);
		return;
	}
	if (!size) {
		fuse_reply_write(req, 0);
		return;
	}
	if (entry->verbs || entry->command || (entry->stream && entry->stream->write)) {
		request = request_new(req, size);
		if (!request)
			return;
		request->owner = fi->lock_owner;
		request->caller.groups = request->caller.uid == file->uid;
		request->caller.uid = file->uid;
		request->caller.gid = file->gid;
		if (!entry->stream)
			command(file->obj, entry, data, request);
		else
			entry->stream->write(file, data, fi->flags & O_NONBLOCK, request);
		return;
	}
	if (!entry->store) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	file->emptied = false;
	/* Each write is a whole, `>` and `>>` are the same; but for texts of lines. */
	if (!(entry->flags & ENTRY_APPEND) || fi->flags & O_APPEND || (size_t)off != file->written_to) {
		buf_clear(&file->written);
		file->written_to = 0;
	}
	rc = file_store(file, data, size, fi->flags & O_APPEND, &err);
	object_report(file->obj, &err);
	if (!rc && entry->flags & ENTRY_APPEND)
		keep_written(file, data, size);
	if (rc) {
		fuse_reply_err(req, -rc);
	} else if (entry->settle) {
		request = request_new(req, size);
		if (request)
			entry->settle(file->obj, request);
	} else {
		fuse_reply_write(req, size);
	}
}

/* SEEK_DATA or SEEK_HOLE, in what has no holes but the one at its end. */
void file_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct file *file = file_of(fi);
	struct err err = { 0 };
	const uint64_t size = file->obj->gone ? 0 : file_size(file->obj, file->entry, &err);

	(void)ino;
	if ((uint64_t)off >= size)
		fuse_reply_err(req, ENXIO);
	else
		fuse_reply_lseek(req, whence == SEEK_DATA ? off : (off_t)size);
}

static unsigned file_events(const struct file *file)
{
	if (file->obj->gone)
		return POLLIN | POLLRDNORM | POLLPRI | POLLERR | POLLHUP;
	if (file->entry->stream && file->entry->stream->poll)
		return file->entry->stream->poll(file);
	if (!(file->entry->flags & ENTRY_POLL))
		return POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM;
	if (file->seen != file->obj->version)
		return POLLIN | POLLRDNORM | POLLPRI | POLLERR;
	return file->shown ? 0 : POLLIN | POLLRDNORM;
}

void file_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph)
{
	struct file *file = file_of(fi);

	(void)ino;
	if (ph) {
		if (file->poll)
			fuse_pollhandle_destroy(file->poll);
		file->poll = ph;
	}
	fuse_reply_poll(req, file_events(file));
}
