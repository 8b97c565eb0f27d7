/* SPDX-License-Identifier: MIT */
/*
 * disk.c - disk requests, run on worker threads
 *
 * A request is a job for the loop's workers. When its work is over it joins the list `finished`, and its
 * callback runs on the loop's thread: usually when the loop hears of it, sometimes earlier, in qcow2_drain.
 */
#include "snap/qcow2/disk.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "snap/qcow2/chain_priv.h"

struct qcow2 {
	struct qdisk disk;
	struct loop *loop;
	atomic_uint_fast64_t written;

	pthread_mutex_t lock; /* guards: */
	pthread_cond_t idle;  /* working became 0 */
	unsigned working;
	struct list finished; /* struct disk_request: callbacks that are owed */
};

struct disk_request {
	struct list link; /* in finished */
	struct qcow2 *disk;
	enum qcow2_op op;
	uint64_t offset, len;
	const struct iovec *iov;
	qcow2_done_fn done;
	void *arg;
	int result;
};

int qcow2_open(struct loop *loop, struct chain *chain, struct qcow2 **ret, struct err *err)
{
	struct qcow2 *disk = calloc(1, sizeof(*disk));
	int rc;

	if (!disk)
		return err_set(err, -ENOMEM, "out of memory");
	rc = qdisk_open(&disk->disk, chain, err);
	if (rc) {
		free(disk);
		return rc;
	}
	disk->loop = loop;
	pthread_mutex_init(&disk->lock, NULL);
	pthread_cond_init(&disk->idle, NULL);
	list_init(&disk->finished);
	*ret = disk;
	return 0;
}

void qcow2_close(struct qcow2 *disk)
{
	if (!disk)
		return;
	qcow2_drain(disk);
	qdisk_close(&disk->disk);
	pthread_mutex_destroy(&disk->lock);
	pthread_cond_destroy(&disk->idle);
	free(disk);
}

uint64_t qcow2_size(const struct qcow2 *disk)
{
	return chain_size(disk->disk.chain);
}

bool qcow2_writable(const struct qcow2 *disk)
{
	return chain_writable(disk->disk.chain);
}

uint64_t qcow2_written(const struct qcow2 *disk)
{
	return atomic_load(&disk->written);
}

static int perform(struct disk_request *req)
{
	struct qdisk *disk = &req->disk->disk;
	const struct cursor cursor = { req->iov, 0 };

	switch (req->op) {
	case QCOW2_READ:
		return qdisk_read(disk, req->offset, req->len, cursor);
	case QCOW2_WRITE:
		atomic_fetch_add(&req->disk->written, req->len);
		return qdisk_write(disk, req->offset, req->len, cursor);
	case QCOW2_ZERO:
		return qdisk_zero(disk, req->offset, req->len);
	case QCOW2_DISCARD:
		return qdisk_discard(disk, req->offset, req->len);
	case QCOW2_FLUSH:
		return qdisk_flush(disk);
	}
	return -EINVAL;
}

static int run(void *arg)
{
	struct disk_request *req = arg;
	struct qcow2 *disk = req->disk;

	req->result = perform(req);
	pthread_mutex_lock(&disk->lock);
	list_add(&disk->finished, &req->link);
	if (!--disk->working)
		pthread_cond_broadcast(&disk->idle);
	pthread_mutex_unlock(&disk->lock);
	return 0;
}

/* Take a request off `finished` (the first, or this one), if it is still there. */
static struct disk_request *take(struct qcow2 *disk, struct disk_request *req)
{
	pthread_mutex_lock(&disk->lock);
	if (!req)
		req = list_first(&disk->finished, struct disk_request, link);
	if (req)
		list_del(&req->link);
	pthread_mutex_unlock(&disk->lock);
	return req;
}

/* The loop's turn: everything before may be gone but the request itself. */
static void done(void *arg, int result)
{
	struct disk_request *req = arg;

	(void)result;
	if (req->disk) {
		take(req->disk, req);
		req->done(req->arg, req->result);
	}
	free(req);
}

int qcow2_submit(struct qcow2 *disk, enum qcow2_op op, uint64_t offset, uint64_t len, const struct iovec *iov,
		 unsigned niov, qcow2_done_fn fn, void *arg)
{
	struct disk_request *req;
	uint64_t total = 0;
	unsigned i;
	int rc;

	if (op != QCOW2_READ && op != QCOW2_FLUSH && !qcow2_writable(disk))
		return -EROFS;
	if (op == QCOW2_READ || op == QCOW2_WRITE) {
		for (i = 0; i < niov; i++)
			if (__builtin_add_overflow(total, iov[i].iov_len, &total))
				return -EINVAL;
		if (total != len)
			return -EINVAL;
	}
	if (offset > qcow2_size(disk) || len > qcow2_size(disk) - offset)
		return -EINVAL;
	req = malloc(sizeof(*req));
	if (!req)
		return -ENOMEM;
	*req = (struct disk_request){
		.disk = disk, .op = op, .offset = offset, .len = len, .iov = iov, .done = fn, .arg = arg
	};
	list_init(&req->link);
	pthread_mutex_lock(&disk->lock);
	disk->working++;
	pthread_mutex_unlock(&disk->lock);
	rc = loop_work(disk->loop, run, done, req);
	if (rc) {
		pthread_mutex_lock(&disk->lock);
		if (!--disk->working)
			pthread_cond_broadcast(&disk->idle);
		pthread_mutex_unlock(&disk->lock);
		free(req);
	}
	return rc;
}

void qcow2_wait(struct qcow2 *disk)
{
	pthread_mutex_lock(&disk->lock);
	while (disk->working)
		pthread_cond_wait(&disk->idle, &disk->lock);
	pthread_mutex_unlock(&disk->lock);
}

void qcow2_drain(struct qcow2 *disk)
{
	struct list batch = LIST_INIT(batch);
	struct disk_request *req;

	qcow2_wait(disk);
	/* The loop frees them, later: it still holds a pointer. */
	while ((req = take(disk, NULL)))
		list_add(&batch, &req->link);
	while ((req = list_first(&batch, struct disk_request, link))) {
		list_del(&req->link);
		req->disk = NULL;
		req->done(req->arg, req->result);
	}
}

int qcow2_switch(struct qcow2 *disk, const char *file, int fd, struct err *err)
{
	return chain_push(disk->disk.chain, file, fd, err);
}
