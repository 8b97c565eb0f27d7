/* SPDX-License-Identifier: MIT */
/* closer.c - files that are closed by somebody who has the time */
#include "util/closer.h"

#include <stdint.h>
#include <unistd.h>

#include "util/io.h"
#include "util/thread.h"

enum { LARGE = 16 << 20 }; /* bytes: about a millisecond */

static void *closer(void *arg)
{
	close((int)(intptr_t)arg);
	return NULL;
}

void close_elsewhere(int *fd)
{
	pthread_t thread;

	if (*fd >= 0 && !thread_start(&thread, closer, (void *)(intptr_t)*fd)) {
		pthread_detach(thread);
		*fd = -1;
	}
	close_fd(fd);
}

void close_large(int *fd)
{
	if (*fd >= 0 && fd_stored(*fd) >= LARGE)
		close_elsewhere(fd);
	close_fd(fd);
}
