/* SPDX-License-Identifier: MIT */
/* notify.c - tell the service manager that the tree is there (sd_notify(3)) */
#include "fs/notify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/log.h"

int notify_open(void)
{
	const char *name = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	const size_t n = name ? strlen(name) : 0;
	const socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	int fd;

	if (!n || n >= sizeof(to.sun_path) || (*name != '/' && *name != '@'))
		return -1;
	memcpy(to.sun_path, name, n);
	if (*name == '@')
		to.sun_path[0] = '\0'; /* an abstract one */
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&to, size) < 0) {
		close(fd);
		fd = -1;
	}
	if (fd < 0)
		log_warn("cannot reach the service manager at %s", name);
	return fd;
}

void notify_ready(int fd)
{
	static const char text[] = "READY=1";

	if (fd < 0)
		return;
	(void)send(fd, text, strlen(text), MSG_NOSIGNAL);
	close(fd);
}
