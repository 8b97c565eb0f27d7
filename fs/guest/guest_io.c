/* SPDX-License-Identifier: MIT */
/*
 * guest_io.c - fs/: contents of a guest's files
 *
 * A read or write of the kernel's (up to 1 MiB) becomes several of the agent's, all under way at once: the
 * answers are put together when the last has come.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/guest/guest_names.h"
#include "util/log.h"

enum { CHUNKS_MAX = 1024 * 1024 / PROTO_READ_BEST + 2, KEPT_MAX = 256 * 1024 };

/* ---- open and close */

static struct guest_file *file_of(const struct fuse_file_info *fi)
{
	return (struct guest_file *)(uintptr_t)fi->fh;
}

/* 0, or why the guest cannot be asked: its machine may be another one than the file was opened on. */
static int file_usable(const struct guest_file *file)
{
	int rc = guest_usable(file->node);

	return !rc && file->epoch != guest_epoch(file->node) ? -ESTALE : rc;
}

void guest_close_handle(const struct guest_node *gn, uint64_t epoch, uint32_t handle)
{
	struct agent *agent = guest_agent(gn);
	struct buf args = { 0 };

	if (epoch != guest_epoch(gn) || !agent)
		return; /* it went with its machine */
	buf_put_u32(&args, handle);
	(void)agent_fs(agent, FS_CLOSE, &args, GUEST_TIMEOUT_MS, NULL, NULL);
	buf_release(&args);
}

void guest_file_free(struct guest_file *file)
{
	if (!file)
		return;
	guest_close_handle(file->node, file->epoch, file->handle);
	guest_content_drop(file);
	list_del(&file->link);
	list_del(&file->all);
	guest_unref(file->node);
	free(file);
}

void guestfs_close_all(struct fs *fs)
{
	struct guest_file *file;
	struct guest_call *gc;

	while ((gc = list_first(&fs->guest_opened, struct guest_call, ahead)))
		guestfs_let_go(gc->node->guest);
	while ((file = list_first(&fs->guest_files, struct guest_file, all)))
		guest_file_free(file);
}

struct guest_file *guest_file_new(struct guest_node *gn, uint32_t handle)
{
	struct guest_file *file = calloc(1, sizeof(*file));

	if (!file) {
		guest_close_handle(gn, guest_epoch(gn), handle);
		return NULL;
	}
	file->node = guest_ref(gn);
	file->epoch = guest_epoch(gn);
	file->handle = handle;
	file->kept.forget = guest_content_forget;
	list_add(&gn->files, &file->link);
	list_add(&gn->guest->obj->fs->guest_files, &file->all);
	return file;
}

/* What came with the answer. */
static void opened(const struct guest_call *gc, struct guest_file *file, const struct fs_attr *attr,
		   const struct reader *results)
{
	struct guest_content content = { .end = true, .asked_ns = gc->sent_ns, .touched = gc->touched };

	guest_keep(file->node, attr, gc->sent_ns);
	if (gc->changes == file->node->guest->changes)
		guest_told_bare(file->node, attr, gc->sent_ns);
	content.len = reader_left(results);
	if (!content.len || content.len != attr->size || content.len > PROTO_READ_BEST)
		return;
	content.data = malloc(content.len);
	if (!content.data)
		return;
	memcpy(content.data, results->p, content.len);
	content.voids = gc->voids;
	guest_content_keep(file, &content);
}

void guest_done_open(struct guest_call *gc, int err, struct reader *results)
{
	struct guest_node *gn = gc->node;
	struct fuse_entry_param param;
	struct guest_file *file = NULL;
	const uint32_t handle = err ? 0 : get_u32(results);
	struct fs_attr attr;

	if (!err && (results->bad || !handle))
		err = -EIO;
	else if (!err && !gc->request)
		guest_close_handle(gn, guest_epoch(gn), handle); /* nobody wants it any more */
	else if (!err && gc->name)
		err = guest_entry(gc, results, &param, &gn);
	if (!err && gc->name && gc->request)
		guest_keep_dir(gc->node, gc->touched, gc->sent_ns, results);
	if (err && gc->name)
		guest_new_doubt(gc->node);
	if (err && handle && gc->request)
		guest_close_handle(gn, guest_epoch(gn), handle);
	if (!gc->request) {
		guest_call_free(gc);
		return;
	}
	if (!err) {
		file = guest_file_new(gn, handle);
		if (!file)
			err = -ENOMEM;
		else if (!gc->name && !guest_attr_get(results, &attr) && gn->touched == gc->touched)
			opened(gc, file, &attr, results);
		gc->fi.fh = (uintptr_t)file;
		gc->fi.direct_io = 1;
		gc->fi.noflush = 1;
		if (err && gc->name)
			node_forget(&gn->node, 1);
	}
	if (err) {
		request_err(gc->request, err);
	} else if (gc->name) {
		if (request_create(gc->request, &param, &gc->fi)) {
			guest_file_free(file);
			node_forget(&gn->node, 1);
		}
	} else if (request_open(gc->request, &gc->fi)) {
		guest_file_free(file);
	}
	guest_call_free(gc);
}

