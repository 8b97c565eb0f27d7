/* SPDX-License-Identifier: MIT */
/* tail.c - a file that grows, for `tail -f`: a console, a log */
#include "fs/tree/tail.h"

#include <poll.h>

#include "fs/tree/request.h"

void tail_release(struct tail *tail)
{
	buf_release(&tail->text);
}

void tail_grown(struct tail *tail)
{
	/* Dropping half at a time keeps the copying linear. */
	if (tail->text.len > 2 * tail->keep) {
		tail->dropped += tail->text.len - tail->keep;
		buf_consume(&tail->text, tail->text.len - tail->keep);
	}
	files_wake(&tail->files);
}

static struct tail *tail_of(const struct file *file)
{
	return file->entry->tail(file->obj);
}

static uint64_t size_now(const struct tail *tail)
{
	return tail->dropped + tail->text.len;
}

static uint64_t tail_size(const struct object *obj, const struct entry *entry)
{
	return size_now(entry->tail(obj));
}

static int tail_open(struct file *file, int flags)
{
	(void)flags;
	list_add(&tail_of(file)->files, &file->link);
	return 0;
}

static void tail_read(struct file *file, uint64_t offset, bool nonblock, struct request *request)
{
	static const char zeros[4096];
	const struct tail *tail = tail_of(file);
	const uint64_t size = size_now(tail);
	size_t n = request->size;

	(void)nonblock;
	file->seen = size;
	if (offset < tail->dropped) {
		if (n > tail->dropped - offset)
			n = tail->dropped - offset;
		request_data(request, zeros, n < sizeof(zeros) ? n : sizeof(zeros));
		return;
	}
	if (offset >= size)
		n = 0;
	else if (n > size - offset)
		n = size - offset;
	request_data(request, n ? buf_bytes(&tail->text) + (offset - tail->dropped) : NULL, n);
}

static unsigned tail_poll(const struct file *file)
{
	return file->seen != size_now(tail_of(file)) ? POLLIN | POLLRDNORM | POLLPRI : POLLIN | POLLRDNORM;
}

const struct stream_ops tail_ops = {
	.open = tail_open,
	.read = tail_read,
	.poll = tail_poll,
	.size = tail_size,
};
