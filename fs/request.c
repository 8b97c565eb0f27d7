/* SPDX-License-Identifier: MIT */
/* request.c - a FUSE request that is answered later */
#include "fs/request.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

/* Every parked request, for the end of the daemon. */
static struct list parked = LIST_INIT(parked);

static void request_free(struct request *request)
{
	list_del(&request->link);
	list_del(&request->all);
	free(request);
}

static void cancel(struct request *request, int err)
{
	fuse_req_t req = request->req;
	void (*const hook)(struct request *) = request->cancel;

	list_del(&request->link);
	if (hook)
		hook(request);
	request_free(request);
	fuse_reply_err(req, err);
}

static void interrupted(fuse_req_t req, void *data)
{
	struct request *request = data;

	(void)req;
	cancel(request, EINTR);
}

struct request *request_park(fuse_req_t req, void (*cancel_fn)(struct request *request), void *arg)
{
	struct request *request;

	if (fuse_req_interrupted(req)) {
		fuse_reply_err(req, EINTR);
		return NULL;
	}
	request = calloc(1, sizeof(*request));
	if (!request) {
		fuse_reply_err(req, ENOMEM);
		return NULL;
	}
	request->req = req;
	request->cancel = cancel_fn;
	request->arg = arg;
	list_init(&request->link);
	list_add(&parked, &request->all);
	/* Only this thread reads requests, so no interrupt arrives between the check above and this. */
	fuse_req_interrupt_func(req, interrupted, request);
	return request;
}

void request_err(struct request *request, int err)
{
	fuse_req_t req;

	if (!request)
		return;
	req = request->req;
	request_free(request);
	fuse_reply_err(req, err < 0 ? -err : err);
}

void request_write(struct request *request, size_t n)
{
	fuse_req_t req;

	if (!request)
		return;
	req = request->req;
	request_free(request);
	fuse_reply_write(req, n);
}

void request_buf(struct request *request, const void *data, size_t n)
{
	fuse_req_t req;

	if (!request)
		return;
	req = request->req;
	request_free(request);
	fuse_reply_buf(req, data, n);
}

void request_cancel_all(int err)
{
	struct request *request;

	while ((request = list_first(&parked, struct request, all)))
		cancel(request, err);
}
