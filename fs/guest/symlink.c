/* SPDX-License-Identifier: MIT */
/*
 * symlink.c - targets of a guest's symbolic links, as the host may see them
 *
 * The host's kernel follows links, and an absolute one, or enough "..", would lead it from the guest's tree
 * into the host's. A relative target that stays inside by its leading ".." alone is returned as it is; every
 * other one is made into a normal path within the guest's root, and that into one relative to the link's
 * directory. A ".." after a name is taken back lexically: the name may be a link itself, but wherever it
 * leads is inside as well.
 */
#include "fs/guest/symlink.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Cut the first component off *p; false: there is none. Empty ones and "." are skipped. */
static bool component(const char **p, const char **ret, size_t *ret_len)
{
	do {
		while (**p == '/')
			(*p)++;
		*ret = *p;
		*ret_len = strcspn(*p, "/");
		*p += *ret_len;
	} while (*ret_len == 1 && **ret == '.');
	return *ret_len;
}

static bool is_up(const char *name, size_t len)
{
	return len == 2 && !memcmp(name, "..", 2);
}

static size_t depth_of(const char *path)
{
	const char *name;
	size_t len, n = 0;

	while (component(&path, &name, &len))
		n++;
	return n;
}

/* Does it stay inside as it is? */
static bool is_plain(const char *target, size_t depth)
{
	const char *name;
	size_t len, up = 0;
	bool down = false;

	if (*target == '/')
		return false;
	while (component(&target, &name, &len)) {
		if (!is_up(name, len))
			down = true;
		else if (down || ++up > depth)
			return false;
	}
	return true;
}

/* Apply a path's components to the normal path `at` ("" is the root); ".." stops at the root. */
static int walk(char *at, size_t size, const char *path)
{
	const char *name;
	size_t len, n = strlen(at);

	while (component(&path, &name, &len)) {
		if (is_up(name, len)) {
			while (n && at[--n] != '/')
				;
		} else {
			if (n + 1 + len >= size)
				return -ENAMETOOLONG;
			at[n++] = '/';
			memcpy(at + n, name, len);
			n += len;
		}
		at[n] = 0;
	}
	return 0;
}

int symlink_rewrite(const char *dir, const char *target, char *ret, size_t size)
{
	const size_t depth = depth_of(dir);
	char path[PATH_MAX] = "";
	size_t i, n = 0;
	int rc = 0;

	if (is_plain(target, depth))
		return (size_t)snprintf(ret, size, "%s", target) < size ? 0 : -ENAMETOOLONG;
	if (*target != '/')
		rc = walk(path, sizeof(path), dir);
	if (!rc)
		rc = walk(path, sizeof(path), target);
	if (rc || depth * 3 + strlen(path) + 2 > size)
		return -ENAMETOOLONG;
	for (i = 0; i < depth; i++, n += 3)
		memcpy(ret + n, "../", 3);
	/* path begins with a slash, or is empty: the root */
	if (*path)
		memcpy(ret + n, path + 1, strlen(path));
	else if (n)
		ret[n - 1] = 0;
	else
		memcpy(ret, ".", 2);
	return 0;
}
