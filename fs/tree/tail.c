/* SPDX-License-Identifier: MIT */
/* tail.c - a file that grows, for `tail -f`: a console, a log */
#include "fs/tree/tail.h"

#include <poll.h>

#include "fs/tree/request.h"

void tail_init(struct tail *tail, size_t keep)
{
	*tail = (struct tail){ .keep = keep };
	list_init(&tail->files);
}

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

uint64_t tail_size(const struct tail *tail)
{
	return tail->dropped + tail->text.len;
}

void tail_open(struct tail *tail, struct file *file)
{
	list_add(&tail->files, &file->link);
}

void tail_read(const struct tail *tail, struct file *file, uint64_t offset, struct request *request)
{
	static const char zeros[4096];
	const uint64_t size = tail_size(tail);
	size_t n = request->size;

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

unsigned tail_poll(const struct tail *tail, const struct file *file)
{
	return file->seen != tail_size(tail) ? POLLIN | POLLRDNORM | POLLPRI : POLLIN | POLLRDNORM;
}
