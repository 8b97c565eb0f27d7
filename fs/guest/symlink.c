/* SPDX-License-Identifier: MIT */
/*
 * symlink.c - targets of a guest's symbolic links, as the host may see them
 *
 * The host's kernel follows links, and an absolute one, or enough "..", would lead it from the guest's tree
 * into the host's. It takes a ".." from where the directory is at that moment, and a guest decides when that
 * is, by holding back an answer in the middle of the walk, while a directory is renamed to a place higher up.
 * A directory that is not the root never is less than one below it, though. So a target is returned as it is
 * if it is relative and has no ".." but one at its beginning, in a link that is not in the root. Every other
 * one is made into a normal path within the guest's root, and that into one of the same kind, or else into an
 * absolute path through the mount. A ".." after a name is taken back lexically: the name may be a link
 * itself, but wherever it leads is inside as well.
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
	size_t len, n;

	if (*target == '/')
		return false;
	for (n = 0; component(&target, &name, &len); n++)
		if (is_up(name, len) && (n || !depth))
			return false;
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

int symlink_rewrite(const char *root, const char *dir, const char *target, char *ret, size_t size)
{
	const size_t depth = depth_of(dir);
	char path[PATH_MAX] = "";
	int n, rc = 0;

	if (is_plain(target, depth))
		return (size_t)snprintf(ret, size, "%s", target) < size ? 0 : -ENAMETOOLONG;
	if (*target != '/')
		rc = walk(path, sizeof(path), dir);
	if (!rc)
		rc = walk(path, sizeof(path), target);
	if (rc)
		return rc;
	/* path begins with a slash, or is empty: the root */
	if (depth > 1)
		n = snprintf(ret, size, "%s%s", root, path);
	else if (depth)
		n = snprintf(ret, size, "..%s", path);
	else
		n = snprintf(ret, size, "%s", *path ? path + 1 : ".");
	return (size_t)n < size ? 0 : -ENAMETOOLONG;
}

/* Skip one component; false: there is none. */
static bool skip(const char **p)
{
	const char *name;
	size_t len;

	return component(p, &name, &len);
}

static bool skip_word(const char **p, const char *word)
{
	const char *name, *at = *p;
	size_t len;

	if (!component(&at, &name, &len) || len != strlen(word) || memcmp(name, word, len) != 0)
		return false;
	*p = at;
	return true;
}

const char *symlink_written(const char *mountpoint, const char *target)
{
	const size_t n = strlen(mountpoint);
	const char *p = target + n;

	if (strncmp(target, mountpoint, n) != 0 || *p != '/')
		return target;
	/* VM/fs, VM/snapshots/N/fs or snapshots/NAME/fs */
	if (skip_word(&p, "snapshots")) {
		if (!skip(&p))
			return target;
	} else if (!skip(&p) || (skip_word(&p, "snapshots") && !skip(&p))) {
		return target;
	}
	if (!skip_word(&p, "fs"))
		return target;
	return *p ? p : "/";
}
