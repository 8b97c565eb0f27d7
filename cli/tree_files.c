/* SPDX-License-Identifier: MIT */
/* tree_files.c - what the mounted files say of sandboxes and snapshots */
#include "cli/tree_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/mount.h"
#include "util/io.h"

enum { TEXT_MAX = 16384 };

/* All of a small file, terminated; -1 with errno. */
static int read_text(const char *dir, const char *name, char text[TEXT_MAX])
{
	char path[PATH_MAX + 256];
	ssize_t n;
	int fd;

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read_some(fd, text, TEXT_MAX - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	return n < 0 ? -1 : 0;
}

int tree_line(const char *dir, const char *name, char *ret, size_t size)
{
	char text[TEXT_MAX];

	if (read_text(dir, name, text))
		return -1;
	snprintf(ret, size, "%.*s", (int)strcspn(text, "\n"), text);
	return 0;
}

/* The value of a line `key value`; false: there is none, or "-". */
static bool field(const char *text, const char *key, char *ret, size_t size)
{
	const size_t n = strlen(key);

	*ret = '\0';
	for (; *text; text += strcspn(text, "\n"), text += *text == '\n') {
		if (strncmp(text, key, n) != 0 || text[n] != ' ')
			continue;
		snprintf(ret, size, "%.*s", (int)strcspn(text + n + 1, "\n"), text + n + 1);
		break;
	}
	if (!strcmp(ret, "-"))
		*ret = '\0';
	return *ret;
}

static uint64_t number(const char *text, const char *key)
{
	char word[32];

	return field(text, key, word, sizeof(word)) ? strtoull(word, NULL, 10) : 0;
}

static struct thing *add(struct things *things)
{
	struct thing *more;

	if (things->n == things->size) {
		more = realloc(things->thing, (things->size * 2 + 16) * sizeof(*more));
		if (!more)
			return NULL;
		things->thing = more;
		things->size = things->size * 2 + 16;
	}
	things->thing[things->n] = (struct thing){ 0 };
	return &things->thing[things->n++];
}

/* What is stored and not its own. */
static void set_shared(struct thing *thing)
{
	thing->shared = thing->stored > thing->own ? thing->stored - thing->own : 0;
}

/* 1: it is in; 0: there is none (any more); -1: no memory. */
static int add_snapshot(struct things *things, const char *id)
{
	char dir[PATH_MAX + 256], text[TEXT_MAX], source[80];
	struct thing *thing;

	snprintf(dir, sizeof(dir), "%s/%.200s", things->mount, id);
	if (read_text(dir, "info", text))
		return 0;
	thing = add(things);
	if (!thing)
		return -1;
	thing->is_snapshot = true;
	snprintf(thing->id, sizeof(thing->id), "%s", id);
	(void)tree_line(dir, "status", thing->status, sizeof(thing->status));
	field(text, "image", thing->image, sizeof(thing->image));
	thing->memory = number(text, "memory");
	thing->cpus = number(text, "cpus");
	thing->stored = number(text, "stored");
	thing->own = number(text, "own");
	set_shared(thing);
	if (field(text, "source", source, sizeof(source)))
		snprintf(thing->parent, sizeof(thing->parent), "%s", source);
	else if (field(text, "parent", source, sizeof(source)))
		snprintf(thing->parent, sizeof(thing->parent), "snapshots/%s", source);
	return 1;
}

/* Of a sandbox, from its stats. */
static void add_sizes(struct thing *thing, const char *text)
{
	const bool suspended = !strcmp(thing->status, "suspended");

	thing->stored = number(text, suspended ? "stored" : "disk_stored");
	if (thing->resident) {
		thing->shared = number(text, "shared");
		thing->own = thing->private;
	} else {
		thing->own = suspended ? number(text, "own") : thing->stored;
		set_shared(thing);
	}
}

static int add_sandbox(struct things *things, const char *id, unsigned flags)
{
	char dir[PATH_MAX + 256], text[TEXT_MAX], state[sizeof(((struct thing *)0)->status)];
	struct thing *thing;

	snprintf(dir, sizeof(dir), "%s/%.200s", things->mount, id);
	if (tree_line(dir, "state", state, sizeof(state)) || read_text(dir, "info", text))
		return 0;
	thing = add(things);
	if (!thing)
		return -1;
	snprintf(thing->id, sizeof(thing->id), "%s", id);
	snprintf(thing->status, sizeof(thing->status), "%s", state);
	field(text, "image", thing->image, sizeof(thing->image));
	field(text, "parent", thing->parent, sizeof(thing->parent));
	if (!tree_line(dir, "memory", text, sizeof(text)))
		thing->memory = strtoull(text, NULL, 10);
	if (!tree_line(dir, "cpus", text, sizeof(text)))
		thing->cpus = strtoull(text, NULL, 10);
	if (flags & THINGS_STATS && !read_text(dir, "stats", text)) {
		thing->cpu_us = number(text, "cpu_us");
		thing->resident = number(text, "resident");
		thing->private = number(text, "private");
		add_sizes(thing, text);
	}
	return 1;
}

static int names_of(const char *path, struct dirent ***ret)
{
	const int n = scandir(path, ret, NULL, versionsort);

	return n < 0 ? 0 : n;
}

/* Each snapshot in a directory; prefix: of its id. */
static int add_snapshots(struct things *things, const char *prefix)
{
	char path[PATH_MAX + 256], id[160];
	struct dirent **names;
	int n, i, rc = 0;

	snprintf(path, sizeof(path), "%s/%.200s", things->mount, prefix);
	n = names_of(path, &names);
	for (i = 0; i < n; i++) {
		if (rc >= 0 && names[i]->d_name[0] != '.' && strcmp(names[i]->d_name, "latest") != 0) {
			snprintf(id, sizeof(id), "%.80s/%.70s", prefix, names[i]->d_name);
			rc = add_snapshot(things, id);
		}
		free(names[i]);
	}
	if (n)
		free(names);
	return rc < 0 ? -1 : 0;
}

static bool is_fixed(const char *name)
{
	static const char *const fixed[] = { "ctl",    "README",    "status", "error",
					     "images", "snapshots", "metrics" };
	size_t i;

	for (i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		if (!strcmp(name, fixed[i]))
			return true;
	return name[0] == '.';
}

int things_read(struct things *ret, unsigned flags)
{
	struct dirent **names;
	char prefix[160];
	int n, i, rc = 0;

	*ret = (struct things){ 0 };
	if (find_in_mount("", "", ret->mount))
		return -1;
	n = names_of(ret->mount, &names);
	if (flags & THINGS_SNAPSHOTS)
		rc = add_snapshots(ret, "snapshots");
	for (i = 0; i < n; i++) {
		if (rc >= 0 && !is_fixed(names[i]->d_name))
			rc = add_sandbox(ret, names[i]->d_name, flags);
		if (rc > 0 && flags & THINGS_SNAPSHOTS && !is_fixed(names[i]->d_name)) {
			snprintf(prefix, sizeof(prefix), "%.64s/snapshots", names[i]->d_name);
			rc = add_snapshots(ret, prefix);
		}
		free(names[i]);
	}
	if (n)
		free(names);
	if (rc >= 0)
		return 0;
	things_release(ret);
	fprintf(stderr, "sbx: out of memory\n");
	return -1;
}

void things_release(struct things *things)
{
	free(things->thing);
	things->thing = NULL;
	things->n = things->size = 0;
}

const struct thing *thing_find(const struct things *things, const char *id)
{
	size_t i;

	for (i = 0; i < things->n; i++)
		if (!strcmp(things->thing[i].id, id))
			return &things->thing[i];
	return NULL;
}

void size_text(uint64_t bytes, char ret[16])
{
	static const char units[] = "BKMGTP";
	double n = (double)bytes;
	unsigned i;

	for (i = 0; n >= 1024 && units[i + 1]; i++)
		n /= 1024;
	snprintf(ret, 16, n < 10 && i && n != (double)(unsigned)n ? "%.1f%c" : "%.0f%c", n, units[i]);
}
