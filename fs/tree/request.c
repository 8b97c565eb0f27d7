/* SPDX-License-Identifier: MIT */
/*
 * request.c - a FUSE request that may have to wait for its answer
 *
 * libfuse calls a request's interrupt function from the loop, when it reads the INTERRUPT message; replying
 * from there is allowed. It is not allowed from within fuse_req_interrupt_func, which would call it at once
 * for a request that was interrupted before, and then touch the freed request: hence the check first.
 */
#include "fs/tree/request.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>

#include "fs/fs.h"
#include "fs/tree/kept.h"
#include "util/log.h"

/* How often it is asked whether a caller that was interrupted, and waits on, is being killed. */
enum { RECHECK_MS = 50 };

static void request_free(struct request *request)
{
	if (log_verbose())
		log_debug("request %" PRIu64 ": answered after %.3f ms", request->number,
			  (double)(now_mono_ns() - request->began_ns) * 1e-6);
	timer_stop(&request->recheck);
	list_del(&request->link);
	list_del(&request->all);
	kept_release(request->fs, request->caller.uid, request->held);
	free(request->data);
	free(request);
}

static void interrupt(struct request *request, int err)
{
	if (request->partial)
		fuse_reply_write(request->req, request->partial);
	else
		fuse_reply_err(request->req, err);
	list_del(&request->link);
	if (request->cancel)
		request->cancel(request->arg);
	request_free(request);
}

static bool gives_up(const struct caller *caller, bool ends)
{
	switch (caller_signal(caller)) {
	case CALLER_GOES_ON:
		return false;
	case CALLER_DYING:
		return true;
	default:
		return !ends;
	}
}

/* A caller that was interrupted may be killed later, of which the kernel says nothing any more. */
static void check_caller(void *arg)
{
	struct request *request = arg;
	struct fs *fs = fuse_req_userdata(request->req);

	if (gives_up(&request->caller, request->ends)) {
		log_debug("request %" PRIu64 ": interrupted", request->number);
		interrupt(request, EINTR);
	} else {
		timer_start(fs->loop, &request->recheck, RECHECK_MS * 1000000ull, check_caller, request);
	}
}

static void on_interrupt(fuse_req_t req, void *data)
{
	(void)req;
	check_caller(data);
}

static struct request *new_request(fuse_req_t req, size_t size, bool ends)
{
	struct fs *fs = fuse_req_userdata(req);
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	const struct caller caller = { ctx->uid, ctx->gid, ctx->pid, true };
	const bool interrupted = fuse_req_interrupted(req);
	struct request *request;

	if (interrupted && gives_up(&caller, ends)) {
		fuse_reply_err(req, EINTR);
		return NULL;
	}
	request = calloc(1, sizeof(*request));
	if (!request) {
		fuse_reply_err(req, ENOMEM);
		return NULL;
	}
	request->fs = fs;
	request->req = req;
	request->caller = caller;
	request->size = size;
	request->ends = ends;
	if (log_verbose()) {
		static uint64_t number;

		request->number = ++number;
		request->began_ns = now_mono_ns();
	}
	list_init(&request->link);
	list_add(&fs->requests, &request->all);
	if (interrupted)
		timer_start(fs->loop, &request->recheck, RECHECK_MS * 1000000ull, check_caller, request);
	else
		fuse_req_interrupt_func(req, on_interrupt, request);
	return request;
}

struct request *request_new(fuse_req_t req, size_t size)
{
	return new_request(req, size, false);
}

struct request *request_new_ending(fuse_req_t req, size_t size)
{
	return new_request(req, size, true);
}

int request_keep(struct request *request, const char *data, struct err *err)
{
	int rc = kept_hold(request->fs, request->caller.uid, request->size, err);

	if (rc)
		return rc;
	request->held = request->size;
	request->data = malloc(request->size);
	if (!request->data)
		return err_sys(err, -ENOMEM, "a write of %zu bytes cannot wait", request->size);
	memcpy(request->data, data, request->size);
	return 0;
}

void request_err(struct request *request, int err)
{
	fuse_reply_err(request->req, -err);
	request_free(request);
}

void request_written(struct request *request)
{
	fuse_reply_write(request->req, request->size);
	request_free(request);
}

int request_data(struct request *request, const void *data, size_t n)
{
	int rc = fuse_reply_buf(request->req, data, n);

	request_free(request);
	return rc;
}

int request_entry(struct request *request, const struct fuse_entry_param *entry)
{
	int rc = fuse_reply_entry(request->req, entry);

	request_free(request);
	return rc;
}

int request_open(struct request *request, const struct fuse_file_info *fi)
{
	int rc = fuse_reply_open(request->req, fi);

	request_free(request);
	return rc;
}

int request_open_stream(struct request *request, const struct fuse_file_info *fi)
{
	/* libfuse 3.14 has no name for it: this is what fuse_reply_open would send. */
	const struct fuse_open_out out = { .fh = fi->fh,
					   .open_flags = FOPEN_DIRECT_IO | FOPEN_NOFLUSH | FOPEN_STREAM };
	int rc = fuse_reply_buf(request->req, (const char *)&out, sizeof(out));

	request_free(request);
	return rc;
}

int request_create(struct request *request, const struct fuse_entry_param *entry,
		   const struct fuse_file_info *fi)
{
	int rc = fuse_reply_create(request->req, entry, fi);

	request_free(request);
	return rc;
}

void request_attr(struct request *request, const struct stat *attr, double timeout)
{
	fuse_reply_attr(request->req, attr, timeout);
	request_free(request);
}

void request_link(struct request *request, const char *target)
{
	fuse_reply_readlink(request->req, target);
	request_free(request);
}

void request_xattr(struct request *request, size_t size)
{
	fuse_reply_xattr(request->req, size);
	request_free(request);
}

void request_lseek(struct request *request, off_t off)
{
	fuse_reply_lseek(request->req, off);
	request_free(request);
}

void request_statfs(struct request *request, const struct statvfs *st)
{
	fuse_reply_statfs(request->req, st);
	request_free(request);
}

void requests_abort(struct fs *fs)
{
	struct request *request;

	while ((request = list_first(&fs->requests, struct request, all)))
		interrupt(request, ECONNABORTED);
}