void guest_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct guest_node *gn = guest_node_of(req, ino);
	const bool reads = !(fi->flags & (O_ACCMODE | O_TRUNC));
	struct guest_call *gc;
	struct buf args = { 0 };
	int rc;

	if (!guest_usable(gn) && guest_opened_answers(req, gn, fi)) {
		guest_opened_next(gn);
		return;
	}
	gc = guest_call_new(req, gn, NULL, guest_done_open);
	if (!gc)
		return;
	gc->fi = *fi;
	gc->opens = true;
	if (fi->flags & O_TRUNC) {
		guest_ahead_void(gn->guest);
		guest_touch(gn);
	}
	rc = guest_put_named(&args, gn);
	buf_put_u32(&args,
		    ((uint32_t)fi->flags & (O_ACCMODE | O_TRUNC | O_APPEND)) | (reads ? FS_OPEN_DATA : 0));
	buf_put_u8(&args, guest_is_other(req));
	guest_call_send(gc, FS_OPEN, rc, &args);
	if (reads)
		guest_opened_next(gn);
}

void guest_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct buf args = { 0 };
	int rc;
	struct guest_call *gc = guest_call_make(req, parent, name, S_IFREG, guest_done_open, &args, &rc);

	if (!gc)
		return;
	gc->fi = *fi;
	gc->opens = true;
	buf_put_u32(&args, (uint32_t)fi->flags & (O_ACCMODE | O_TRUNC | O_APPEND | O_EXCL));
	guest_put_maker(&args, gc->node, mode, req);
	buf_put_u8(&args, guest_is_other(req));
	guest_call_send(gc, FS_CREATE, rc, &args);
}

void guest_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	guest_file_free(file_of(fi));
	fuse_reply_err(req, 0);
}

/* A call about an open file, whose arguments begin with its handle; NULL if the request was answered. */
static struct guest_call *new_file_call(fuse_req_t req, const struct guest_file *file,
					void (*done)(struct guest_call *gc, int err, struct reader *results),
					struct buf *args)
{
	struct guest_call *gc = guest_call_new(req, file->node, NULL, done);

	if (gc)
		buf_put_u32(args, file->handle);
	return gc;
}

void guest_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	const struct guest_file *file = file_of(fi);
	struct buf args = { 0 };
	struct guest_call *gc = new_file_call(req, file, guest_done_err, &args);

	(void)ino;
	(void)datasync;
	if (gc)
		guest_call_send(gc, FS_FSYNC, file_usable(file), &args);
}

static void done_lseek(struct guest_call *gc, int err, struct reader *results)
{
	const uint64_t at = err ? 0 : get_u64(results);

	if (!err && (results->bad || at < gc->offset || at > INT64_MAX))
		err = -EIO;
	if (err)
		request_err(gc->request, err);
	else
		request_lseek(gc->request, (off_t)at);
	guest_call_free(gc);
}

void guest_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	const struct guest_file *file = file_of(fi);
	struct buf args = { 0 };
	struct guest_call *gc = new_file_call(req, file, done_lseek, &args);

	(void)ino;
	if (!gc)
		return;
	gc->offset = (uint64_t)off;
	buf_put_u64(&args, (uint64_t)off);
	buf_put_u32(&args, (uint32_t)whence);
	guest_call_send(gc, FS_SEEK, file_usable(file), &args);
}

