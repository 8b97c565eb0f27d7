/* SPDX-License-Identifier: MIT */
/* object.c - what the directories of the tree stand for */
#include "fs/tree/object.h"

#include <errno.h>

#include <stdio.h>

#include "fs/fs.h"
#include "fs/tree/tree.h"
#include "util/loop.h"

enum { INO_SHIFT = 16 }; /* room for the hash of a file's name */

uint64_t object_inos(struct fs *fs, unsigned ranges)
{
	const uint64_t first = fs->objects + 1;

	fs->objects += ranges;
	return first << INO_SHIFT;
}

void object_init(struct object *obj, enum object_kind kind, struct fs *fs, const char *name,
		 const struct owner *owner, void (*free)(struct object *obj))
{
	obj->kind = kind;
	obj->fs = fs;
	obj->refs = 1;
	snprintf(obj->name, sizeof(obj->name), "%s", name);
	obj->owner = *owner;
	obj->ino = object_inos(fs, 1);
	obj->ctime_ns = now_real_ns();
	list_init(&obj->siblings);
	list_init(&obj->nodes);
	list_init(&obj->files);
	list_init(&obj->forks);
	obj->log = obj;
	obj->free = free;
}

struct object *object_ref(struct object *obj)
{
	obj->refs++;
	return obj;
}

void object_unref(struct object *obj)
{
	if (!obj || --obj->refs)
		return;
	buf_release(&obj->error);
	obj->free(obj);
}

void object_enter(struct index *names, struct object *obj)
{
	obj->names = names;
	index_add(names, &obj->by_name, obj->name);
}

void object_leave(struct object *obj)
{
	if (obj->names)
		index_remove(obj->names, &obj->by_name);
	obj->names = NULL;
}

struct object *object_named(const struct index *names, const char *name)
{
	struct index_node *node = index_find(names, name);

	return node ? container_of(node, struct object, by_name) : NULL;
}

void object_changed(struct object *obj)
{
	obj->version++;
	if (!list_empty(&obj->files))
		files_wake(&obj->files);
}

void object_remove(struct object *obj)
{
	obj->gone = true;
	obj->log = obj;
	object_changed(obj);
}

void object_report(struct object *obj, const struct err *err)
{
	buf_clear(&obj->log->error);
	if (err->code)
		buf_printf(&obj->log->error, "%s\n", err->text);
}

void object_report_lines(struct object *obj, const struct buf *lines)
{
	buf_clear(&obj->log->error);
	buf_add(&obj->log->error, buf_bytes(lines), lines->len);
}

int object_gone_errno(const struct object *obj, int otherwise)
{
	/* On ESTALE the kernel walks the path once more and believes no name it has cached (path_openat). */
	return obj->stale ? ESTALE : otherwise;
}

int object_error(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_add(text, buf_bytes(&obj->error), obj->error.len);
	return 0;
}
