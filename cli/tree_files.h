/* SPDX-License-Identifier: MIT */
/* tree_files.h - what the mounted files say of sandboxes and snapshots, for commands that show many of them */
#ifndef SBX_CLI_TREE_FILES_H
#define SBX_CLI_TREE_FILES_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One of them. A word that is not known is empty. */
struct thing {
	char id[160];     /* its path in the mount: VM, snapshots/NAME or VM/snapshots/N */
	char parent[160]; /* the same of what it is a copy of, or was taken of */
	char status[64];  /* a sandbox's state, a snapshot's status */
	char image[80];
	bool is_snapshot;
	uint64_t memory, cpus;
	uint64_t cpu_us, resident, private; /* of a sandbox's machine; only if asked for */
	/* Bytes in the store, of which `own` are nobody else's; but of a sandbox with a machine, what is stored for its
	 * disk, and of the machine's memory what others have, too, and what is its own. Of sandboxes if asked for. */
	uint64_t stored, shared, own;
};

struct things {
	char mount[PATH_MAX];
	struct thing *thing;
	size_t n, size;
};

enum { THINGS_SNAPSHOTS = 1, THINGS_STATS = 2 };

/* The first line of a file, without its newline; -1 with errno. */
int tree_line(const char *dir, const char *name, char *ret, size_t size);
/* Sandboxes of the mount, by name, and with THINGS_SNAPSHOTS those; what goes away meanwhile is left out. -1 after a
 * message. */
int things_read(struct things *ret, unsigned flags);
void things_release(struct things *things);
/* NULL: there is none. */
const struct thing *thing_find(const struct things *things, const char *id);
/* "1.5G" */
void size_text(uint64_t bytes, char ret[16]);

#endif