void guest_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t length,
		     struct fuse_file_info *fi)
{
	const struct guest_file *file = file_of(fi);
	struct buf args = { 0 };
	struct guest_call *gc = new_file_call(req, file, guest_done_err, &args);

	(void)ino;
	if (!gc)
		return;
	buf_put_u32(&args, (uint32_t)mode);
	buf_put_u64(&args, (uint64_t)off);
	buf_put_u64(&args, (uint64_t)length);
	buf_put_u8(&args, guest_is_other(req));
	guest_call_send(gc, FS_FALLOCATE, file_usable(file), &args);
}

void guest_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph)
{
	(void)ino;
	(void)fi;
	if (ph)
		fuse_pollhandle_destroy(ph);
	fuse_reply_poll(req, POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM);
}

/* ---- read and write */

struct chunk {
	struct io *io;
	struct agent_call *call; /* NULL: answered */
	uint8_t *data;           /* of a read: where it goes */
	size_t asked, got;
	int err;
};

struct io {
	struct request *request;
	struct guest_file *file; /* which outlives its requests */
	enum fs_op op;           /* FS_READ or FS_WRITE */
	/* A read's: what it gets, of which `done` bytes were answered before the chunks at hand; what is wanted, and
	 * what of it the caller. */
	struct guest_content content;
	size_t done, want, size;
	uint64_t off;
	unsigned n, left;
	struct chunk chunks[CHUNKS_MAX];
};

static void io_free(struct io *io)
{
	free(io->content.data);
	free(io);
}

static void io_cancel(void *arg)
{
	struct io *io = arg;
	unsigned i;

	for (i = 0; i < io->n; i++)
		if (io->chunks[i].call)
			agent_fs_cancel(io->chunks[i].call);
	io_free(io);
}

static void read_on(struct io *io);

/* The caller gets its part, and the rest is kept for the next. */
static void read_end(struct io *io, size_t total, size_t asked)
{
	struct guest_content *content = &io->content;

	io->file->next = io->off + (total < io->size ? total : io->size);
	content->len = total;
	content->end = total < asked;
	request_data(io->request, content->data, total < io->size ? total : io->size);
	if (total <= KEPT_MAX && (content->end || total > io->size)) {
		guest_content_keep(io->file, content);
		content->data = NULL;
	}
}

/* What counts is what came without a gap from the beginning. */
static void io_end(struct io *io)
{
	size_t total = io->done, asked = io->done;
	unsigned i;
	int err = 0;

	for (i = 0; i < io->n; i++) {
		err = io->chunks[i].err;
		total += io->chunks[i].got;
		asked += io->chunks[i].asked;
		if (err || io->chunks[i].got < io->chunks[i].asked)
			break;
	}
	/* It was not known to be that long. */
	if (!err && io->content.data && total == asked && total < io->size) {
		io->done = total;
		read_on(io);
		return;
	}
	if (err && !total) {
		request_err(io->request, err);
	} else if (io->content.data) {
		/* Only an empty answer is the end: files of /proc are read a page at a time. */
		if (err || (i < io->n && io->chunks[i].got))
			asked = total;
		read_end(io, total, asked);
	} else {
		io->request->size = total;
		request_written(io->request);
	}
	io_free(io);
}

static void answered(struct chunk *chunk, int err)
{
	struct io *io = chunk->io;

	chunk->call = NULL;
	chunk->err = guest_errno(io->file->node, io->op, err);
	if (!--io->left)
		io_end(io);
}

static void on_read(void *arg, int err, struct reader *results)
{
	struct chunk *chunk = arg;
	const size_t n = reader_left(results);

	if (!err && n > chunk->asked)
		err = -EIO;
	if (!err) {
		memcpy(chunk->data, results->p, n);
		chunk->got = n;
	}
	answered(chunk, err);
}

static void on_written(void *arg, int err, struct reader *results)
{
	struct chunk *chunk = arg;
	const uint32_t n = err ? 0 : get_u32(results);

	if (!err && (results->bad || n > chunk->asked))
		err = -EIO;
	chunk->got = err ? 0 : n;
	answered(chunk, err);
}

/* NULL: answered. */
static struct io *io_new(fuse_req_t req, struct guest_file *file, size_t size)
{
	const int rc = file_usable(file);
	struct request *request;
	struct io *io;

