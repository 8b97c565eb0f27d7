/* SPDX-License-Identifier: MIT */
/* readme.c - the file README, generated from the tables the tree is served from */
#include "fs/tree/readme.h"

#include <stdio.h>
#include <sys/stat.h>

#include "fs/tree/tree.h"

enum { PATH_MAX_LEN = 256, COLUMN = 34 };

static void put_verbs(struct buf *text, const struct verb *verbs)
{
	char usage[80];

	for (; verbs->name; verbs++) {
		snprintf(usage, sizeof(usage), "%s %s", verbs->name, verbs->args);
		buf_printf(text, "    %-*s  %s\n", COLUMN - 4, usage, verbs->help);
	}
}

static void put_dir(struct buf *text, const char *path, const struct dir_ops *dir);

static void put_entry(struct buf *text, const char *dir, const struct entry *entry)
{
	char path[PATH_MAX_LEN];
	const char *slash = S_ISDIR(entry->mode) ? "/" : "";

	snprintf(path, sizeof(path), "%s%s%s", dir, entry->name, slash);
	buf_printf(text, "%-*s  %s\n", COLUMN, path, entry->help);
	if (entry->verbs)
		put_verbs(text, entry->verbs);
	if (entry->dir)
		put_dir(text, path, entry->dir);
}

static void put_dir(struct buf *text, const char *path, const struct dir_ops *dir)
{
	const struct entry *entry;

	for (entry = dir->entries; entry && entry->name; entry++)
		put_entry(text, path, entry);
	if (dir->child)
		put_entry(text, path, dir->child);
}

void readme(struct buf *text)
{
	buf_printf(
		text,
		"sbxfs: every directory here is a microVM sandbox, every snapshot is a directory.\n"
		"\n"
		"  mkdir vm1; echo start > vm1/ctl                a sandbox, and its machine runs\n"
		"  exec 3<>vm1/run; echo uname -a >&3; cat <&3    a command in it\n"
		"  echo snapshot > vm1/ctl                        all of it, captured; resume lets it go on\n"
		"  mkdir vm1/snapshots/1/forks/w1                 a running copy, the sandbox w1\n"
		"  mv vm1/snapshots/1 snapshots/base              kept in the store\n"
		"\n");
	put_dir(text, "", root_entry.dir);
}
