/* SPDX-License-Identifier: MIT */
/*
 * object.h - what the directories of the tree stand for: the root, images, sandboxes, snapshots and jobs
 *
 * Every such thing embeds a struct object. It is counted, since a file may be open in a directory that was
 * removed: the object is then `gone`, stays in memory until the last reference goes, and answers ENODEV.
 * Single-threaded, as all of fs/.
 */
#ifndef SBX_FS_TREE_OBJECT_H
#define SBX_FS_TREE_OBJECT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "snap/store.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/index.h"
#include "util/list.h"

struct fs;

enum object_kind {
	OBJECT_ROOT,
	OBJECT_IMAGE,
	OBJECT_SANDBOX,
	OBJECT_SNAPSHOT,
	OBJECT_ARCHIVE,
	OBJECT_JOB,
	OBJECT_PORT
};

struct object {
	enum object_kind kind;
	struct fs *fs;
	unsigned refs;
	bool gone;
	bool stale; /* gone, and not by an rmdir: the kernel has to look cached names up again */
	char name[STORE_NAME_MAX + 1];
	struct owner owner;  /* who made it; its files belong to them */
	uint64_t ino;        /* its files' inode numbers are this plus a hash of their names */
	uint64_t ctime_ns;   /* since 1970 */
	struct index *names; /* it is found there by its name; NULL: nowhere */
	struct index_node by_name;
	struct list siblings; /* in fs->images, fs->snapshots or a sandbox's snapshots */
	struct list nodes;    /* struct tree_node: what the kernel knows of it */
	struct list files;    /* struct file: who polls its value */
	/* counts changes of its value: a sandbox's state, a job's status, a snapshot's info */
	uint64_t version;
	struct list
		forks; /* struct sandbox, by fork_link: what was forked of a sandbox or snapshot, and lives */
	const char *to_root; /* from the links in its forks/ to the root: "../../" */
	struct buf error;    /* its file `error` */
	struct object *log;  /* whose `error` takes its failures: its own, or its snapshot's for an archive.
				Borrowed: holds as long as the object is not gone */
	void (*free)(struct object *obj);
	/* Its owner in the tree ends, and it with it; NULL: it is no part of another object. */
	void (*drop)(struct object *obj);
};

/* One reference. */
void object_init(struct object *obj, enum object_kind kind, struct fs *fs, const char *name,
		 const struct owner *owner, void (*free)(struct object *obj));
/* The first of `ranges` times 65536 inode numbers that nobody else has. */
uint64_t object_inos(struct fs *fs, unsigned ranges);
struct object *object_ref(struct object *obj);
void object_unref(struct object *obj); /* NULL is allowed */

/* From now on it is found there by the name that it has, which does not change before it leaves. */
void object_enter(struct index *names, struct object *obj);
/* Nothing happens to one that is found nowhere. */
void object_leave(struct object *obj);
/* NULL: there is none of that name. */
struct object *object_named(const struct index *names, const char *name);

/* Its value changed: wake who polls. */
void object_changed(struct object *obj);
/* From now on its open files answer ENODEV; pollers wake. Drops no reference. */
void object_remove(struct object *obj);
/* The errno of asking for a name below it, or of opening a file of it, once it is gone. */
int object_gone_errno(const struct object *obj, int otherwise);
/* The outcome of a command given to it: the sentence, or nothing, for the file `error`. */
void object_report(struct object *obj, const struct err *err);
/* The same with several sentences, each with its newline. */
void object_report_lines(struct object *obj, const struct buf *lines);
/* And what that file shows (struct entry). */
int object_error(struct object *obj, struct buf *text, struct err *err);

#endif
