/* SPDX-License-Identifier: MIT */
/*
 * defaults.c - what the image says of commands that say nothing themselves
 *
 * It is read once, at boot, from the root directory of the disk (snap/image_config.h), and is part of the agent's
 * memory from then on, so forks have it. A disk without it, or with what cannot be read, has none.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "snap/image_config.h"
#include "vm/agent/guest/agent.h"

static struct guest_defaults defaults;

const struct guest_defaults *guest_defaults(void)
{
	return &defaults;
}

static void set_text(char **at, const char *value)
{
	free(*at);
	*at = strdup(value);
}

static void add_env(size_t *n, const char *value)
{
	char **more;

	if (!strchr(value, '='))
		return;
	more = reallocarray(defaults.env, *n + 2, sizeof(*more));
	if (!more)
		return;
	defaults.env = more;
	more[*n] = strdup(value);
	if (more[*n])
		(*n)++;
	more[*n] = NULL;
}

static void take(const struct buf *text)
{
	static char value[IMAGE_CONFIG_MAX];
	size_t pos = 0, nenv = 0;
	char key[16];

	if (image_config_check(text, NULL))
		return;
	while (image_config_next(text, &pos, key, value, sizeof(value))) {
		if (!strcmp(key, "env"))
			add_env(&nenv, value);
		else if (!strcmp(key, "workdir"))
			set_text(&defaults.workdir, value);
		else if (!strcmp(key, "user"))
			set_text(&defaults.user, value);
	}
}

void guest_read_defaults(void)
{
	struct buf text = { 0 };
	void *room = buf_reserve(&text, IMAGE_CONFIG_MAX);
	ssize_t n = room ? getxattr("/", IMAGE_CONFIG_XATTR, room, IMAGE_CONFIG_MAX) : -1;

	if (n > 0) {
		buf_grow(&text, (size_t)n);
		take(&text);
	}
	buf_release(&text);
}
