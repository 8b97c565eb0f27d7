/* SPDX-License-Identifier: MIT */
/* port.c - the agent channel's port, taken from the agent */
#include "tests/hostile/port.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vm/agent/proto.h"

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0) {
		perror(path);
		exit(1);
	}
	close(fd);
}

static bool find_port(char name[64])
{
	DIR *dir = opendir("/sys/class/virtio-ports");
	char path[PATH_MAX], text[64];
	struct dirent *entry;
	bool found = false;
	ssize_t n;
	int fd;

	while (dir && !found && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
		text[n > 0 ? n : 0] = 0;
		text[strcspn(text, "\n")] = 0;
		found = !strcmp(text, PROTO_PORT);
		if (found)
			snprintf(name, 64, "%.63s", entry->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

int port_take(void)
{
	static const char driver[] = "/sys/bus/virtio/drivers/virtio_console/";
	char name[64], path[PATH_MAX], device[PATH_MAX];
	const char *base;
	int i, port;

	if (!find_port(name)) {
		fprintf(stderr, "no port\n");
		exit(1);
	}
	snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/device", name);
	if (!realpath(path, device))
		exit(1);
	base = strrchr(device, '/') + 1;
	snprintf(path, sizeof(path), "%sunbind", driver);
	put(path, base);
	snprintf(path, sizeof(path), "%sbind", driver);
	put(path, base);
	for (i = 0; i < 1000; i++) {
		if (find_port(name)) {
			snprintf(path, sizeof(path), "/dev/%s", name);
			port = open(path, O_RDWR | O_NOCTTY);
			if (port >= 0)
				return port;
		}
		usleep(10000);
	}
	exit(1);
}
