/* SPDX-License-Identifier: MIT */
/* console.h - the serial console of a machine, kept for readers: at least the last CONSOLE_KEEP bytes */
#ifndef SBX_FS_SANDBOX_CONSOLE_H
#define SBX_FS_SANDBOX_CONSOLE_H

#include "fs/tree/tail.h"
#include "util/loop.h"

enum { CONSOLE_KEEP = 1 << 20 };

struct console {
	struct watch *watch; /* NULL: no machine */
	int fd;
	struct tail tail;
};

void console_init(struct console *console);
/* Read the machine's console from now on. -ENOMEM. */
int console_attach(struct console *console, struct loop *loop, int fd);
/* The machine goes: read what is left in the socket. */
void console_detach(struct console *console);
void console_release(struct console *console);
/* The last non-empty line, for an error's sentence. */
void console_last_line(const struct console *console, char *ret, size_t size);

/* What a sandbox's machine said. */
struct tail *console_tail(const struct object *obj);

#endif