	if (rc) {
		fuse_reply_err(req, -rc);
		return NULL;
	}
	request = request_new_ending(req, size);
	if (!request)
		return NULL;
	io = calloc(1, sizeof(*io));
	if (!io) {
		request_err(request, -ENOMEM);
		return NULL;
	}
	io->request = request;
	io->file = file;
	request->cancel = io_cancel;
	request->arg = io;
	return io;
}

static void tell(const struct io *io, size_t size, uint64_t off)
{
	if (log_verbose())
		log_debug("request %" PRIu64 ": %s of %zu bytes at %" PRIu64 " in fs/ of %s",
			  io->request->number, fs_op_name(io->op), size, off,
			  io->file->node->guest->obj->name);
}

/* A chunk of n bytes; false: it is the last. */
static bool io_ask(struct io *io, const struct buf *args, size_t n, uint8_t *data)
{
	const struct guest_node *node = io->file->node;
	struct chunk *chunk = &io->chunks[io->n++];

	*chunk = (struct chunk){ .io = io, .asked = n, .data = data };
	if (!args->failed)
		chunk->call = agent_fs(guest_agent(node), io->op, args, GUEST_TIMEOUT_MS,
				       io->op == FS_WRITE ? on_written : on_read, chunk);
	if (!chunk->call) {
		chunk->err = -ENOMEM;
		return false;
	}
	io->left++;
	return io->n < CHUNKS_MAX;
}

/* Ask for what is wanted from io->done on, or as much of it as the file is known to have; at least for something, since
 * what its size says may be wrong (/proc). */
static void read_on(struct io *io)
{
	const struct fs_attr *attr = io->done ? NULL : guest_kept(io->file->node);
	const uint64_t known = attr && attr->size > io->off ? attr->size - io->off : 1;
	const uint64_t left = io->want - io->done;
	size_t n, at, end = io->done + (attr && known < left ? known : left);
	struct buf args = { 0 };
	bool more = true;

	io->n = 0;
	io->left = 1; /* ours, until all are sent */
	for (at = io->done; at < end && more; at += n) {
		n = io->want - at < PROTO_READ_BEST ? io->want - at : PROTO_READ_BEST;
		buf_clear(&args);
		buf_put_u32(&args, io->file->handle);
		buf_put_u64(&args, io->off + at);
		buf_put_u32(&args, (uint32_t)n);
		more = io_ask(io, &args, n, io->content.data + at);
	}
	buf_release(&args);
	if (!--io->left)
		io_end(io);
}

void guest_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct guest_file *file = file_of(fi);
	struct guest_node *gn = file->node;
	struct io *io;

	(void)ino;
	if (!file_usable(file) && guest_content_answers(req, file, size, (uint64_t)off))
		return;
	io = io_new(req, file, size);
	if (!io)
		return;
	io->op = FS_READ;
	io->off = (uint64_t)off;
	io->size = size;
	io->want = guest_content_want(file, size, io->off);
	io->content = (struct guest_content){ .data = malloc(io->want ? io->want : 1),
					      .at = io->off,
					      .asked_ns = now_mono_ns(),
					      .voids = gn->guest->voids,
					      .touched = gn->touched };
	if (!io->content.data) {
		request_err(io->request, -ENOMEM);
		io_free(io);
		return;
	}
	tell(io, size, io->off);
	read_on(io);
	guest_was_read(gn);
}

void guest_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
		 struct fuse_file_info *fi)
{
	struct guest_file *file = file_of(fi);
	const bool other = guest_is_other(req);
	struct io *io = io_new(req, file, size);
	struct buf args = { 0 };
	bool more = true;
	size_t at, n;

	(void)ino;
	if (!io)
		return;
	io->op = FS_WRITE;
	tell(io, size, (uint64_t)off);
	guest_ahead_void(file->node->guest);
	guest_touch(file->node);
	io->left = 1; /* ours, until all are sent */
	for (at = 0; at < size && more; at += n) {
		n = size - at < PROTO_DATA_MAX ? size - at : PROTO_DATA_MAX;
		buf_clear(&args);
		buf_put_u32(&args, file->handle);
		buf_put_u64(&args, (uint64_t)off + at);
		buf_put_u8(&args, other);
		buf_add(&args, data + at, n);
		more = io_ask(io, &args, n, NULL);
	}
	buf_release(&args);
	if (!--io->left)
		io_end(io);
}
