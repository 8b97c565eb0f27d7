/* SPDX-License-Identifier: MIT */
/* console.c - the serial console of a machine, kept for readers */
#include "fs/sandbox/console.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "fs/sandbox/sandbox.h"

enum { READ_BYTES = 16384, ROUNDS = 16 };

void console_init(struct console *console)
{
	tail_init(&console->tail, CONSOLE_KEEP);
}

/* False: nothing more to read now, or ever. */
static bool take(struct console *console)
{
	void *room = buf_reserve(&console->tail.text, READ_BYTES);
	ssize_t n = room ? read(console->fd, room, READ_BYTES) : -1;

	if (n <= 0)
		return n < 0 && errno == EINTR;
	buf_grow(&console->tail.text, (size_t)n);
	tail_grown(&console->tail);
	return true;
}

static void on_output(void *arg, uint32_t events)
{
	struct console *console = arg;

	if (!take(console) && events & (EPOLLHUP | EPOLLERR))
		watch_set(console->watch, 0); /* the machine's end is the engine's to tell */
}

int console_attach(struct console *console, struct loop *loop, int fd)
{
	console->fd = fd;
	console->watch = watch_new(loop, fd, EPOLLIN, on_output, console);
	return console->watch ? 0 : -ENOMEM;
}

void console_detach(struct console *console)
{
	unsigned i;

	if (!console->watch)
		return;
	for (i = 0; i < ROUNDS && take(console); i++)
		;
	watch_free(console->watch);
	console->watch = NULL;
}

void console_release(struct console *console)
{
	console_detach(console);
	tail_release(&console->tail);
}

void console_last_line(const struct console *console, char *ret, size_t size)
{
	const char *text = (const char *)buf_bytes(&console->tail.text);
	size_t end = console->tail.text.len, start, i;

	while (end && (text[end - 1] == '\n' || text[end - 1] == '\r'))
		end--;
	for (start = end; start && text[start - 1] != '\n'; start--)
		;
	if (end - start > size - 1)
		start = end - (size - 1);
	for (i = 0; start + i < end; i++) /* the guest's bytes: control characters stay out of our sentence */
		ret[i] = (unsigned char)text[start + i] < ' ' ? ' ' : text[start + i];
	ret[i] = 0;
}

struct tail *console_tail(const struct object *obj)
{
	return &sandbox_of(obj)->console.tail;
}
